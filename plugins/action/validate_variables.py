"""Action: refuse variables that nobody knows and values that cannot be right, before anything happens."""

from __future__ import annotations

import datetime
import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible import context
from ansible._internal._datatag._tags import Origin
from ansible.errors import AnsibleError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.option_rules import GONE, rule_fault, shown
from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.options import read_options
from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.request_base import ActionModule as RequestBase
from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.request_base import HostSettings

# How much a misspelt name resembles the right one, and how much one of its words does (difflib's ratio, from 0 to 1).
NEAR = 0.85
NEAR_WORD = 0.75

# Ansible makes these of a text too, but only for a module's arguments.
COLLECTIONS: dict[str, type] = {"list": list, "dict": dict}
# Other people's roles for the same hosts begin their variables so.
SHARED_BEGINNINGS = ("docker", "nvidia")


def words(name: str) -> list[str]:
    """Return the words of a name, however it is written."""
    return [word for word in re.split(r"[_\W]+", name.lower()) if word]


def abbreviates(name: list[str], option: list[str]) -> bool:
    """Return whether a name is an option's with a word left out, or with the first ones left out."""
    if not 2 <= len(name) < len(option):
        return False
    one_left_out = any(option[:at] + option[at + 1 :] == name for at in range(len(option) - 1))
    return option[-len(name) :] == name or (one_left_out and name[0] not in SHARED_BEGINNINGS)


def resembles(name: list[str], option: list[str]) -> bool:
    """Return whether a name begins as an option of the playbooks does, and has nearly another word of it."""
    if name[:1] != option[:1]:
        return False
    return any(difflib.get_close_matches(word, option[1:], n=1, cutoff=NEAR_WORD) for word in name[1:])


def meant(name: str, options: Mapping[str, Iterable[str]], addressed: bool) -> list[str] | None:
    """Return what a name is refused for: the options that may be meant, perhaps none; and None when it is not refused.

    A name of the inventory may belong to something else that is deployed there. One on the command line is addressed
    to this run, so an option's last two words, or the beginning of the playbooks' options, are enough for a doubt.
    """
    known = {option: words(option) for owner in options.values() for option in owner}
    plain, own = "_".join(words(name)), words(name)
    foreign = own[:1] and own[0] in SHARED_BEGINNINGS
    near = [
        option
        for option in difflib.get_close_matches(plain, known, n=1, cutoff=NEAR)
        if not (foreign and set(own) < set(known[option]))
    ]
    if near:
        return near
    shorter = sorted((option for option in known if abbreviates(own, known[option])), key=len)
    if addressed and len(own) > 1 and not shorter:
        shorter = sorted((option for option in known if known[option][-2:] == own[-2:]), key=len)
    if shorter:
        return shorter[:3]
    playbooks = [option for option in options.get("playbooks", []) if resembles(own, known[option])]
    prefixed = any(name.startswith(f"{owner}_") for owner in options)
    if playbooks or prefixed or (addressed and own[:1] == ["deploy"]):
        return difflib.get_close_matches(plain, playbooks or known, n=1)
    return None


def written(value: Any, extra_vars: Iterable[str] = ()) -> str | None:
    """Return the text that a value was read from: the rest of its line in a file, or what the command line has."""
    origin = Origin.get_tag(value)
    if origin is None:
        return None
    if not origin.path:
        # Where it begins there is not known.
        return " ".join(("", *extra_vars))
    try:
        line = Path(origin.path).read_text(encoding="utf-8").splitlines()[(origin.line_num or 1) - 1]
    except (OSError, ValueError, IndexError):
        return None
    return line[(origin.col_num or 1) - 1 :]


def spelling_fault(value: Any, text: str | None) -> str:
    """Return what YAML has made of a text that was not quoted, '' when it is what was written."""
    if isinstance(value, bool):
        return f"YAML reads this as {str(value).lower()}, not as text; write it in quotes"
    # A datetime is a date too.
    if isinstance(value, (float, datetime.date)):
        was = re.match(r"[\w.+:-]+", text or "")
        kind = "number" if isinstance(value, float) else "date"
        return f"YAML reads {was[0] if was else 'this'} as the {kind} {value}; write it in quotes"
    if isinstance(value, int) and text is not None and not re.search(rf"(?<![\w.+-]){value}(?![\w.:])", text):
        was = re.match(r"[\w.+:-]+", text)
        return f"YAML reads {was[0] if was else 'this'} as the number {value}; write it in quotes"
    return ""


def value_fault(name: str, spec: Mapping[str, Any], value: Any, text: str | None) -> str:
    """Return what is wrong with an option's value, '' when nothing is."""
    kind = spec.get("type", "str")
    if value is None:
        return "it is empty; leave the line out to have the default"
    fault = spelling_fault(value, text) if kind in ("str", "path") else ""
    if fault:
        return fault
    if (isinstance(value, bool) and kind in ("int", "float")) or not isinstance(value, COLLECTIONS.get(kind, object)):
        return f"{shown(value)} is not of type {kind}"
    checked = ArgumentSpecValidator({name: dict(spec)}).validate({name: value})
    unknown = sorted(set(value) - set(spec["options"])) if isinstance(value, dict) and "options" in spec else []
    if unknown:
        return f"it has no option {', '.join(unknown)}; its options are {', '.join(spec['options'])}"
    if checked.error_messages and kind in COLLECTIONS:
        # What is wrong inside, Ansible says best.
        return "; ".join(checked.error_messages)
    if checked.error_messages:
        choices = spec.get("choices")
        return f"{shown(value)} is not " + (f"one of {', '.join(map(str, choices))}" if choices else f"of type {kind}")
    right = checked.validated_parameters[name]
    return rule_fault(name, kind, value, right)


def place(value: Any, folder: Path) -> str:
    """Return where a value was written, as far as Ansible knows."""
    origin = Origin.get_tag(value)
    if origin is None or not origin.path:
        return ""
    path = Path(origin.path)
    shown = path.relative_to(folder) if path.is_relative_to(folder) else path
    return f"{shown}:{origin.line_num}" if origin.line_num else str(shown)


def refusal(faults: Mapping[str, str]) -> str:
    """One message that names every fault once; each fault comes with where it is."""
    count = "One variable is" if len(faults) == 1 else f"{len(faults)} variables are"
    lines = [f"  {fault}" + (f" ({where})" if where else "") for fault, where in faults.items()]
    return "\n".join(
        [
            f"{count} wrong, so nothing was started:",
            *lines,
            "Correct the inventory or the -e options. What can be set is in the roles' README files and in "
            "playbooks/meta/argument_specs.yml.",
        ]
    )


class ActionModule(RequestBase):
    """Compare what the user set for the hosts of this run with what roles and playbooks take."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Fail with everything that is wrong, or change nothing."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        self.validate_argument_spec({})
        task_vars = task_vars or {}
        options = read_options()
        hosts = self.hosts_of_run(task_vars, "inference_hosts", "load_balancers")
        found: dict[str, list[str]] = {}
        places: dict[str, str] = {}
        for host, settings in hosts.items():
            for fault, where in (*self._faults(settings, options), *self._of_an_import(options)):
                found.setdefault(fault, []).append(host)
                places.setdefault(fault, where)
        if found:
            about = {fault: [self.some_of(names, hosts), places[fault]] for fault, names in found.items()}
            faults = {fault: "; ".join(part for part in parts if part) for fault, parts in sorted(about.items())}
            return {**result, "failed": True, "msg": refusal(faults)}
        return {**result, "changed": False}

    def _faults(self, settings: HostSettings, options: Mapping[str, Mapping[str, Any]]) -> Iterable[tuple[str, str]]:
        """Return what is wrong with the variables of one host, each with where it was written."""
        specs = {name: spec for owner in options.values() for name, spec in owner.items()}
        on_command_line = self._task.get_variable_manager().extra_vars
        for name in sorted(settings.names):
            where = "-e" if name in on_command_line else place(settings.raw(name), Path.cwd())
            if name in specs:
                fault = self._value_fault(name, specs[name], settings)
                if fault:
                    yield f"{name}: {fault}", where
                continue
            if name in GONE:
                yield f"{name}: {GONE[name]}", where
                continue
            candidates = meant(name, options, name in on_command_line)
            if candidates is not None:
                hint = f"did you mean {' or '.join(candidates)}?" if candidates else "no role has it."
                yield f"{name}: {hint}", where

    def _of_an_import(self, options: Mapping[str, Mapping[str, Any]]) -> Iterable[tuple[str, str]]:
        """Return the options that somebody's import_playbook sets, which are no host's; each with where."""
        play = self._task.play
        own = play.get_path().rpartition(":")[0]
        for name, value in sorted(play.vars.items()):
            origin = Origin.get_tag(value)
            if origin and origin.path != own and any(name in owner for owner in options.values()):
                fault = (
                    f"{name}: vars of import_playbook do not reach the whole run; set it in the inventory or with -e"
                )
                yield fault, place(value, Path.cwd())

    @staticmethod
    def _value_fault(name: str, spec: Mapping[str, Any], settings: HostSettings) -> str:
        try:
            value = settings.get(name)
        except AnsibleError as error:
            # Facts are not known yet; the role looks at such a value when it is used.
            needs_facts = "ansible_facts" in str(settings.raw(name))
            return "" if needs_facts else f"it cannot be evaluated: {RequestBase.reason(error)}"
        return value_fault(name, spec, value, written(value, context.CLIARGS.get("extra_vars") or ()))

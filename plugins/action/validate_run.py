"""Action: refuse a run that would not do what its command line asks for, and ask about one that may be a slip."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible import constants, context
from ansible.cli.playbook import PlaybookCLI
from ansible.errors import AnsiblePromptInterrupt, AnsiblePromptNoninteractive
from ansible.playbook import Playbook
from ansible.utils.display import Display

from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.collection import ROOT
from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.options import default_of
from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.request_base import ActionModule as RequestBase

# What Ansible gives a meaning of its own.
SPECIAL_TAGS = frozenset({"all", "always", "never", "tagged", "untagged"})
DEMO = Path("inventory/local")
NAME = "inference_service_name"


def unknown_tags(asked: Iterable[str], known: Iterable[str]) -> str:
    """Return why these tags are refused, '' when the playbook has all of them."""
    there = sorted(set(known) - SPECIAL_TAGS)
    wrong = sorted(set(asked) - set(there) - SPECIAL_TAGS)
    if not wrong:
        return ""
    has = f"Its tags are {', '.join(there)}." if there else "It has no tags; run it without."
    return f"This playbook has no tag {' or '.join(wrong)}, so the run would not do what was asked for. {has}"


def mixed_inventories(sources: Iterable[str], checkout: Path, hosts: Sequence[str]) -> str:
    """Return why these inventories are refused together, '' when they are not."""
    demo = checkout / DEMO
    paths = [Path(source).resolve() for source in sources]
    if len(hosts) < 2 or not any(path == demo or demo in path.parents or path in demo.parents for path in paths):
        return ""
    return (
        f"{demo}, which is for this machine, was given together with other hosts: its variables, the demo model among "
        f"them, would apply to {', '.join(sorted(set(hosts) - {'localhost'})[:3])} too. "
        "Give only the inventory of your fleet."
    )


def no_hosts(groups: Mapping[str, Sequence[str]], hosts_of_run: Iterable[str], sources: Iterable[str]) -> str:
    """Return why an inventory is refused, '' when the run has hosts to work on."""
    ours = {*groups.get("inference_hosts", ()), *groups.get("load_balancers", ())}
    if groups.get("inference_hosts") and ours & set(hosts_of_run):
        return ""
    if groups.get("inference_hosts"):
        return f"None of {', '.join(hosts_of_run)} is in the groups inference_hosts or load_balancers. Correct --limit."
    there = ", ".join(sorted(set(groups) - {"all", "ungrouped"})) or "none"
    return (
        f"The inventory {' '.join(sources)} has no host in the group inference_hosts (its groups: {there}), so "
        "there is nothing to do. Give another with -i; inventory/fleet.example shows what one looks like."
    )


def inventory_was_named(arguments: Sequence[str]) -> bool:
    """Return whether somebody chose the inventory: with -i, or with the environment."""
    origin = constants.config.get_config_value_and_origin("DEFAULT_HOST_LIST")[1]
    if str(origin).startswith("env:"):
        return True
    cli = PlaybookCLI(list(arguments))
    cli.init_parser()
    try:
        return cli.parser.parse_args(list(arguments[1:])).inventory is not None
    except SystemExit:
        # Another program that runs playbooks; it means what it does.
        return True


class ActionModule(RequestBase):
    """Look at the run's own command line, and at the groups that its inventory has."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Fail with the reason why this run is refused, or change nothing."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, options = self.validate_argument_spec({"confirm": {"type": "bool", "default": False}})
        task_vars = task_vars or {}
        sources = self._task.get_variable_manager()._inventory._sources or []
        hosts = task_vars["groups"].get("inference_hosts", [])
        reason = (
            no_hosts(task_vars["groups"], task_vars["ansible_play_hosts_all"], sources)
            or mixed_inventories(sources, ROOT, hosts)
            or self._tags_fault()
        )
        if not reason and options["confirm"] and not self._task.check_mode and not inventory_was_named(sys.argv):
            reason = self._confirmed(task_vars, sources)
        if reason:
            return {**result, "failed": True, "msg": f"{reason} Nothing was started."}
        settings = ROOT / "ansible.cfg"
        # An installed collection has none: its user has settings of his own.
        if settings.exists() and (not constants.CONFIG_FILE or Path(constants.CONFIG_FILE).resolve() != settings):
            Display().warning(
                f"{settings} is not in force, so this run has none of its settings (its output, faster "
                f"connections). Run it from {ROOT}, or with ANSIBLE_CONFIG={settings}."
            )
        return {**result, "changed": False}

    def _tags_fault(self) -> str:
        """Return why the tags of the command line are refused, '' when they are not."""
        # Tags to skip may be somebody else's: Molecule names its own in every run.
        asked = set(context.CLIARGS.get("tags", ())) - {"all"}
        if not asked:
            return ""
        manager = self._task.get_variable_manager()
        known: set[str] = set()
        for path in context.CLIARGS.get("args", ()):
            playbook = Playbook.load(path, variable_manager=manager, loader=self._loader)
            for play in playbook.get_plays():
                known |= set(play.tags) | {tag for block in play.compile() for tag in tags_below(block)}
        return unknown_tags(asked, known)

    def _confirmed(self, task_vars: dict[str, Any], sources: Iterable[str]) -> str:
        """Have somebody confirm what this run removes; return why it is refused, '' when it is not."""
        hosts = self.hosts_of_run(task_vars, "inference_hosts", "load_balancers")
        services = {host: settings.get(NAME, default_of(NAME)) for host, settings in hosts.items()}
        what = ", ".join(f"{service} on {host}" for host, service in services.items())
        where = f"the inventory {' '.join(sources)}, as none was given with -i"
        try:
            answer = Display().prompt_until(f"This removes {what} ({where}).\nType yes to go on: ")
        except AnsiblePromptNoninteractive:
            return f"This would remove {what} ({where}). To do that, run it again with -i and that inventory."
        except AnsiblePromptInterrupt:
            answer = b""
        return "" if answer.strip().lower() == b"yes" else "This was not confirmed with yes."


def tags_below(block: Any) -> set[str]:
    """Return the tags of all tasks in a block of a playbook."""
    found: set[str] = set()
    for item in (*block.block, *block.rescue, *block.always):
        found |= tags_below(item) if hasattr(item, "rescue") else set(item.tags)
    return found

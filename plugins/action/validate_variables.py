"""Action: refuse variables that no role knows, before anything happens."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from ansible import constants
from ansible.errors import AnsibleActionFail

if TYPE_CHECKING:

    class ActionBase:
        """What this action uses of Ansible's base class, which ships no types."""

        _task: Any

        def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
            """Prepare the result of a task."""

else:
    from ansible.plugins.action import ActionBase

# A misspelt name resembles the right one at least this much (difflib's ratio, between 0 and 1).
_NEAR = 0.85


def known_variables(roles_path: Path) -> dict[str, set[str]]:
    """Options of every role's main entry point, from its meta/argument_specs.yml."""
    known = {}
    for specs in sorted(roles_path.glob("*/meta/argument_specs.yml")):
        content = yaml.safe_load(specs.read_text(encoding="utf-8")) or {}
        entry = content.get("argument_specs", {}).get("main", {})
        known[specs.parent.parent.name] = set(entry.get("options") or {})
    return known


def wrong_variables(names: Iterable[str], roles: dict[str, set[str]], also_known: Iterable[str]) -> dict[str, str]:
    """Each name that is refused, with the nearest correct one (empty when none is near)."""
    valid = set().union(*roles.values(), also_known)
    wrong = {}
    for name in sorted(set(names) - valid):
        near = difflib.get_close_matches(name, sorted(valid), n=1, cutoff=_NEAR)
        if near or any(name.startswith(f"{role}_") for role in roles):
            wrong[name] = (near or difflib.get_close_matches(name, sorted(valid), n=1) or [""])[0]
    return wrong


def refusal(wrong: dict[str, str]) -> str:
    """One message that names every wrong variable once."""
    lines = [f"  {name}: " + (f"did you mean {near}?" if near else "no role has it.") for name, near in wrong.items()]
    count = "One variable is" if len(wrong) == 1 else f"{len(wrong)} variables are"
    return "\n".join(
        [
            f"{count} not known to any role, so nothing was started:",
            *lines,
            "Correct the inventory or the -e options; each role's README lists what can be set.",
        ]
    )


class ActionModule(ActionBase):
    """Compare what the user set for this host with what the roles take."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _VALID_ARGS = frozenset({"roles_path", "also_known"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Fail with every unknown variable, or change nothing."""
        result = super().run(tmp, task_vars)
        task_vars = task_vars or {}
        default = Path(task_vars.get("playbook_dir", ".")).parent / "roles"
        roles_path = Path(self._task.args.get("roles_path") or default)
        roles = known_variables(roles_path)
        if not roles:
            raise AnsibleActionFail(f"No role with meta/argument_specs.yml was found in {roles_path}; set roles_path.")
        wrong = wrong_variables(self._set_by_user(task_vars), roles, self._task.args.get("also_known") or [])
        if wrong:
            raise AnsibleActionFail(refusal(wrong))
        result["changed"] = False
        return result

    def _set_by_user(self, task_vars: dict[str, Any]) -> set[str]:
        """Names from inventory, group_vars, host_vars and the command line, facts and Ansible's own left out."""
        manager = self._task.get_variable_manager()
        host_name = task_vars["inventory_hostname"]
        # Without a play and a task no default or variable of a role, play or block takes part.
        names = set(manager.get_vars(host=manager._inventory.get_host(host_name), include_hostvars=False))
        names -= set(manager._vars_cache.get(host_name, {}))
        names -= set(manager._nonpersistent_fact_cache.get(host_name, {}))
        names |= set(manager.extra_vars)
        names -= constants.INTERNAL_STATIC_VARS
        return {name for name in names if not name.startswith(("ansible_", "__"))}

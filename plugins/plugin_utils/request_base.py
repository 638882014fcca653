"""Base of the actions that look, on the controller alone, at what was asked for before a host is changed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ansible import constants
from ansible.errors import AnsibleError
from ansible.template import trust_as_template

if TYPE_CHECKING:

    class ActionBase:
        """What these actions use of Ansible's base class, which ships no types."""

        _task: Any
        _templar: Any
        _loader: Any

        def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
            """Prepare the result of a task."""

        def validate_argument_spec(self, spec: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            """Check the arguments of a task."""

else:
    from ansible.plugins.action import ActionBase


class HostSettings:
    """What is set for one host: by the inventory, by files beside the playbooks, or with -e."""

    def __init__(self, action: ActionModule, host: str) -> None:
        manager = action._task.get_variable_manager()
        # Without a play and a task no default or variable of a role, play or block takes part.
        self._variables: dict[str, Any] = manager.get_vars(host=manager._inventory.get_host(host))
        self._templar = action._templar.copy_with_new_env(available_variables=self._variables)
        facts = {*manager._vars_cache.get(host, {}), *manager._nonpersistent_fact_cache.get(host, {})}
        names = (set(self._variables) - facts - constants.INTERNAL_STATIC_VARS) | set(manager.extra_vars)
        self.names = {name for name in names if not name.startswith(("ansible_", "__"))}

    def raw(self, name: str) -> Any:
        """Return the value as it was written, templates not evaluated."""
        return self._variables[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value of a variable; raise AnsibleError when it cannot be evaluated."""
        value = self._variables.get(name)
        if value is None:
            value = trust_as_template(default) if isinstance(default, str) else default
        return self._templar.template(value)


class ActionModule(ActionBase):
    """A base of other actions, and nothing by itself."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def hosts_of_run(self, task_vars: dict[str, Any], *groups: str) -> dict[str, HostSettings]:
        """Return what is set for each host of the groups that this run works on."""
        in_groups = {host for group in groups for host in task_vars["groups"].get(group, [])}
        return {host: HostSettings(self, host) for host in task_vars["ansible_play_hosts_all"] if host in in_groups}

    @staticmethod
    def some_of(hosts: Iterable[str], everybody: Iterable[str]) -> str:
        """Return whom of all hosts something is about, '' when it is all of them."""
        some = sorted(hosts)
        if set(some) == set(everybody):
            return ""
        return ", ".join(some[:3]) + (f" and {len(some) - 3} more" if len(some) > 3 else "")

    @staticmethod
    def reason(error: AnsibleError) -> str:
        """Return what went wrong, without where in Ansible."""
        return str(error).strip().partition("\n")[0].rstrip(".")

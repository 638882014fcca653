"""Action: the first word with a host; refuse one that a run could not finish, before anything is changed there."""

from __future__ import annotations

from typing import Any

from ansible import constants
from ansible.errors import AnsibleConnectionFailure, AnsibleError

from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.collection import COLLECTION
from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.host_script import ActionModule as HostScript

# Arguments: names of Python. Ends well when one of them is there and new enough for Ansible's modules.
FIND_PYTHON = """
for python; do
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null && exit
done
exit 4
"""
NO_PYTHON = 4

LOOK = f"{COLLECTION}.host_look"


def interpreters(chosen: str) -> list[str]:
    """Return the names by which a host's Python is looked for; Ansible looks for the same."""
    if chosen and not chosen.startswith("auto"):
        return [chosen]
    return [str(name) for name in constants.config.get_config_value("INTERPRETER_PYTHON_FALLBACK")]


def no_python(host: str, names: list[str]) -> str:
    """Say that there is no Python, and what to do."""
    if len(names) == 1:
        return f"{host} has no Python 3.8 or newer at {names[0]}; correct ansible_python_interpreter."
    return (
        f"{host} has no Python 3.8 or newer, which Ansible needs there. Install it on the host: "
        "`apt-get install python3` or `dnf install python3`."
    )


class ActionModule(HostScript):
    """Runs host_look, and says what is in the way of running anything on the host."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Fail with what is in the way and what to do, or change nothing."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        wanted = dict(self._task.args)
        names = interpreters(str(wanted.pop("python", "auto")))
        host = str((task_vars or {}).get("inventory_hostname", "the host"))
        try:
            try:
                looked = self._execute_module(module_name=LOOK, module_args=wanted, task_vars=task_vars)
            except AnsibleConnectionFailure:
                raise
            except AnsibleError as error:
                looked = {"msg": str(error)}
            if "refused" in looked:
                problems = [f"{host}: {problem}" for problem in looked["refused"]]
            else:
                problems = [self._obstacle(host, names, looked)]
        except AnsibleConnectionFailure as error:
            words = " ".join(str(error).split()).rstrip(".")
            hint = f"Nothing was changed. Bring it back, or leave it out with --limit '!{host}'."
            return {**result, "unreachable": True, "msg": f"{host} cannot be reached: {words}. {hint}"}
        # Which Python it is needs not be found out again.
        result["ansible_facts"] = looked.get("ansible_facts", {})
        if problems:
            words = " ".join([*problems, "Nothing was changed."])
            return {**result, "failed": True, "msg": words, "examined": "refused" in looked}
        return {**result, "changed": False}

    def _obstacle(self, host: str, names: list[str], looked: dict[str, Any]) -> str:
        """Return why a module does not run there, with what to do."""
        answer = self.run_script(FIND_PYTHON, names)
        if answer.code == NO_PYTHON:
            return no_python(host, names)
        if answer.code != 0:
            return answer.failure(f"{host} could not be looked at")
        effect = f"{host} could not be looked at"
        if "module_stderr" in looked:
            return self.said_instead(looked).failure(effect)
        return f"{effect}: {str(looked.get('msg', 'no reason was given')).strip().rstrip('.')}."

#!/usr/bin/python
"""Ansible module: take or give back the lock of a host. The action of the same name says who asks."""

from __future__ import annotations

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.run_lock import release, take

DOCUMENTATION = r"""
module: release_lock
short_description: Let one run at a time change a service on a host
description:
  - Writes C(deploy.lock) in the state directory with owner, process and time. The action of this name says who asks,
    and takes over from a run whose process is provably gone. Does nothing in check mode.
options:
  state_dir: {description: The service's state directory, type: path, required: true}
  state: {description: Take the lock or give it back, type: str, choices: [taken, released], default: taken}
  break_lock: {description: Take it whoever holds it, type: bool, default: false}
  owner: {description: Who asks. Filled in by the action., type: dict}
  replace: {description: The run that may be replaced. Filled in by the action., type: str, default: ''}
author: [The maintainers]
"""

EXAMPLES = r"""
- name: Take the lock
  release_lock:
    state_dir: /var/lib/cat-breeds-api
"""

RETURN = r"""
holder: {description: Who holds the lock instead, returned: success, type: dict}
"""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state_dir": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["taken", "released"], "default": "taken"},
            "break_lock": {"type": "bool", "default": False},
            "owner": {"type": "dict", "required": True},
            "replace": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    params = module.params
    folder, holder = Path(params["state_dir"]), {}
    try:
        if module.check_mode:
            pass
        elif params["state"] == "taken":
            holder = take(folder, params["owner"], params["replace"], params["break_lock"])
        else:
            release(folder, params["owner"]["run"])
    except OSError as error:
        module.fail_json(
            msg=f"The lock in {folder} cannot be written: {error}. Free space or mend the permissions there."
        )
    # The lock is gone when the run ends: it is no change of the host.
    module.exit_json(changed=False, holder=holder)


if __name__ == "__main__":
    main()

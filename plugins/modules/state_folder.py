#!/usr/bin/python
"""Ansible module: say whose a state folder is, or remove what the service keeps in it."""

from __future__ import annotations

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpu_hosts.timm.plugins.module_utils.state_folder import (
    NotOursError,
    find_closed,
    find_parts,
    find_strange,
    is_marked,
    mark,
    remove,
)

DOCUMENTATION = r"""
module: state_folder
short_description: Mark the folder of a service's state, or remove what it holds
description:
  - V(purged) removes releases, bundles, records and the gateway's files by their names, and only from a folder that
    V(marked) has made known as this service's. Whatever else lies there stays.
  - V(marked) also puts aside a file that lies where one of those folders belongs, and lets everybody read the bundles
    and derived models.
options:
  state_dir: {description: The service's state directory, type: path, required: true}
  name: {description: Name of the service, type: str, required: true}
  state: {description: What to do, type: str, choices: [marked, purged], required: true}
author: [The maintainers]
"""

EXAMPLES = r"""
- name: Remove everything of the service
  state_folder:
    state_dir: /var/lib/timm-classifier
    name: timm-classifier
    state: purged
"""

RETURN = r"""
removed: {description: The paths that were removed, returned: with V(purged), type: list, elements: str}
"""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state_dir": {"type": "path", "required": True},
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["marked", "purged"], "required": True},
        },
        supports_check_mode=True,
    )
    state_dir, name = Path(module.params["state_dir"]), module.params["name"]
    try:
        if module.params["state"] == "marked":
            wrong = bool(find_strange(state_dir) or find_closed(state_dir)) or not is_marked(state_dir, name)
            module.exit_json(changed=wrong if module.check_mode else mark(state_dir, name))
        found = find_parts(state_dir, name)
        for path in found if not module.check_mode else []:
            remove(path)
    except NotOursError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{state_dir} cannot be changed: {error}. Fix that, then run again.")
    module.exit_json(changed=bool(found), removed=[str(path) for path in found])


if __name__ == "__main__":
    main()

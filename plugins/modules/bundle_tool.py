#!/usr/bin/python
"""Ansible module: run `python -m app.bundle` in the service's image."""

from __future__ import annotations

import json
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpu_hosts.timm.plugins.module_utils.docker_host import TOOL_OPTIONS

DOCUMENTATION = r"""
module: bundle_tool
short_description: Make or check a bundle in the service's image
description:
  - The container reads and writes the folders that it is given, and gets no network and no capability beside.
  - A bundle that cannot be made or loaded is an answer, no failure of the module.
options:
  image: {description: Name or id of the service's image, type: str, required: true}
  arguments:
    description: The command line after C(python -m app.bundle), V(create) or V(verify) first.
    type: list
    elements: str
    required: true
  volumes:
    description: Folders of the host, as C(HOST:CONTAINER) or C(HOST:CONTAINER:ro).
    type: list
    elements: str
    required: true
  network: {description: Let it reach others; timm's own weights come from a hub, type: bool, default: false}
author: [The maintainers]
"""

EXAMPLES = r"""
- name: Let the service's image load a bundle
  bundle_tool:
    image: example:cpu
    arguments: [verify, /bundle]
    volumes: [/srv/bundles/demo/1:/bundle:ro]
"""

RETURN = r"""
ok: {description: Whether it did what was asked, returned: success, type: bool}
reason: {description: Why not, in its own words, returned: success, type: str}
notes: {description: What it understood and warns of, returned: success, type: list, elements: str}
"""

# Without a line that says so itself, the last ones of what it wrote are the reason.
SHOWN_LINES = 3


def command_line(image: str, arguments: list[str], volumes: list[str], network: bool) -> list[str]:
    """Return the command that runs the tool in a container."""
    mounts = [f"--volume={volume}" for volume in volumes]
    reach = f"--network={'bridge' if network else 'none'}"
    return ["docker", "run", *TOOL_OPTIONS, reach, *mounts, image, "python", "-m", "app.bundle", *arguments]


def reason_of(errors: str) -> str:
    """Return why it failed, from what it wrote."""
    lines = errors.strip().splitlines()
    return " ".join([line for line in lines if line.startswith("error")] or lines[-SHOWN_LINES:])


def notes_of(output: str) -> list[str]:
    """Return the notes of its answer, which is the last line."""
    try:
        answer: Any = json.loads(output.strip().splitlines()[-1])
        return [str(note) for note in answer.get("notes", [])]
    except (AttributeError, IndexError, ValueError):
        return []


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "image": {"type": "str", "required": True},
            "arguments": {"type": "list", "elements": "str", "required": True},
            "volumes": {"type": "list", "elements": "str", "required": True},
            "network": {"type": "bool", "default": False},
        },
        supports_check_mode=False,
    )
    options = module.params
    code, output, errors = module.run_command(
        command_line(options["image"], options["arguments"], options["volumes"], options["network"])
    )
    module.exit_json(
        changed=options["arguments"][:1] == ["create"],
        ok=code == 0,
        reason=reason_of(errors) if code else "",
        notes=notes_of(output) if code == 0 else [],
    )


if __name__ == "__main__":
    main()

#!/usr/bin/python
"""Ansible module: compare the gateway on a host with the wanted one."""

from __future__ import annotations

from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.docker_host import DockerError
from ansible.module_utils.gateway_state import WANTED_OPTIONS, compare_gateway, read_containers

DOCUMENTATION = r"""
module: gateway_facts
short_description: Say how the gateway on a host differs from the wanted one
description:
  - Compares folders, files and containers in one step, so that a gateway in order costs one task. Changes nothing.
  - Whether a container is outdated is judged as Compose itself does, by the digest of its service's configuration.
options:
  wanted:
    description: The gateway as it is to be.
    type: dict
    required: true
    suboptions:
      name: {description: Name of the service, type: str, required: true}
      state_dir: {description: The gateway's directory on the host, type: path, required: true}
      image: {description: The wanted image's id, type: str, required: true}
      upgrade: {description: Whether to replace a gateway that runs from another image, type: bool, default: false}
      folders: {description: Folders below the directory and their owners' numbers, type: dict, required: true}
      files:
        description: Files below the directory and their contents; an image that is kept takes its place in them.
        type: dict
        required: true
author: [The maintainers]
"""

EXAMPLES = r"""
- name: Compare the gateway
  gateway_facts:
    wanted:
      name: cat-breeds-api
      state_dir: /var/lib/cat-breeds-api/gateway
      image: sha256:0123
      folders: {conf: 0}
      files: {docker-compose.yml: "services: {}"}
"""

RETURN = r"""
differences: {description: What is not as wanted, a sentence each, returned: success, type: list, elements: str}
image: {description: The image that the gateway is to run from, returned: success, type: str}
running: {description: Whether the gateway runs, returned: success, type: bool}
"""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={"wanted": {"type": "dict", "required": True, "options": WANTED_OPTIONS}},
        supports_check_mode=True,
    )
    wanted = module.params["wanted"]
    try:
        containers = read_containers(f"{wanted['name']}-gateway")
    except DockerError as error:
        if not module.check_mode:
            module.fail_json(msg=f"The gateway's containers cannot be read: {error}. Is Docker running?")
        # A first run in check mode: the engine itself would only be installed now.
        containers = []
    module.exit_json(changed=False, **asdict(compare_gateway(wanted, containers)))


if __name__ == "__main__":
    main()

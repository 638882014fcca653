#!/usr/bin/python
"""Ansible module: compare the gateway on a host with the wanted one."""

from __future__ import annotations

import json
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.docker_host import DockerError, run_docker
from ansible.module_utils.gateway_state import (
    Container,
    compare_containers,
    compare_files,
    compare_folders,
    parse_config_hashes,
    parse_container,
)

DOCUMENTATION = r"""
module: gateway_facts
short_description: Say how the gateway on a host differs from the wanted one
description:
  - Compares folders, files and containers in one step, so that a gateway in order costs one task. Changes nothing.
  - Whether a container is outdated is judged as Compose itself does, by the digest of its service's configuration.
options:
  name: {description: Name of the service, type: str, required: true}
  state_dir: {description: The gateway's directory on the host, type: path, required: true}
  image: {description: The wanted image's id, type: str, required: true}
  upgrade: {description: Whether a gateway that runs from another image is to be replaced, type: bool, default: false}
  folders: {description: Folders below O(state_dir) and their owners' numbers, type: dict, required: true}
  files:
    description: Files below O(state_dir) and their contents; an image that is kept takes the place of O(image) in them.
    type: dict
    required: true
author: [The maintainers]
"""

EXAMPLES = r"""
- name: Compare the gateway
  gateway_facts:
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


def read_containers(project: str) -> list[Container]:
    """Return the containers of the Compose project, stopped ones included."""
    listed = run_docker(["ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={project}"]).split()
    inspected = json.loads(run_docker(["inspect", "--type", "container", *listed])) if listed else []
    return [parse_container(item) for item in inspected]


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state_dir": {"type": "path", "required": True},
            "image": {"type": "str", "required": True},
            "upgrade": {"type": "bool", "default": False},
            "folders": {"type": "dict", "required": True},
            "files": {"type": "dict", "required": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    state_dir, wanted_image, project = params["state_dir"], params["image"], f"{params['name']}-gateway"
    try:
        containers = read_containers(project)
    except DockerError as error:
        if not module.check_mode:
            module.fail_json(msg=f"The gateway's containers cannot be read: {error}. Is Docker running?")
        # A first run in check mode: the engine itself would only be installed now.
        containers = []
    gateway = next((container for container in containers if container.service == "gateway"), None)
    image = gateway.image_id if gateway and not params["upgrade"] else wanted_image
    contents = params["files"].items()
    files = {
        str(Path(state_dir, name)): content.replace(wanted_image, image) if wanted_image else content
        for name, content in contents
    }
    differences = compare_folders({str(Path(state_dir, name)): int(owner) for name, owner in params["folders"].items()})
    try:
        differences += compare_files(files)
        # Compose reads the file itself, so its digests say something only when the file is the wanted one.
        if not differences:
            command = ["compose", "--project-name", project, "--project-directory", state_dir, "config", "--hash", "*"]
            differences = compare_containers(containers, parse_config_hashes(run_docker(command)))
    except (DockerError, OSError) as error:
        differences.append(f"the gateway cannot be compared: {error}")
    module.exit_json(
        changed=False,
        differences=differences,
        image=image,
        running=bool(gateway and gateway.running),
    )


if __name__ == "__main__":
    main()

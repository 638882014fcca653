#!/usr/bin/python
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Ansible module: whether a service and what it needs will fit on a host."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpu_hosts.timm.plugins.module_utils.docker_host import DockerError, run_docker
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.engine import image_root, parse_info
from ansible_collections.gpu_hosts.timm.plugins.module_utils.host_address import refusal

# What Compose and the keeper use, whatever the environment says.
ENGINE_SOCKET = Path("/var/run/docker.sock")

DOCUMENTATION = r"""
---
module: host_look
short_description: See whether a service and what it needs will fit on a host
description:
  - Looks at the address and port that will be listened on, and at the room on its disks. Needs no engine, and
    changes nothing.
  - The action M(host_ready) runs it as the first word with a host.
options:
  name:
    description: Name of the service, whose own containers are in nobody's way.
    type: str
    required: true
  state_dir:
    description: Folder of the gateway's state.
    type: path
    required: true
  address:
    description: IP address of the host that will be listened on.
    type: str
    required: true
  port:
    description: The port there.
    type: int
    required: true
  settings:
    description: What the names of the variables begin with that a message names.
    type: str
    choices: [inference_service, gateway]
    required: true
  rooms:
    description:
      - What will be needed, each with C(path) and C(bytes); not, where there is the file C(unless), or an image of the
        name C(unless_image). V(docker) as a path stands for Docker's storage.
    type: list
    elements: dict
    default: []
author:
  - Inference platform maintainers
"""

EXAMPLES = r"""
- name: Look at the host
  host_look:
    name: timm-classifier
    state_dir: /var/lib/timm-classifier/gateway
    address: 0.0.0.0
    port: 8000
    settings: inference_service
    rooms:
      - path: /var/lib/timm-classifier
        bytes: 100000000
        unless: /var/lib/timm-classifier/bundles/cats/1/bundle.json
"""

RETURN = r"""
refused:
  description: Why this cannot be, each with what to do; empty when it can.
  returned: always
  type: list
  elements: str
"""


def engine_storage() -> str:
    """Return where Docker keeps its images, or, where it does not answer, its data as far as its settings say."""
    with contextlib.suppress(DockerError):
        known = parse_info(run_docker(["info", "--format", "{{json .}}"]))
        if known["data_root"]:
            return image_root(Path("/"), known)
    try:
        settings = json.loads(Path("/etc/docker/daemon.json").read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        settings = {}
    return str(settings.get("data-root") or "/var/lib/docker") if isinstance(settings, dict) else "/var/lib/docker"


def has_image(name: str) -> bool:
    """Return whether Docker has an image of the name; one that is not there has none."""
    try:
        return bool(run_docker(["image", "ls", "--quiet", name]).strip())
    except DockerError:
        return False


def other_engine() -> str:
    """Say which engine the docker command speaks to; '' when it is the host's own, or there is no such command."""
    try:
        endpoint = run_docker(["context", "inspect", "--format", "{{.Endpoints.docker.Host}}"]).strip()
    except DockerError:
        return ""
    if Path(endpoint.removeprefix("unix://")).resolve() == ENGINE_SOCKET.resolve():
        return ""
    return (
        f"docker on this host talks to {endpoint or 'nobody'} instead of the host's own Docker at {ENGINE_SOCKET}. "
        "Unset DOCKER_HOST and DOCKER_CONTEXT in the environment that the run has there, and run "
        "`docker context use default`."
    )


def lacking(room: dict[str, Any]) -> str:
    """Return where there is too little room; '' when there is enough, or none is needed."""
    folder, needed = Path(engine_storage() if room["path"] == "docker" else room["path"]), int(room["bytes"])
    while not folder.is_dir():
        folder = folder.parent
    system = os.statvfs(folder)
    free = system.f_bavail * system.f_frsize
    if free >= needed or ("unless" in room and Path(room["unless"]).exists()):
        return ""
    if "unless_image" in room and has_image(room["unless_image"]):
        return ""
    return (
        f"Only {free / 10**6:,.0f} MB are free in {folder}, and {needed / 10**6:,.0f} MB will be needed. "
        "Free space there (`df -h`)."
    )


def main() -> None:
    """Look, answer."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state_dir": {"type": "path", "required": True},
            "address": {"type": "str", "required": True},
            "port": {"type": "int", "required": True},
            "settings": {"type": "str", "choices": ["inference_service", "gateway"], "required": True},
            "rooms": {"type": "list", "elements": "dict", "default": []},
        },
        supports_check_mode=True,
    )
    wanted, elsewhere = module.params, other_engine()
    if elsewhere:
        # What else could be said would be about that engine.
        module.exit_json(changed=False, refused=[elsewhere])
    address = refusal(wanted["name"], wanted["state_dir"], wanted["address"], wanted["port"], wanted["settings"])
    module.exit_json(changed=False, refused=[found for found in [address, *map(lacking, wanted["rooms"])] if found])


if __name__ == "__main__":
    main()

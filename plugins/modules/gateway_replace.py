#!/usr/bin/python
"""Ansible module: bring the gateway on a host to the wanted one, or leave it as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpu_hosts.timm.plugins.module_utils.docker_host import DockerError, run_docker
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gateway_replace import (
    ReplaceError,
    Replacement,
    alone,
    make_folders,
)
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gateway_state import (
    WANTED_OPTIONS,
    Container,
    compare_gateway,
    read_containers,
)
from ansible_collections.gpu_hosts.timm.plugins.module_utils.guardian import Guardian
from ansible_collections.gpu_hosts.timm.plugins.module_utils.haproxy_runtime import GatewayError
from ansible_collections.gpu_hosts.timm.plugins.module_utils.host_address import refusal

DOCUMENTATION = r"""
module: gateway_replace
short_description: Prove a gateway, put it in place of the one that serves, and put that back when it fails
description:
  - Compares folders, files and containers in one step, so that a gateway in order costs one task.
  - Where something differs, the address is looked at, and the new gateway is started once beside the old one without an
    address, from the same Compose file. Only then is anything replaced. A configuration alone is a reload.
  - A container is replaced by one that Compose makes beside it. Where both can have their addresses, the old one ends
    when the new one answers; where they cannot, it makes way and is started again when the new one does not answer.
  - A run of this module that is killed half-way is undone by a process that it leaves beside itself.
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
      bind: {description: Address of the host that it listens on, type: str, required: true}
      port: {description: Port of the host that it listens on, type: int, required: true}
      settings:
        description: What the names of the variables begin with that set address and port, for messages.
        type: str
        required: true
      drain: {description: Seconds that an old gateway gets to finish its requests, type: int, default: 30}
author: [The maintainers]
"""

EXAMPLES = r"""
- name: Bring the gateway to the wanted one
  gateway_replace:
    wanted:
      name: timm-classifier
      state_dir: /var/lib/timm-classifier/gateway
      image: sha256:0123
      folders: {conf: 0, run: 1000}
      files: {docker-compose.yml: "services: {}"}
      bind: 127.0.0.1
      port: 8000
      settings: inference_service
"""

RETURN = r"""
differences: {description: What was not as wanted, a sentence each, returned: success, type: list, elements: str}
gap: {description: Seconds that nobody answered because the old gateway had to make way, returned: changed, type: float}
"""


def look(module: AnsibleModule, project: str) -> list[Container]:
    """Return the gateway's containers."""
    try:
        return list(read_containers(project))
    except DockerError as error:
        if not module.check_mode:
            module.fail_json(msg=f"The gateway's containers cannot be read: {error}. Is Docker running?")
        # A first run in check mode: Docker itself would only be installed now.
        return []


def difference(files: dict[str, str]) -> list[dict[str, str]]:
    """Return what ``--diff`` shows."""
    found = []
    for name, content in files.items():
        path = Path(name)
        before = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        if before != content:
            found.append({"before_header": name, "before": before, "after_header": name, "after": content})
    return found


def carry_out(replacement: Replacement) -> str:
    """Replace the gateway; return '', or why everything was put back."""
    guardian = Guardian(replacement.undo)
    try:
        for step in replacement.steps():
            step()
    except (ReplaceError, DockerError, GatewayError, OSError) as error:
        left = replacement.undo()
        back = f"What was there before could not be put back: {left}." if left else "What was there before is back."
        return f"{error}. {back}"
    finally:
        guardian.dismiss()
    replacement.retire()
    return ""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={"wanted": {"type": "dict", "required": True, "options": WANTED_OPTIONS}},
        supports_check_mode=True,
    )
    wanted: dict[str, Any] = module.params["wanted"]
    state_dir, project = Path(wanted["state_dir"]), f"{wanted['name']}-gateway"
    containers = look(module, project)
    compared = compare_gateway(wanted, containers)
    result = {"changed": bool(compared.differences), "differences": compared.differences}
    result["diff"] = difference(compared.files) if compared.differences else []
    if module.check_mode or not compared.differences:
        module.exit_json(**result)
    refused = refusal(wanted["name"], wanted["state_dir"], wanted["bind"], wanted["port"], wanted["settings"])
    if refused:
        module.fail_json(msg=refused)
    try:
        make_folders(state_dir, {name: int(owner) for name, owner in wanted["folders"].items()})
        with alone(state_dir):
            # Whoever had the lock until now may have changed something.
            for item in look(module, project):
                if item.paused:
                    run_docker(["unpause", item.id])
            containers = look(module, project)
            replacement = Replacement(wanted, compare_gateway(wanted, containers).files, containers)
            replacement.prove()
            failed = carry_out(replacement)
    except (ReplaceError, DockerError, OSError) as error:
        failed = str(error)
    if failed:
        module.fail_json(msg=f"The gateway was not replaced: {failed}")
    module.exit_json(**result, gap=round(replacement.gap, 3))


if __name__ == "__main__":
    main()

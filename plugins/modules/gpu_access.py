#!/usr/bin/python
"""Ansible module: let CUDA compute in a container that gets the GPUs as the service does."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.access import try_access
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.commands import run

DOCUMENTATION = r"""
module: gpu_access
short_description: Start the service's image with its GPUs and let each of them compute
description:
  - Starts one container with the devices that a release gets, the way it gets them, without a network
    and without a right to write. In it CUDA is initialized and each device multiplies two matrices. The container is
    removed, nothing else changes.
  - What fails is a finding with a stable id; C(nvidia-smi) on the host or in a container would not notice.
options:
  image: {description: Name or id of the image, type: str, required: true}
  driver: {description: How a container gets a GPU, type: str, choices: [cdi, nvidia], required: true}
  devices:
    description: The devices, as the Compose file names them, for example V(nvidia.com/gpu=0), or V(0) for the runtime.
    type: list
    elements: str
    required: true
  timeout: {description: Seconds that the container may take, type: float, default: 120}
author: [The maintainers]
"""

EXAMPLES = r"""
- name: Let the GPU compute in the image
  gpu_access:
    image: timm-classifier:cu124
    driver: cdi
    devices: [nvidia.com/gpu=0]
  register: __example_access
"""

RETURN = r"""
findings:
  description: What is wrong, each with id, severity, summary, evidence and remedy; empty when every device computed.
  returned: always
  type: list
  elements: dict
"""


def main() -> None:
    """Start, judge, answer."""
    module = AnsibleModule(
        argument_spec={
            "image": {"type": "str", "required": True},
            "driver": {"type": "str", "choices": ["cdi", "nvidia"], "required": True},
            "devices": {"type": "list", "elements": "str", "required": True},
            "timeout": {"type": "float", "default": 120},
        },
        supports_check_mode=True,
    )
    options = module.params
    findings = []
    if not module.check_mode:
        findings = try_access(options["image"], options["driver"], options["devices"], run, options["timeout"])
    module.exit_json(changed=False, findings=findings)


if __name__ == "__main__":
    main()

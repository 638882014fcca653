#!/usr/bin/python
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Ansible module: which packages bring a driver that computes to this host, or why none of them would."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.commands import run
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.driver_plan import Plan, draft, settle
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.offers import machine, offers

DOCUMENTATION = r"""
---
module: gpu_driver_plan
short_description: Choose the driver packages of a GPU host
description:
  - Reads the distribution, the kernel and what apt or dnf offer, and changes nothing.
  - Says why not where no packages would help, such as for a GPU that no driver of today knows.
options:
  devices:
    description: GPUs on the PCI bus, as the facts of M(gpu_host_info) list them.
    type: list
    elements: dict
    required: true
  kernel:
    description: Name of the running kernel.
    type: str
    required: true
  headers:
    description: Whether its headers are there already.
    type: bool
    default: false
  branch:
    description: Branch of the driver, where package names carry one.
    type: int
    required: true
  ask_offers:
    description: Compare with what the host's package sources offer now; a preview of sources not yet added cannot.
    type: bool
    default: true
  root:
    description: Folder to read /etc below; tests point it at a recorded tree.
    type: path
    default: /
author:
  - Inference platform maintainers
"""

EXAMPLES = r"""
- name: Choose the driver's packages
  gpu_driver_plan:
    devices: "{{ host.facts.pci_devices }}"
    kernel: "{{ host.facts.driver.kernel }}"
    branch: 580
  register: __example_plan
"""

RETURN = r"""
packages: {description: Packages of the driver, returned: always, type: list, elements: str}
headers: {description: Packages of kernel headers, returned: always, type: list, elements: str}
stream: {description: Module stream to enable with dnf, or nothing, returned: always, type: str}
lock: {description: Pattern of versions that dnf has to lock first, or nothing, returned: always, type: str}
refusal: {description: Why nothing must be installed, or nothing, returned: always, type: str}
release: {description: Number of the distribution's release, returned: always, type: int}
"""


def main() -> None:
    """Plan and answer."""
    module = AnsibleModule(
        argument_spec={
            "devices": {"type": "list", "elements": "dict", "required": True},
            "kernel": {"type": "str", "required": True},
            "headers": {"type": "bool", "default": False},
            "branch": {"type": "int", "required": True},
            "ask_offers": {"type": "bool", "default": True},
            "root": {"type": "path", "default": "/"},
        },
        supports_check_mode=True,
    )
    options = module.params
    host = machine(Path(options["root"]), options)
    plan: Plan = draft(host)
    if options["ask_offers"] and not plan.refusal:
        plan = settle(plan, host, offers(host, [*plan.packages, *plan.headers], run))
    elif host.headers:
        plan.headers = plan.headers[1:]
    module.exit_json(changed=False, release=host.release, **asdict(plan))


if __name__ == "__main__":
    main()

#!/usr/bin/python
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Ansible module: facts and findings about a host's GPUs, engine and container toolkit."""

from __future__ import annotations

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.chosen import all_answer, is_choice, views
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.commands import run
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.engine import assess_engine
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.findings import (
    assess_driver,
    assess_toolkit,
    gpu_present,
)
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.flavors import choose_flavor
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.host import host_facts
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.nvidia_smi import SMI_TIMEOUT

DOCUMENTATION = r"""
---
module: gpu_host_info
short_description: Read and judge a host's NVIDIA driver, Docker engine and container toolkit
description:
  - Reads the host once and changes nothing.
  - Every problem is a finding with a stable id, a severity, the evidence and a remedy;
    docs/TROUBLESHOOTING.md explains each id.
  - A command that hangs becomes a finding and never blocks the run.
options:
  topics:
    description: What to read and to judge. V(toolkit) reads the other two as well.
    type: list
    elements: str
    choices: [driver, engine, toolkit]
    default: [driver, engine, toolkit]
  gpu:
    description: Whether this host must have a GPU (V(required)), may have one (V(auto)) or is not asked (V(absent)).
    type: str
    choices: [auto, required, absent]
    default: auto
  gpus:
    description:
      - The GPUs that the service shall use, V(all) or a list of indices, UUIDs or their beginnings, and slices of
        split GPUs (V(0:1) or their UUIDs). Only these decide; an error of another is a remark.
    type: raw
    default: all
  requirements:
    description:
      - What the image flavor needs, with the keys min_driver, recommended_driver, cuda, compute_capabilities
        and vram_mib.
    type: dict
    default: {}
  flavors:
    description:
      - Table of image flavors, each with what O(requirements) has; the one that fits the host best takes its place.
    type: dict
    default: {}
  engine_required:
    description: Whether a missing engine or plugin is an error; otherwise it is a warning.
    type: bool
    default: true
  toolkit_required:
    description: Whether missing access of containers to the GPU is an error; otherwise it is a warning.
    type: bool
    default: true
  timeout:
    description: Seconds to wait for any one command but nvidia-smi.
    type: float
    default: 10
  smi_timeout:
    description: Seconds to wait for nvidia-smi, which starts every GPU again where persistence mode is off.
    type: float
    default: 60
  root:
    description: Folder to read /proc, /sys, /dev and /etc below; tests point it at a recorded tree.
    type: path
    default: /
author:
  - Inference platform maintainers
"""

EXAMPLES = r"""
- name: Read the host
  gpu_host_info:
    gpu: required
    requirements:
      min_driver: "525.60.13"
  register: __example_host

- name: Show what is wrong
  ansible.builtin.debug:
    var: __example_host.findings
"""

RETURN = r"""
facts:
  description: What was read, by topic.
  returned: always
  type: dict
findings:
  description: Problems, each with id, severity (error, warning or info), summary, evidence and remedy.
  returned: always
  type: list
  elements: dict
by_topic:
  description: The same findings as a list for each topic that was read.
  returned: always
  type: dict
flavor:
  description: The chosen row of O(flavors), with name, reason and fits; empty without a table.
  returned: always
  type: dict
gpu_present:
  description: Whether the host has an NVIDIA GPU; false where the driver was not asked about.
  returned: always
  type: bool
"""


def main() -> None:
    """Read, judge, answer."""
    module = AnsibleModule(
        argument_spec={
            "topics": {
                "type": "list",
                "elements": "str",
                "choices": ["driver", "engine", "toolkit"],
                "default": ["driver", "engine", "toolkit"],
            },
            "gpu": {"type": "str", "choices": ["auto", "required", "absent"], "default": "auto"},
            "gpus": {"type": "raw", "default": "all"},
            "requirements": {"type": "dict", "default": {}},
            "flavors": {"type": "dict", "default": {}},
            "engine_required": {"type": "bool", "default": True},
            "toolkit_required": {"type": "bool", "default": True},
            "timeout": {"type": "float", "default": 10},
            "smi_timeout": {"type": "float", "default": SMI_TIMEOUT},
            "root": {"type": "path", "default": "/"},
        },
        supports_check_mode=True,
    )
    options = module.params
    topics = set(options["topics"])
    if options["gpu"] == "absent":
        topics -= {"driver", "toolkit"}
    if not is_choice(options["gpus"]):
        module.fail_json(msg=f"gpus must be all, or a list such as [0, GPU-5e1d8f2a, '1:0'], not {options['gpus']!r}.")
    root = Path(options["root"])
    facts = host_facts(root, run, options["timeout"], topics, options["gpus"], options["smi_timeout"])
    present = "pci_devices" in facts and gpu_present(facts)
    requirements, flavor = options["requirements"], {}
    if options["flavors"]:
        flavor = choose_flavor(options["flavors"], views(facts)[0] if present and all_answer(facts) else facts, present)
        requirements = options["flavors"][flavor["name"]]
    by_topic = {}
    if "driver" in topics:
        by_topic["driver"] = assess_driver(facts, options["gpu"], requirements)
    if "engine" in topics:
        by_topic["engine"] = assess_engine(facts, options["engine_required"])
    if "toolkit" in topics:
        by_topic["toolkit"] = assess_toolkit(facts, options["toolkit_required"])
    module.exit_json(
        changed=False,
        facts=facts,
        findings=[found for findings in by_topic.values() for found in findings],
        by_topic=by_topic,
        flavor=flavor,
        gpu_present=present,
    )


if __name__ == "__main__":
    main()

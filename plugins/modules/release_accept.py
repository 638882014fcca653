#!/usr/bin/python
"""Ansible module: let a release answer its own golden samples over HTTP."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpu_hosts.timm.plugins.module_utils.acceptance import check_device, check_samples
from ansible_collections.gpu_hosts.timm.plugins.module_utils.docker_host import (
    DockerError,
    inspect_instance,
    last_log_lines,
)
from ansible_collections.gpu_hosts.timm.plugins.module_utils.golden import GoldenError, load
from ansible_collections.gpu_hosts.timm.plugins.module_utils.instance_end import end_of

DOCUMENTATION = r"""
module: release_accept
short_description: Post the golden samples of a bundle and compare the answers
description:
  - Same first class, probabilities within the bundle's tolerance, latency within the budget, the expected device,
    the expected release. Changes nothing.
options:
  base_urls: {description: Where the instances answer, type: list, elements: str, required: true}
  containers:
    description: Names of the containers behind the addresses. After a wrong answer they tell whether they ended.
    type: list
    elements: str
    default: []
  bundle: {description: The bundle's directory on this host, type: path, required: true}
  release_id: {description: The release that must answer, type: str, required: true}
  device: {description: What the device reported by the service must begin with, type: str, default: ''}
  latency_budget_ms: {description: Milliseconds that one sample may take, type: int, default: 5000}
  samples: {description: How many samples to ask; 0 asks all, type: int, default: 0}
author: [The maintainers]
"""

EXAMPLES = r"""
- name: Accept the candidate
  release_accept:
    base_urls: ["http://172.18.0.3:8000"]
    bundle: /var/lib/timm-classifier/bundles/demo/1
    release_id: 0123456789ab
"""

RETURN = r"""
log: {description: Last lines that the containers wrote, returned: when an answer is wrong, type: list, elements: str}
report: {description: One entry a sample and instance, returned: always, type: list, elements: dict}
prediction: {description: The first answer's best class, returned: success, type: dict}
device: {description: The device that the service reports, returned: success, type: str}
seconds: {description: How long the whole acceptance took, returned: success, type: float}
"""


def ends(containers: list[str]) -> list[str]:
    """Return a sentence for each container that ended while it was asked."""
    found = []
    for name in containers:
        try:
            end = end_of(inspect_instance(name))
        except DockerError as error:
            end = f"it cannot be inspected ({error})"
        found.extend([f"{name}: {end}"] if end else [])
    return found


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "base_urls": {"type": "list", "elements": "str", "required": True},
            "containers": {"type": "list", "elements": "str", "default": []},
            "bundle": {"type": "path", "required": True},
            "release_id": {"type": "str", "required": True},
            "device": {"type": "str", "default": ""},
            "latency_budget_ms": {"type": "int", "default": 5000},
            "samples": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    params = module.params
    started = time.monotonic()
    try:
        golden = load(Path(params["bundle"]))
    except GoldenError as error:
        module.fail_json(msg=str(error), report=[])
    report: list[dict[str, Any]] = []
    problems: list[str] = []
    device = ""
    for base_url in params["base_urls"]:
        device, problem = check_device(base_url, params["device"], timeout=10)
        problems.extend([problem] if problem else [])
        entries = check_samples(
            base_url, golden, params["release_id"], params["samples"], params["latency_budget_ms"] / 1000
        )
        report.extend(entries)
        problems.extend(text for entry in entries for text in entry["problems"])
    if problems:
        module.fail_json(
            msg="; ".join([*ends(params["containers"]), *problems]),
            report=report,
            log=[line for name in params["containers"] for line in last_log_lines(name)],
        )
    module.exit_json(
        changed=False,
        report=report,
        prediction={"sample": report[0]["sample"], **report[0]["prediction"]},
        device=device,
        seconds=round(time.monotonic() - started, 3),
    )


if __name__ == "__main__":
    main()

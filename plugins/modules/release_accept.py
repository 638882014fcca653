#!/usr/bin/python
"""Ansible module: let a release answer its own golden samples over HTTP."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.docker_host import DockerError, inspect_instance, last_log_lines
from ansible.module_utils.golden import GoldenError, GoldenSet, ask, compare, load
from ansible.module_utils.http_client import UnreachableError, request
from ansible.module_utils.instance_end import end_of

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
    bundle: /var/lib/cat-breeds-api/bundles/demo/1
    release_id: 0123456789ab
"""

RETURN = r"""
log: {description: Last lines that the containers wrote, returned: when an answer is wrong, type: list, elements: str}
report: {description: One entry a sample and instance, returned: always, type: list, elements: dict}
prediction: {description: The first answer's best class, returned: success, type: dict}
device: {description: The device that the service reports, returned: success, type: str}
seconds: {description: How long the whole acceptance took, returned: success, type: float}
"""


# A sample over the budget is asked again: a slow model is slow each time, a busy host is not.
ATTEMPTS = 3


def check_device(base_url: str, wanted: str, timeout: float) -> tuple[str, str]:
    """Return the device that the instance reports, and a problem or ''."""
    try:
        device = str(request(f"{base_url}/api/v1/model/info", timeout=timeout).json().get("device", ""))
    except UnreachableError as error:
        return "", f"no answer from {error}"
    if wanted and not device.startswith(wanted):
        return device, f"it runs on {device or 'an unknown device'}, expected {wanted}"
    return device, ""


def check_samples(base_url: str, golden: GoldenSet, params: dict[str, Any]) -> list[dict[str, Any]]:
    """Ask one instance the samples; return an entry each with its problems."""
    entries = []
    # When only some are asked: those that the model is surest of.
    samples = sorted(golden.samples, key=lambda sample: -float(sample.top[0]["probability"]))
    budget = params["latency_budget_ms"] / 1000
    for sample in samples[: params["samples"] or None]:
        for _ in range(ATTEMPTS):
            predictions, headers, seconds, problem = ask(base_url, sample, timeout=max(budget * 2, 10))
            if problem or seconds <= budget:
                break
        problems = [problem] if problem else compare(sample, predictions, golden.tolerance)
        answered_by = headers.get("x-release-id", "")
        if not problem and answered_by != params["release_id"]:
            problems.append(f"release {answered_by or 'unknown'} answered, expected {params['release_id']}")
        if not problem and seconds > budget:
            problems.append(f"{sample.path.name}: {seconds * 1000:.0f} ms, the budget is {budget * 1000:.0f} ms")
        entries.append(
            {
                "url": base_url,
                "sample": sample.path.name,
                "milliseconds": round(seconds * 1000, 1),
                "prediction": predictions[0] if predictions else {},
                "expected": sample.top[0],
                "problems": problems,
            }
        )
    return entries


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
        entries = check_samples(base_url, golden, params)
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

#!/usr/bin/python
"""Ansible module: wait until an instance answers that it is ready, or say why it never will."""

from __future__ import annotations

import json
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpu_hosts.timm.plugins.module_utils import hold
from ansible_collections.gpu_hosts.timm.plugins.module_utils.docker_host import (
    DockerError,
    Instance,
    inspect_instance,
    last_log_lines,
)
from ansible_collections.gpu_hosts.timm.plugins.module_utils.http_client import UnreachableError, request
from ansible_collections.gpu_hosts.timm.plugins.module_utils.instance_end import end_of
from ansible_collections.gpu_hosts.timm.plugins.module_utils.progress import Report

DOCUMENTATION = r"""
module: instance_ready
short_description: Wait until a container of the service is ready
description:
  - Asks the container itself, on its own address. Gives up at once when it exited or began to restart.
options:
  container: {description: Name of the container, type: str, required: true}
  port: {description: Port inside the container, type: int, default: 8000}
  timeout: {description: Seconds that the model may take to load, type: int, default: 180}
  gateway: {description: The gateway's directory on the host; it may keep requests waiting meanwhile, type: path}
  progress: {description: File on the host where it says meanwhile what it waits for, type: path}
  final: {description: Reasons for not being ready that waiting cannot mend, type: list, elements: str, default: []}
author: [The maintainers]
"""

EXAMPLES = r"""
- name: Wait for the candidate
  instance_ready:
    container: timm-classifier-blue-0-api-1
    timeout: 180
"""

RETURN = r"""
base_url: {description: Where the instance answers on the host's own network, returned: success, type: str}
seconds: {description: How long it took, returned: success, type: float}
"""

POLL_SECONDS = 0.1


def ask(instance: Instance, port: int) -> tuple[bool, str, str]:
    """Return whether the instance is ready, else its reason in words and its reason's code."""
    try:
        answer = request(f"http://{instance.address}:{port}/health/ready", timeout=5)
    except UnreachableError as error:
        return False, f"it does not answer yet ({error})", ""
    if answer.status == 200:
        return True, "", ""
    body = answer.json()
    return False, str(body.get("detail") or answer.excerpt()), str(body.get("code", ""))


def own_words(lines: list[str]) -> str:
    """Return the last error that the service itself logged as a sentence, or ''."""
    for line in reversed(lines):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and str(entry.get("level", "")).lower() in ("error", "critical"):
            return str(entry.get("detail") or entry.get("message") or entry.get("event") or "")
    return ""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "container": {"type": "str", "required": True},
            "port": {"type": "int", "default": 8000},
            "timeout": {"type": "int", "default": 180},
            "final": {"type": "list", "elements": "str", "default": []},
            "gateway": {"type": "path"},
            "progress": {"type": "path"},
        },
        supports_check_mode=True,
    )
    with Report(module.params["progress"]) as report:
        wait(module, report)


def wait(module: AnsibleModule, report: Report) -> None:
    """Wait, and end the module."""
    container, timeout = module.params["container"], module.params["timeout"]
    started = time.monotonic()
    reason, code = "it did not start", ""
    while time.monotonic() - started < timeout:
        if module.params["gateway"]:
            hold.go_on(Path(module.params["gateway"]))
        try:
            instance = inspect_instance(container)
            dead = end_of(instance)
        except DockerError as error:
            module.fail_json(msg=f"{container} cannot be inspected: {error}")
        if dead:
            reason = dead
            break
        if instance.address:
            ready, reason, code = ask(instance, module.params["port"])
            if ready:
                module.exit_json(
                    changed=False,
                    base_url=f"http://{instance.address}:{module.params['port']}",
                    seconds=round(time.monotonic() - started, 3),
                )
        if code in module.params["final"]:
            break
        report.say(time.monotonic() - started, reason)
        time.sleep(POLL_SECONDS)
    else:
        reason = f"{reason}, and the {timeout} s of inference_service_ready_timeout are over"
    lines = last_log_lines(container)
    said = own_words(lines)
    module.fail_json(
        msg=f"{container} is not ready: {reason.rstrip('.')}." + (f" It said: {said}" if said else ""),
        log=lines,
        seconds=round(time.monotonic() - started, 3),
    )


if __name__ == "__main__":
    main()

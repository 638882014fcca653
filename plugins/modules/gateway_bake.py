#!/usr/bin/python
"""Ansible module: watch a new release through the gateway's counters, and go back by itself when it fails."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpu_hosts.timm.plugins.module_utils.bake import bake
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gateway_paths import socket_of
from ansible_collections.gpu_hosts.timm.plugins.module_utils.haproxy_runtime import GatewayError, wait_until_idle
from ansible_collections.gpu_hosts.timm.plugins.module_utils.progress import Report
from ansible_collections.gpu_hosts.timm.plugins.module_utils.releases import ReleaseError

DOCUMENTATION = r"""
module: gateway_bake
short_description: Judge the live release by the gateway's counters
description:
  - Needs the note that M(gateway_switch) left; without one there is nothing to watch. Compares failures, which are 500
    and 502, and time with the release before, and sees a lost instance. On failure the former color, still warm, is
    made live again.
options:
  state_dir: {description: The gateway's directory on the host, type: path, required: true}
  color: {description: The color to judge, type: str, required: true}
  servers: {description: Names of its servers, type: list, elements: str, required: true}
  drain: {description: Seconds to wait for its requests after going back, type: int, default: 30}
  seconds: {description: How long to watch after the switch, type: int, default: 10}
  progress: {description: File on the host where it says meanwhile what was counted, type: path}
author: [The maintainers]
"""

EXAMPLES = r"""
- name: Bake green
  gateway_bake:
    state_dir: /var/lib/timm-classifier/gateway
    color: green
    servers: ["0"]
"""

RETURN = r"""
note: {description: What was counted, returned: when there was something to watch, type: str}
requests: {description: Requests that the release got meanwhile, returned: always, type: int}
errors: {description: How many of them failed with 500 or 502, returned: always, type: int}
seconds: {description: How long it was watched, returned: always, type: float}
former: {description: The color that was live before, returned: always, type: str}
went_back: {description: Whether the former color serves again, returned: always, type: bool}
back_seconds: {description: How long going back took after the verdict, returned: always, type: float}
"""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state_dir": {"type": "path", "required": True},
            "color": {"type": "str", "required": True},
            "servers": {"type": "list", "elements": "str", "required": True},
            "seconds": {"type": "int", "default": 10},
            "drain": {"type": "int", "default": 30},
            "progress": {"type": "path"},
        },
        supports_check_mode=False,
    )
    params = module.params
    try:
        with Report(params["progress"]) as report:
            outcome = bake(
                Path(params["state_dir"]),
                params["color"],
                params["servers"],
                params["seconds"],
                report.say,
            )
        if outcome.went_back:
            wait_until_idle(socket_of(Path(params["state_dir"])), f"bk_{params['color']}", params["drain"])
    except (GatewayError, ReleaseError, OSError, KeyError) as error:
        module.fail_json(msg=f"The new release could not be watched through the gateway: {error}")
    result = asdict(outcome)
    if outcome.reason:
        ending = (
            f"the release before got the requests again {outcome.back_seconds:.2f} s after that was seen"
            if outcome.went_back
            else "the previous release is no longer running, so the gateway was not switched back"
        )
        module.fail_json(msg=f"{outcome.reason}; {ending}", **result)
    if outcome.former:
        result["note"] = f"{outcome.requests} requests, {outcome.errors} errors"
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()

#!/usr/bin/python
"""Ansible module: take a host out of its load balancers before it reboots, and wait for it afterwards."""

from __future__ import annotations

import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpu_hosts.timm.plugins.module_utils.gateway_paths import socket_of
from ansible_collections.gpu_hosts.timm.plugins.module_utils.haproxy_runtime import (
    GatewayError,
    is_drained,
    live_color,
    set_drained,
    wait_until_idle,
    wait_until_serving,
)
from ansible_collections.gpu_hosts.timm.plugins.module_utils.releases import COLORS

DOCUMENTATION = r"""
module: gateway_drain
short_description: Let a host's health check fail while it still answers, or wait until it serves again
description:
  - Whatever balances load in front of a host asks its C(/health/ready). Drained, the gateway answers that with 503 and
    everything else as before, so the balancers send their requests to other hosts. The gateway remembers it only in
    memory, which a restart clears.
options:
  state_dir: {description: The gateway's directory on the host, type: path, required: true}
  state:
    description:
      - V(drained) lets the health check fail, waits O(notice) seconds and then until no request is under way.
      - V(serving) ends that, and waits until an instance of the live release is up.
    type: str
    choices: [drained, serving]
    required: true
  notice: {description: Seconds until every load balancer has noticed, type: int, default: 5}
  timeout: {description: Seconds to wait for what the state asks for, type: int, default: 30}
author: [The maintainers]
"""

EXAMPLES = r"""
- name: Take the host out of its load balancers
  gateway_drain:
    state_dir: /var/lib/timm-classifier/gateway
    state: drained
"""

RETURN = r"""
serves: {description: Whether the host has a live release, returned: success, type: bool}
undrained: {description: Requests that were still under way when the time was over, returned: success, type: int}
"""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state_dir": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["drained", "serving"], "required": True},
            "notice": {"type": "int", "default": 5},
            "timeout": {"type": "int", "default": 30},
        },
        supports_check_mode=True,
    )
    params = module.params
    drain = params["state"] == "drained"
    admin_socket = socket_of(Path(params["state_dir"]))
    if not drain and not module.check_mode:
        down = wait_until_serving(admin_socket, params["timeout"])
        if down:
            module.fail_json(
                msg=f"The service has not answered for {params['timeout']} s since its host restarted ({down}). "
                "Look at `docker ps --all` there; where Docker does not start at boot, a deploy starts it."
            )
    try:
        color = live_color(admin_socket)
        changed = is_drained(admin_socket) != drain
        if color not in COLORS or module.check_mode:
            module.exit_json(changed=changed and color in COLORS, serves=color in COLORS, undrained=0)
        if changed:
            set_drained(admin_socket, drain)
        undrained = 0
        if drain:
            time.sleep(params["notice"] if changed else 0)
            undrained = wait_until_idle(admin_socket, f"bk_{color}", params["timeout"])
    except GatewayError as error:
        if not drain:
            module.fail_json(msg=str(error))
        # A gateway that does not run sends nobody here.
        module.exit_json(changed=False, serves=False, undrained=0)
    module.exit_json(changed=changed, serves=True, undrained=undrained)


if __name__ == "__main__":
    main()

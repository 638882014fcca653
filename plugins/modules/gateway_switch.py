#!/usr/bin/python
"""Ansible module: send the gateway's new requests to another color without touching a connection."""

from __future__ import annotations

import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpu_hosts.timm.plugins.module_utils.bake import switch
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gateway_paths import socket_of
from ansible_collections.gpu_hosts.timm.plugins.module_utils.haproxy_runtime import (
    GatewayError,
    wait_until_idle,
    wait_until_up,
)
from ansible_collections.gpu_hosts.timm.plugins.module_utils.releases import COLORS

DOCUMENTATION = r"""
module: gateway_switch
short_description: Switch the live color of the gateway
description:
  - Waits until the gateway itself sees the servers of the color up, writes the map file (what a restart of the gateway
    reads), sets the running gateway's map, and waits until no request is under way on the color that was live.
options:
  state_dir: {description: The gateway's directory on the host, type: path, required: true}
  color:
    description: >-
      The color to make live; V(none) answers 503,
      V(hold-COLOR) keeps requests waiting while that color is replaced
    type: str
    required: true
  servers: {description: Names of the servers that must be up before, type: list, elements: str, default: []}
  timeout: {description: Seconds to wait for the servers, type: int, default: 15}
  bake: {description: Leave a note that M(gateway_bake) is to judge the color, type: bool, default: false}
  drain: {description: Seconds to wait for requests of the former color, type: int, default: 30}
author: [The maintainers]
"""

EXAMPLES = r"""
- name: Switch to green
  gateway_switch:
    state_dir: /var/lib/timm-classifier/gateway
    color: green
    servers: ["0"]
"""

RETURN = r"""
previous: {description: The color that was live, returned: success, type: str}
seconds: {description: How long the switch itself took, returned: success, type: float}
held: {description: Seconds that requests had been kept waiting for this switch, returned: success, type: float}
undrained: {description: Requests that were still under way when the drain time was over, returned: success, type: int}
"""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state_dir": {"type": "path", "required": True},
            "color": {
                "type": "str",
                "required": True,
                "choices": ["blue", "green", "none", "hold-blue", "hold-green"],
            },
            "servers": {"type": "list", "elements": "str", "default": []},
            "timeout": {"type": "int", "default": 15},
            "bake": {"type": "bool", "default": False},
            "drain": {"type": "int", "default": 30},
        },
        supports_check_mode=False,
    )
    params = module.params
    state_dir = Path(params["state_dir"])
    admin_socket = socket_of(state_dir)
    color = params["color"]
    down = wait_until_up(admin_socket, f"bk_{color}", set(params["servers"]), params["timeout"])
    if down:
        states = ", ".join(f"{color}-{name}: {state}" for name, state in sorted(down.items()))
        module.fail_json(
            msg=f"The gateway does not reach the candidate ({states}). "
            "It checks /health/ready of the container over the service's Docker network: look at "
            "`docker logs` of the gateway's container, and whether both are on the same network."
        )
    started = time.monotonic()
    try:
        done = switch(state_dir, color, params["bake"])
        seconds = time.monotonic() - started
        drained = done.previous in COLORS and done.previous != color
        undrained = wait_until_idle(admin_socket, f"bk_{done.previous}", params["drain"]) if drained else 0
    except (GatewayError, OSError) as error:
        module.fail_json(msg=f"The gateway could not be switched to {color}: {error}")
    module.exit_json(
        changed=done.changed,
        previous=done.previous,
        seconds=round(seconds, 4),
        held=round(done.held, 3),
        undrained=undrained,
    )


if __name__ == "__main__":
    main()

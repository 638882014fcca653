#!/usr/bin/python
"""Ansible module: ask a load balancer at its published address, and which hosts it sends requests to."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpu_hosts.timm.plugins.module_utils.docker_host import DockerError
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gateway_paths import socket_of
from ansible_collections.gpu_hosts.timm.plugins.module_utils.haproxy_runtime import GatewayError, servers, wait_until_up
from ansible_collections.gpu_hosts.timm.plugins.module_utils.published import look

DOCUMENTATION = r"""
module: balancer_info
short_description: Ask a load balancer which hosts it sends requests to
description:
  - Asks C(/health/ready) at the address that the load balancer's container publishes, and reads the health of each
    host as the load balancer sees it. Changes nothing.
  - Fails when Docker cannot be asked, which is not the same as a load balancer that does not answer.
options:
  name: {description: Name of the load balancer's gateway, type: str, required: true}
  state_dir: {description: The gateway's directory on the host, type: path, required: true}
  wanted:
    description: Hosts to wait for until the load balancer sees them up.
    type: list
    elements: str
    default: []
  patience: {description: Seconds to wait for them, type: int, default: 0}
  reached_at:
    description: Address or name at which people reach the load balancer; empty for the machine that they sit at.
    type: str
    default: ""
author: [The maintainers]
"""

EXAMPLES = r"""
- name: Wait until both hosts get requests
  balancer_info:
    name: timm-classifier-balancer
    state_dir: /var/lib/timm-classifier/balancer
    wanted: [gpu-1, gpu-2]
    patience: 10
"""

RETURN = r"""
answers: {description: Whether C(/health/ready) says 200, returned: success, type: bool}
url: {description: Where its own host reaches it; empty when nothing is published, returned: success, type: str}
usable: {description: URL for people; empty when only its own host reaches it, returned: success, type: str}
reason: {description: Why it does not answer, returned: success, type: str}
servers:
  description: C(name), C(address) and C(state) of each host, and whether it is C(up).
  returned: success
  type: list
  elements: dict
down: {description: State of each wanted host that is not up, by name, returned: success, type: dict}
"""

BACKEND = "bk_hosts"


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state_dir": {"type": "path", "required": True},
            "wanted": {"type": "list", "elements": "str", "default": []},
            "patience": {"type": "int", "default": 0},
            "reached_at": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    params = module.params
    admin_socket = socket_of(Path(params["state_dir"]))
    wanted = set(params["wanted"])
    down = wait_until_up(admin_socket, BACKEND, wanted, params["patience"]) if wanted else {}
    try:
        seen = servers(admin_socket, BACKEND)
    except GatewayError:
        seen = []
    try:
        found = look(params["name"], reached_at=params["reached_at"])
    except DockerError as error:
        module.fail_json(msg=f"What {params['name']} answers cannot be known: {error}")
    module.exit_json(changed=False, servers=seen, down=down, **asdict(found))


if __name__ == "__main__":
    main()

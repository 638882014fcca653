#!/usr/bin/python
"""Ansible module: ask a service at its published address what it serves."""

from __future__ import annotations

from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpu_hosts.timm.plugins.module_utils.docker_host import DockerError
from ansible_collections.gpu_hosts.timm.plugins.module_utils.published import look

DOCUMENTATION = r"""
module: release_answers
short_description: Ask a service at its published address what it serves
description:
  - The address is read from the running gateway's container, not from variables, and C(/health/ready) is asked there.
    So the answer is what a client gets. Changes nothing.
  - Fails when Docker cannot be asked, which is not the same as a service that does not answer.
options:
  name: {description: Name of the service; that of a load balancer ends in C(-balancer), type: str, required: true}
  timeout: {description: Seconds to wait for the answer, type: int, default: 10}
  reached_at:
    description: Address or name at which people reach the host; empty when it is the machine that they sit at.
    type: str
    default: ""
author: [The maintainers]
"""

EXAMPLES = r"""
- name: Ask what is served
  release_answers:
    name: timm-classifier
"""

RETURN = r"""
answers: {description: Whether C(/health/ready) says 200, returned: success, type: bool}
url: {description: Where the host itself reaches it; empty when nothing is published, returned: success, type: str}
address: {description: The address that it is published on, returned: success, type: str}
port: {description: The port that it is published on, returned: success, type: int}
release: {description: Id of the release that answered, returned: success, type: str}
model: {description: Name of its model, returned: success, type: str}
version: {description: Version of its model, returned: success, type: str}
device: {description: What the model runs on, returned: success, type: str}
usable: {description: URL for people; empty when only the host itself reaches it, returned: success, type: str}
reason: {description: Why it does not answer, returned: success, type: str}
"""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "timeout": {"type": "int", "default": 10},
            "reached_at": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    try:
        found = look(module.params["name"], module.params["timeout"], module.params["reached_at"])
    except DockerError as error:
        module.fail_json(msg=f"What {module.params['name']} answers cannot be known: {error}")
    module.exit_json(changed=False, **asdict(found))


if __name__ == "__main__":
    main()

#!/usr/bin/python
"""Ansible module: make the Docker network of a service, and put its containers on it."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpu_hosts.timm.plugins.module_utils.docker_host import DockerError
from ansible_collections.gpu_hosts.timm.plugins.module_utils.service_network import (
    NetworkError,
    find_faults,
    inspect_network,
    members,
    mend,
)

DOCUMENTATION = r"""
module: service_network
short_description: Bring the Docker network of a service in order
description:
  - A network that was removed, or that containers were taken off, is not mended by Compose, and containers on a network
    that is gone cannot even be started. This makes the network as Compose would and puts gateway and instances back on
    it while they run.
options:
  name: {description: Name of the service and of its network, type: str, required: true}
author: [The maintainers]
"""

EXAMPLES = r"""
- name: Bring the network in order
  service_network:
    name: timm-classifier
"""

RETURN = r"""
done: {description: What was mended, a sentence each, returned: success, type: list, elements: str}
"""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={"name": {"type": "str", "required": True}},
        supports_check_mode=True,
    )
    name = module.params["name"]
    try:
        done = find_faults(name, members(name), inspect_network(name)) if module.check_mode else mend(name)
    except NetworkError as error:
        module.fail_json(msg=str(error))
    except DockerError as error:
        module.fail_json(msg=f"The Docker network {name} cannot be repaired: {error}")
    module.exit_json(changed=bool(done), done=done)


if __name__ == "__main__":
    main()

#!/usr/bin/python
"""Ansible module: let the gateway's map say what serves, in its file and in the running gateway."""

from __future__ import annotations

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpu_hosts.timm.plugins.module_utils.bake import mend
from ansible_collections.gpu_hosts.timm.plugins.module_utils.haproxy_runtime import GatewayError
from ansible_collections.gpu_hosts.timm.plugins.module_utils.releases import WORDS

DOCUMENTATION = r"""
module: gateway_mend
short_description: Mend the gateway's map
description:
  - The map file is what the gateway reads when it starts, its memory is what requests follow. Where one of them was
    lost, garbled or differs, both get the word that M(release_info) found to be true. Nothing else changes.
options:
  state_dir: {description: The gateway's directory on the host, type: path, required: true}
  word: {description: What the map is to say, type: str, required: true}
author: [The maintainers]
"""

EXAMPLES = r"""
- name: Send requests to what serves
  gateway_mend:
    state_dir: /var/lib/timm-classifier/gateway
    word: blue
"""

RETURN = r"""#"""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state_dir": {"type": "path", "required": True},
            "word": {"type": "str", "required": True, "choices": list(WORDS)},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        changed = mend(Path(params["state_dir"]), params["word"], write=not module.check_mode)
    except (GatewayError, OSError) as error:
        module.fail_json(
            msg=f"The gateway's map in {params['state_dir']}/conf cannot be repaired: {error}. "
            "Free space or fix the permissions there, then run again."
        )
    module.exit_json(changed=changed)


if __name__ == "__main__":
    main()

#!/usr/bin/python
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Ansible module: put a vendor's signing key on the host, if it is the vendor's."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import fetch_url

from ansible_collections.gpu_hosts.timm.plugins.module_utils.signing_key import KeyUnreadableError, primary_fingerprints

DOCUMENTATION = r"""
---
module: signing_key
short_description: Fetch a signing key and keep it only with the right fingerprint
description:
  - A key that is there with a right fingerprint is not fetched again.
  - Works without gpg on the host.
options:
  url:
    description: Address of the key.
    type: str
    required: true
  dest:
    description: File to keep it in.
    type: path
    required: true
  fingerprints:
    description: Fingerprints that its primary keys may have.
    type: list
    elements: str
    required: true
author:
  - Inference platform maintainers
"""

EXAMPLES = r"""
- name: Fetch the vendor's signing key
  signing_key:
    url: https://download.docker.com/linux/debian/gpg
    dest: /etc/apt/keyrings/docker.asc
    fingerprints: [9DC858229FC7DD38854AE2D88D81803C0EBFCD88]
"""

RETURN = r"""
fingerprints: {description: Fingerprints of the key, returned: success, type: list, elements: str}
"""

_LARGEST = 2**20


def main() -> None:
    """Compare, fetch, compare, write."""
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "dest": {"type": "path", "required": True},
            "fingerprints": {"type": "list", "elements": "str", "required": True, "no_log": False},
        },
        supports_check_mode=True,
    )
    url, target = module.params["url"], Path(module.params["dest"])
    wanted = {"".join(text.split()).upper() for text in module.params["fingerprints"]}
    try:
        there = primary_fingerprints(target.read_bytes())
    except (OSError, KeyUnreadableError):
        there = []
    if there and set(there) <= wanted:
        module.exit_json(changed=False, fingerprints=there)
    response, info = fetch_url(module, url, timeout=30)
    if info["status"] != 200 or response is None:
        module.fail_json(msg=f"The signing key {url} cannot be fetched: {info['msg']}")
    content = response.read(_LARGEST)
    try:
        found = primary_fingerprints(content)
    except KeyUnreadableError as error:
        module.fail_json(msg=f"{url} is no signing key: {error}. Is a proxy or a login page in the way?")
    if not set(found) <= wanted:
        module.fail_json(
            msg=f"{url} is not the key that was expected: its fingerprint is {', '.join(found)}, expected "
            f"{' or '.join(sorted(wanted))}. Nothing was installed. Where the vendor announced a new key or you use a "
            "mirror with one of its own, name its fingerprint in the role's variable that ends in key_fingerprints."
        )
    if not module.check_mode:
        handle, name = tempfile.mkstemp(dir=module.tmpdir)
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        # Readable for everybody: apt reads keys as a user of its own.
        Path(name).chmod(0o644)
        target.parent.mkdir(parents=True, exist_ok=True)
        module.atomic_move(name, str(target))
    module.exit_json(changed=True, fingerprints=found)


if __name__ == "__main__":
    main()

#!/usr/bin/python
"""Documentation of the action `bundle_info`, which judges on the controller and needs only a shell on the host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: bundle_info
short_description: Read a bundle's identity and check its files' checksums
description:
  - Reads C(bundle.json) and compares each file that it lists, every byte of it. Changes nothing.
options:
  path: {description: The bundle's directory, type: path, required: true}
author: [The maintainers]
"""

EXAMPLES = r"""
- name: Look at a bundle
  bundle_info:
    path: models/efficientnet-lite0-imagenet/1
"""

RETURN = r"""
exists: {description: Whether there is a bundle.json, returned: success, type: bool}
sha256: {description: Digest of bundle.json, which is the bundle's identity, returned: success, type: str}
name: {description: Name in the manifest, returned: success, type: str}
version: {description: Version in the manifest, returned: success, type: str}
source_sha256: {description: Digest of the checkpoint that the bundle was made from, returned: success, type: str}
problems: {description: What is wrong, a sentence each, returned: success, type: list, elements: str}
"""

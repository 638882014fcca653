#!/usr/bin/python
"""Documentation of the action `copy_watched`, which lets Ansible's own copy do the work."""

from __future__ import annotations

DOCUMENTATION = r"""
module: copy_watched
short_description: Copy something large to a host, and say meanwhile how much of it has arrived
description:
  - Does what M(ansible.builtin.copy) does with these options.
options:
  src: {description: File or folder on the controller, type: path, required: true}
  dest: {description: Where it is copied to, type: path, required: true}
  owner: {description: Who owns it, type: str}
  group: {description: The group that owns it, type: str}
  mode: {description: Permissions of files, type: raw}
  directory_mode: {description: Permissions of folders that are made, type: raw}
author: [The maintainers]
"""

EXAMPLES = r"""
- name: Copy a bundle
  copy_watched:
    src: models/demo/1/
    dest: /var/lib/timm-classifier/bundles/demo/1/
    mode: "0644"
"""

RETURN = r"""
note: {description: How much it was, returned: when it was copied and is large, type: str}
"""

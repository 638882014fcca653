"""Lookup: where this collection lies, whatever playbook runs."""

from __future__ import annotations

from typing import Any

from ansible.plugins.lookup import LookupBase

from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.collection import ROOT

DOCUMENTATION = r"""
name: root_dir
short_description: The folder of this collection
description:
  - In a checkout it is the checkout, elsewhere what C(ansible-galaxy collection install) made.
  - The image's sources, the Compose files and example labels are found there from any playbook.
author: The maintainers
"""

EXAMPLES = r"""
- name: Show the example labels
  ansible.builtin.debug:
    msg: "{{ lookup('ansible.builtin.file', lookup('gpu_hosts.timm.root_dir') ~ '/app/data/labels/cat_breeds.txt') }}"
"""

RETURN = r"""
_raw: {description: The folder, type: list, elements: path}
"""


class LookupModule(LookupBase):
    """Takes no terms."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **_: Any) -> list[str]:
        """Return the folder."""
        return [str(ROOT)]

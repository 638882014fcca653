"""Lookup: which variables were given with -e."""

from __future__ import annotations

from typing import Any

from ansible.parsing.dataloader import DataLoader
from ansible.plugins.lookup import LookupBase
from ansible.utils.vars import load_extra_vars

DOCUMENTATION = r"""
name: overrides
short_description: Which of these variables were given with -e
description:
  - What is given with -e holds for one run only, so that a later one undoes it.
options:
  _terms: {description: Names of variables, required: true}
author: The maintainers
"""

EXAMPLES = r"""
- name: Remember what the next run will not have
  ansible.builtin.set_fact:
    example_overrides: "{{ lookup('gpu_hosts.timm.overrides', 'model_bundle_version') }}"
"""

RETURN = r"""
_raw: {description: One dictionary of those that were given, type: list, elements: dict}
"""


class LookupModule(LookupBase):
    """Reads the command line."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **_: Any) -> list[dict[str, str]]:
        """Return name and value of those that were given."""
        given = load_extra_vars(DataLoader())
        return [{name: str(given[name]) for name in terms if name in given}]

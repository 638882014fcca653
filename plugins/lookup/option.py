"""Lookup: what an option of a role is for a host, asked outside of that role."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.options import default_of

DOCUMENTATION = r"""
name: option
short_description: What an option of a role of this collection is for a host
description:
  - What is set for the host; else the default of the role's argument spec, which so stands in one place.
options:
  _terms: {description: Names of options, required: true}
author: The maintainers
"""

EXAMPLES = r"""
- name: Show where the service keeps its state
  ansible.builtin.debug:
    msg: "{{ lookup('gpu_hosts.timm.option', 'inference_service_state_dir') }}"
"""

RETURN = r"""
_raw: {description: The values, type: list, elements: raw}
"""


class LookupModule(LookupBase):
    """Knows the roles of this collection."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **_: Any) -> list[Any]:
        """Return the value of each option."""
        return [self._value(name, variables or {}) for name in terms]

    def _value(self, name: str, variables: dict[str, Any]) -> Any:
        if name in variables:
            return self._templar.template(variables[name])
        try:
            return default_of(name)
        except KeyError as error:
            raise AnsibleLookupError(f"{name} is no option of a role of this collection, or has no default") from error

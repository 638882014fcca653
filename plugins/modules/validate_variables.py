#!/usr/bin/python
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Documentation of the action `validate_variables`, which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: validate_variables
short_description: Refuse variables that no role knows
description:
  - Reads what the inventory, group_vars, host_vars and the command line set for a host,
    and compares it with the argument specifications of all roles.
  - A name that starts with a role's prefix must be an option of that role;
    any other name is refused when it nearly equals an option.
  - Facts, role defaults, variables of the playbook and names that start with V(ansible_) or V(__) are not looked at.
  - All wrong names are reported in one message, each with the nearest correct one.
options:
  roles_path:
    description: Folder of the roles. The default is C(roles) beside the folder of the playbook.
    type: path
  also_known:
    description: Further variables that are correct, such as the options of a playbook.
    type: list
    elements: str
    default: []
author:
  - Inference platform maintainers
"""

EXAMPLES = r"""
- name: Refuse unknown variables
  validate_variables:
    also_known: [verify_report]
"""

RETURN = r"""#"""

#!/usr/bin/python
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Documentation of the action `validate_variables`, which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: validate_variables
short_description: Refuse variables that nobody knows and values that cannot be right
description:
  - Reads what the inventory, group_vars, host_vars and the command line set for every host of the groups
    C(inference_hosts) and C(load_balancers) that the run works on, and compares it with the argument specifications
    of all roles and of the playbooks (C(playbooks/meta/argument_specs.yml)). Runs once, and connects to no host.
  - A name that starts with a role's prefix must be an option of that role. Any other name is refused when it nearly
    equals an option, leaves out one of its words or its first ones, or begins as an option of the playbooks and has
    another word of it. On the command line an option's last two words are enough, because such a name is addressed
    to this run.
  - A value must be of the type of its option, one of its choices, and what the option is about, such as a port.
    A text that YAML read as something else, such as 010 or 1.10, is refused with the advice to write it in quotes.
  - Facts, role defaults, variables of the playbook and names that start with V(ansible_) or V(__) are not looked at.
  - All that is wrong is reported in one message, with the hosts it is about and where it was written.
options: {}
author:
  - Inference platform maintainers
"""

EXAMPLES = r"""
- name: Refuse wrong variables
  validate_variables:
  run_once: true
"""

RETURN = r"""#"""

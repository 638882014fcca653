#!/usr/bin/python
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Documentation of the action `validate_run`, which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: validate_run
short_description: Refuse a run that would not do what its command line seems to ask for
description:
  - Refuses an inventory without the group C(inference_hosts), the demo inventory together with others, and tags that
    the playbook does not have.
  - Warns when the checkout's own C(ansible.cfg) is not in force.
  - Runs once, and connects to no host.
options:
  confirm:
    description:
      - The run removes something. When no inventory was named, have somebody confirm it on the terminal;
        without a terminal the run is refused.
    type: bool
    default: false
author:
  - Inference platform maintainers
"""

EXAMPLES = r"""
- name: Look at the run itself
  validate_run:
    confirm: true
  run_once: true
"""

RETURN = r"""#"""

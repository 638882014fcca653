#!/usr/bin/python
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Documentation of the action `validate_sources`, which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: validate_sources
short_description: Refuse a deploy whose sources on the controller cannot make a release
description:
  - Looks for every host of the run at the bundle, or at the checkpoint and the labels that one is to be made of (that
    they are there, and belong together), at the checkout, at the references of a pull, and at the controller's own
    Docker where it builds. Looks too whether load balancers and hosts go together.
  - All that is missing is reported in one message. Runs once, and connects to no host.
options: {}
author:
  - Inference platform maintainers
"""

EXAMPLES = r"""
- name: Look at what the release is made of
  validate_sources:
  run_once: true
"""

RETURN = r"""
models:
  description: For each host the C(folder) of its bundle below others, and about how many C(bytes) that needs.
  returned: success
  type: dict
"""

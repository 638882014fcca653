#!/usr/bin/python
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Documentation of the action `host_ready`, which runs the module `host_look`."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: host_ready
short_description: Refuse a host that a run could not finish, before anything is changed there
description:
  - The first word with a host. A connection that fails, a password that is missing and a host without Python are
    reported with what to do, and so is what M(host_look) finds. Changes nothing.
options:
  python:
    description: The interpreter that the inventory chose for this host; V(auto) looks where Ansible looks.
    type: str
    default: auto
  name:
    description: As of M(host_look).
    type: str
    required: true
  state_dir:
    description: As of M(host_look).
    type: path
    required: true
  address:
    description: As of M(host_look).
    type: str
    required: true
  port:
    description: As of M(host_look).
    type: int
    required: true
  settings:
    description: As of M(host_look).
    type: str
    choices: [inference_service, gateway]
    required: true
  rooms:
    description: As of M(host_look).
    type: list
    elements: dict
    default: []
author:
  - Inference platform maintainers
"""

EXAMPLES = r"""
- name: Look at the host
  host_ready:
    name: timm-classifier
    state_dir: /var/lib/timm-classifier/gateway
    address: 0.0.0.0
    port: 8000
    settings: inference_service
"""

RETURN = r"""#"""

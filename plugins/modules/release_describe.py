#!/usr/bin/python
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Documentation of the action `release_describe`, which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: release_describe
short_description: Put together what a deploy makes serve on a host
description:
  - A release is an image, a bundle and settings; its identity is a digest of the three. M(release_info) compares it
    with what serves.
  - Refuses settings that are not the service's, and GPUs that the host does not have or that containers do not get.
  - Connects to no host.
options:
  image:
    description: C(id), C(tag) and C(flavor) of the service's image, and C(gateway_id), the id of the gateway's.
    type: dict
    required: true
  bundle:
    description: C(name), C(version) and C(sha256) of the bundle. In a preview the last may not be known.
    type: dict
    required: true
  limits:
    description: C(cpus), C(memory), C(pids) and C(shm) of one instance; it never gets more cores than the host has.
    type: dict
    required: true
  env:
    description: Further settings of the service.
    type: dict
    default: {}
  gpus:
    description: The GPUs that are asked for, V(all) or a list.
    type: raw
    required: true
  reports:
    description: What the roles nvidia_driver, docker_engine and nvidia_container_toolkit published, as C(driver),
      C(engine) and C(toolkit).
    type: dict
    required: true
  source_dir:
    description: The folder with the Compose files.
    type: path
    required: true
  derived:
    description: Where an instance on the CPU finds what the image made of the bundle for it.
    type: str
    required: true
  managed:
    description: The Compose file with what a release under the gateway has beyond those, on C(cpu) and on C(cuda).
    type: dict
    required: true
author:
  - The maintainers
"""

EXAMPLES = r"""
- name: Put the wanted release together
  release_describe:
    image: {id: "sha256:0123", tag: "example:1", gateway_id: "sha256:4567", flavor: cpu}
    bundle: {name: demo, version: "1", sha256: "89ab"}
    limits: {cpus: 4, memory: 8g, pids: 512, shm: 1g}
    gpus: all
    reports: {driver: {}, engine: {ncpu: 8}, toolkit: {}}
    source_dir: "{{ lookup('gpu_hosts.timm.root_dir') }}"
    derived: /app/derived
    managed: {cpu: "services: {}", cuda: "services: {}"}
"""

RETURN = r"""
release: {description: Image, bundle and settings of the release, returned: success, type: dict}
files: {description: Names and contents of its Compose files in their order, returned: success, type: dict}
servers: {description: Names of its instances, returned: success, type: list, elements: str}
"""

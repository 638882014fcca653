#!/usr/bin/python
"""Documentation of the action `service_image`, which needs only a shell and Docker on the host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: service_image
short_description: Build an image, save images on the controller, load them on a host
description:
  - Works with the rights of the task; delegated to C(localhost) and without C(become) it talks to Docker as the user
    who runs Ansible does, by C(DOCKER_HOST) too.
  - An archive is made once a run. It is compressed, lies in private folders only, and is removed when task and run end.
  - What was loaded must be what was saved; otherwise it is removed and the task fails.
options:
  state:
    description:
      - V(built) runs O(command) in O(source_dir) unless the image in O(images) is there.
      - V(saved) brings one archive of O(images) from the host to the controller.
      - V(loaded) loads O(parcel) on the host unless it has these very images.
    type: str
    choices: [built, saved, loaded]
    required: true
  images: {description: "The images, for V(built) one.", type: list, elements: str}
  command: {description: "The command that builds, which writes BuildKit's plain progress.", type: list, elements: str}
  source_dir: {description: "The folder that the command runs in.", type: path}
  parcel: {description: "What V(saved) returned.", type: dict}
author: [The maintainers]
"""

EXAMPLES = r"""
- name: Save an image on the controller
  service_image:
    state: saved
    images: [example:1]
  delegate_to: localhost
  become: false
  register: __example_saved

- name: Load it on the host
  service_image:
    state: loaded
    parcel: "{{ __example_saved.parcel }}"
"""

RETURN = r"""
parcel:
  description: Where the archive lies on the controller, and each image's id, size and layers.
  returned: with V(saved)
  type: dict
"""

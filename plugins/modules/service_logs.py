#!/usr/bin/python
"""Ansible module: read what the containers of a service wrote."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpu_hosts.timm.plugins.module_utils.docker_host import (
    LABEL_NAME,
    LABEL_RELEASE,
    DockerError,
    last_log_lines,
    run_docker,
)

DOCUMENTATION = r"""
module: service_logs
short_description: Read what the containers of a service wrote
description:
  - The last lines of every instance, the gateway and its keeper, merged by time. Changes nothing.
  - As an action it can O(follow), which shows new lines as they come, until the run is interrupted.
options:
  name: {description: Name of the service; that of a load balancer ends in C(-balancer), type: str, required: true}
  release:
    description: Only instances of this release; without it all containers of the service.
    type: str
    default: ""
  lines: {description: How many lines of each container at most, type: int, default: 50}
  since: {description: Only lines written after this time, as RETURN has it., type: str, default: ""}
  follow: {description: Go on with what is written from now on, type: bool, default: false}
author: [The maintainers]
"""

EXAMPLES = r"""
- name: Read the last lines
  service_logs:
    name: timm-classifier
"""

RETURN = r"""
lines: {description: Each with its container and release before it, returned: success, type: list, elements: str}
until: {description: Time of the last line, returned: success, type: str}
"""


def list_containers(service: str) -> list[tuple[str, str]]:
    """Return name and release of every container of the service, stopped ones included; the gateway's have none."""
    form = f'{{{{.Names}}}}\t{{{{.Label "{LABEL_RELEASE}"}}}}'
    listed = run_docker(["ps", "--all", f"--filter=label={LABEL_NAME}={service}", f"--format={form}"])
    return sorted((name, release) for name, _, release in (line.partition("\t") for line in listed.splitlines()))


def read(container: str, release: str, lines: int, since: str) -> list[tuple[str, str]]:
    """Return time and text of the lines of one container; the text begins with where it is from."""
    source = f"{container} {release}".strip()
    found = []
    # Docker's own --since takes the line of that very moment again.
    for line in last_log_lines(container, lines, "--timestamps", *(["--since", since] if since else [])):
        time, _, text = line.partition(" ")
        if time > since:
            found.append((time, f"{source}  {text}"))
    return found


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "release": {"type": "str", "default": ""},
            "lines": {"type": "int", "default": 50},
            "since": {"type": "str", "default": ""},
            "follow": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        containers = list_containers(params["name"])
    except DockerError as error:
        module.fail_json(msg=f"The containers of {params['name']} cannot be asked for: {error}")
    known = ", ".join(sorted({release for _, release in containers if release})) or "none"
    if params["release"]:
        containers = [item for item in containers if item[1] == params["release"]]
    if params["release"] and not containers:
        # Of a fleet, one host may well have it and another not.
        words = f"No container of release {params['release']} is here; the releases with one: {known}."
        module.exit_json(changed=False, lines=[] if params["since"] else [words], until=params["since"])
    found = sorted(line for item in containers for line in read(*item, params["lines"], params["since"]))
    until = found[-1][0] if found else params["since"]
    module.exit_json(changed=False, lines=[text for _, text in found], until=until)


if __name__ == "__main__":
    main()

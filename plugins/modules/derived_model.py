#!/usr/bin/python
"""Ansible module: have a release's image make what this host's CPU computes of the release's bundle."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpu_hosts.timm.plugins.module_utils.docker_host import TOOL_OPTIONS, DockerError, run_docker
from ansible_collections.gpu_hosts.timm.plugins.module_utils.releases import BUNDLES, derived_folder

DOCUMENTATION = r"""
module: derived_model
short_description: Make a release's derived model, which its instances then start with
description:
  - Runs C(python -m app.derive) in the release's image with the release's settings and limits, unless what it makes is
    there already. It converts and tries for this host's CPU, so that no start has to.
  - Where it cannot be made the instances convert at each start, so this is a warning and no failure.
options:
  state_dir: {description: The service's state directory, type: path, required: true}
  release: {description: The release as its release.json holds it, type: dict, required: true}
  models: {description: Where the instances see the bundles, type: str, required: true}
  timeout: {description: Seconds that it may take, type: int, default: 180}
author: [The maintainers]
"""

EXAMPLES = r"""
- name: Make the derived model
  derived_model:
    state_dir: /var/lib/timm-classifier
    release: "{{ inference_service_plan.release }}"
    models: /app/models
"""

RETURN = r"""
engine: {description: What computes and in which number format; empty without one, returned: success, type: str}
reason: {description: Why this engine, returned: success, type: str}
seconds: {description: How long it took, returned: success, type: float}
"""

# Docker needs time to begin and end a container beside what runs in it.
ALLOWANCE = 60


def command(state_dir: Path, release: dict[str, Any], models: str, timeout: int) -> list[str]:
    """Return the arguments of docker: the release's own settings and limits, no network, and one folder to write to."""
    settings, bundle = release["settings"], release["bundle"]
    environment = {**settings["env"], "API_BUNDLE_PATH": f"{models}/{bundle['name']}/{bundle['version']}"}
    return [
        *("run", *TOOL_OPTIONS, "--network=none"),
        *(f"--cpus={settings['cpus']}", f"--memory={settings['memory']}", f"--pids-limit={settings['pids']}"),
        f"--volume={state_dir / BUNDLES}:{models}:ro",
        f"--volume={derived_folder(state_dir, release)}:{environment['API_DERIVED_PATH']}",
        *(f"--env={name}={value}" for name, value in sorted(environment.items())),
        release["image"]["id"],
        # Ends it although nobody waits for it any more.
        *("timeout", str(timeout), "python", "-m", "app.derive"),
    ]


def derive(state_dir: Path, release: dict[str, Any], models: str, timeout: int) -> dict[str, Any]:
    """Have it made, and return what the image says of it."""
    folder = derived_folder(state_dir, release)
    for path in (folder.parent, folder):
        path.mkdir(parents=True, exist_ok=True)
        # Whatever the umask: the service reads it as a user of its own.
        path.chmod(0o755)
    printed = run_docker(command(state_dir, release, models, timeout), timeout=timeout + ALLOWANCE)
    said: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return said


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state_dir": {"type": "path", "required": True},
            "release": {"type": "dict", "required": True},
            "models": {"type": "str", "required": True},
            "timeout": {"type": "int", "default": 180},
        },
        supports_check_mode=False,
    )
    params, began = module.params, time.monotonic()
    said: dict[str, Any] = {}
    try:
        said = derive(Path(params["state_dir"]), params["release"], params["models"], params["timeout"])
    except (DockerError, OSError, ValueError, IndexError) as error:
        why = next((line for line in str(error).splitlines() if line.startswith("error[")), str(error).strip())
        module.warn(f"No derived model: {why.rstrip('.')}. The instances convert the model at each start instead.")
    module.exit_json(
        changed=bool(said.get("made")),
        engine=f"{said['engine']} in {said['precision']}" if said else "",
        reason=said.get("reason", ""),
        seconds=round(time.monotonic() - began, 1),
    )


if __name__ == "__main__":
    main()

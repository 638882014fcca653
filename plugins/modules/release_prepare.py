#!/usr/bin/python
"""Ansible module: lay down everything that a release's containers are started from."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpu_hosts.timm.plugins.module_utils.releases import IDENTITY, is_kept, write_atomically

DOCUMENTATION = r"""
module: release_prepare
short_description: Write a release's directory and the environment files of its instances
description:
  - A release's directory never changes once it is there, so that going back to it starts exactly what ran before; only
    one that was damaged is written again.
  - The environment files say which color and GPU an instance gets; they are written anew for each start.
options:
  state_dir: {description: The service's state directory, type: path, required: true}
  release_id: {description: Identity of the release, type: str, required: true}
  files: {description: File names and contents of the release's directory, type: dict, required: true}
  instances:
    description: The instances to be started, as C(plan.instances) of M(release_info) has them.
    type: list
    elements: dict
    default: []
author: [The maintainers]
"""

EXAMPLES = r"""
- name: Write the release
  release_prepare:
    state_dir: /var/lib/timm-classifier
    release_id: 0123456789ab
    files: {release.json: "{}"}
    instances: "{{ plan.instances }}"
"""

RETURN = r"""
path: {description: The release's directory, returned: success, type: str}
"""


def write_release(folder: Path, files: dict[str, str]) -> bool:
    """Write the directory in one step; return whether it was new, or damaged and written again."""
    if folder.is_dir():
        intact = is_kept(folder) and all((folder / name).stat().st_size > 0 for name in files if files[name])
        for name, content in files.items() if not intact else []:
            write_atomically(folder / name, content)
        return bool(files) and not intact
    folder.parent.mkdir(parents=True, exist_ok=True)
    # The host's lock is ours: what is half written belongs to a run that died.
    for unfinished in folder.parent.glob(f".{IDENTITY}.*"):
        shutil.rmtree(unfinished, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        for name, content in files.items():
            write_atomically(staging / name, content)
        staging.chmod(0o755)
        staging.rename(folder)
    except BaseException as error:
        shutil.rmtree(staging, ignore_errors=True)
        # A release never changes, so one that another process wrote meanwhile is this one.
        if isinstance(error, OSError) and (folder / "release.json").is_file():
            return False
        raise
    return True


def environment(instance: dict[str, Any]) -> str:
    """Return what Compose fills in for one instance, as an environment file."""
    values = {
        "RELEASE_COLOR": instance["color"],
        # As the Compose files of releases from before 1.0.0 call it, which can be gone back to.
        "RELEASE_COLOUR": instance["color"],
        "RELEASE_INSTANCE": instance["index"],
        "GPU_DRIVER": instance["driver"],
        "GPU_DEVICE_ID": instance["gpu"],
    }
    return "".join(f"{name}={value}\n" for name, value in values.items())


def write_instances(instances: Iterable[dict[str, Any]]) -> bool:
    """Write the environment files whose content differs; return whether there were any."""
    changed = False
    for instance in instances:
        path, content = Path(instance["env_file"]), environment(instance)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text(encoding="utf-8") != content:
            write_atomically(path, content)
            changed = True
    return changed


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state_dir": {"type": "path", "required": True},
            "release_id": {"type": "str", "required": True},
            "files": {"type": "dict", "required": True},
            "instances": {"type": "list", "elements": "dict", "default": []},
        },
        supports_check_mode=False,
    )
    state_dir = Path(module.params["state_dir"])
    folder = state_dir / "releases" / module.params["release_id"]
    try:
        new = write_release(folder, module.params["files"])
        changed = write_instances(module.params["instances"])
    except OSError as error:
        module.fail_json(
            msg=f"The release cannot be written: {error}. Free space or fix the permissions there, then run again."
        )
    module.exit_json(changed=new or changed, path=str(folder))


if __name__ == "__main__":
    main()

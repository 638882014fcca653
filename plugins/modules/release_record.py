#!/usr/bin/python
"""Ansible module: write the record of a run, and forget what is no longer worth keeping."""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpu_hosts.timm.plugins.module_utils.docker_host import (
    LABEL_NAME,
    DockerError,
    inspect_listed,
    run_docker,
)
from ansible_collections.gpu_hosts.timm.plugins.module_utils.host_address import state_folder_of
from ansible_collections.gpu_hosts.timm.plugins.module_utils.releases import (
    DERIVED,
    IDENTITY,
    ReleaseError,
    bundle_folder,
    derived_folder,
    is_kept,
    kept_releases,
    prune_records,
    read_json,
    read_records,
    read_release,
    releases_to_keep,
    write_record,
)

DOCUMENTATION = r"""
module: release_record
short_description: Append a release record and prune old releases
description:
  - Writes C(records/SEQUENCE-RELEASE.json). After a good run it removes releases beyond O(keep), with the bundles and
    images that only they used, and what was derived of these. The live release and the one before it always stay, and
    so does an image that another service of the host can go back to.
options:
  state_dir: {description: The service's state directory, type: path, required: true}
  record: {description: What happened, type: dict, required: true}
  started: {description: Start of the run in seconds since the epoch, type: float, required: true}
  keep: {description: How many good releases to keep, type: int, default: 5}
author: [The maintainers]
"""

EXAMPLES = r"""
- name: Record the release
  release_record:
    state_dir: /var/lib/timm-classifier
    record: {release_id: 0123456789ab, action: deploy, result: ok}
    started: 1790000000.0
"""

RETURN = r"""
path: {description: The record's file, returned: success, type: str}
pruned: {description: What was removed, returned: success, type: list, elements: str}
"""


def timestamp(seconds: float) -> str:
    """Return the time as ISO 8601 in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def prune(state_dir: Path, keep: list[str], live: dict[str, Any]) -> list[str]:
    """Remove the releases that are not in keep, and the bundles and images that none of those kept, nor live, uses."""
    releases = {
        path.name: path
        for path in (state_dir / "releases").glob("*")
        if re.fullmatch(IDENTITY, path.name) and path.is_dir() and not path.is_symlink()
    }
    described = {name: read_json(path / "release.json") for name, path in releases.items() if is_kept(path)}
    used = [live, *(release for name, release in described.items() if name in keep)]
    bundles = {bundle_folder(state_dir, release) for release in used}
    images = {release["image"]["id"] for release in used}
    pruned, unused = [], []
    for name, path in releases.items():
        if name in keep:
            continue
        shutil.rmtree(path)
        pruned.append(f"release {name}")
        # What a damaged folder used is not known, so it stays.
        old = described.get(name)
        if old is None:
            continue
        bundle = bundle_folder(state_dir, old)
        # A link is somebody's own arrangement, and so is what it leads to.
        if bundle not in bundles and bundle.is_dir() and not bundle.is_symlink():
            shutil.rmtree(bundle)
            pruned.append(f"bundle {bundle.parent.name} {bundle.name}")
        if old["image"]["id"] not in images:
            unused.append(old["image"])
    return [*pruned, *remove_images(state_dir, unused), *prune_derived(state_dir, used)]


def remove_images(state_dir: Path, images: list[dict[str, Any]]) -> list[str]:
    """Remove images that this service no longer uses, where it is known that no other one of the host needs them."""
    try:
        beside = images_beside(state_dir) if images else set()
    except (DockerError, ReleaseError, OSError):
        return []
    removed = []
    for image in images:
        if image["id"] in beside:
            continue
        # An image that something else still uses, or that is gone already, is none of our business.
        with contextlib.suppress(DockerError):
            run_docker(["image", "rm", *own_names(image)])
            removed.append(f"image {image['id'][:19]}")
    return removed


def images_beside(state_dir: Path) -> set[str]:
    """Return the images that other services of this host can go back to; no container need run of them."""
    containers = inspect_listed("--all", f"--filter=label={LABEL_NAME}")
    folders = {Path(folder).resolve() for folder in map(state_folder_of, containers) if folder}
    return {
        read_release(folder, identity)["image"]["id"]
        for folder in folders - {state_dir.resolve()}
        for identity in kept_releases(folder)
    }


def prune_derived(state_dir: Path, used: list[dict[str, Any]]) -> list[str]:
    """Remove the derived models that none of the releases uses: those of a bundle or an image that is gone."""
    needed = {derived_folder(state_dir, release) for release in used}
    old = [
        path
        for path in sorted((state_dir / DERIVED).glob(f"{IDENTITY}-{IDENTITY}"))
        if path not in needed and path.is_dir() and not path.is_symlink()
    ]
    for path in old:
        shutil.rmtree(path)
    return [f"derived model {path.name}" for path in old]


def repository_of(reference: str) -> str:
    """Return a reference without tag and digest."""
    folder, slash, name = reference.partition("@")[0].rpartition("/")
    return f"{folder}{slash}{name.partition(':')[0]}"


def own_names(image: dict[str, Any]) -> list[str]:
    """Return the image's tags in the repository that the release had it from; an image without tags has its id.

    Removing the last tag removes the image; one that somebody else has tagged stays under that name.
    """
    names = run_docker(["image", "inspect", "--format", '{{join .RepoTags "\\n"}}', image["id"]]).split()
    repository = repository_of(str(image.get("tag") or ""))
    own = [name for name in names if repository in ("", repository_of(name))]
    if names and not own:
        raise DockerError(f"image {image['id']} is tagged as {', '.join(names)}")
    return own or [image["id"]]


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state_dir": {"type": "path", "required": True},
            "record": {"type": "dict", "required": True},
            "started": {"type": "float", "required": True},
            "keep": {"type": "int", "default": 5},
        },
        supports_check_mode=False,
    )
    state_dir, finished = Path(module.params["state_dir"]), time.time()
    record = {
        **module.params["record"],
        "started": timestamp(module.params["started"]),
        "finished": timestamp(finished),
        # The host's clock may have been set back meanwhile.
        "seconds": round(max(0.0, finished - module.params["started"]), 1),
    }
    pruned: list[str] = []
    try:
        path = write_record(state_dir, record)
        if record["result"] == "ok":
            records, _ = read_records(state_dir)
            keep = releases_to_keep(records, record["release_id"], module.params["keep"], kept_releases(state_dir))
            pruned = prune(state_dir, keep, record)
            forgotten = prune_records(state_dir, keep)
            pruned += [f"{forgotten} records"] if forgotten else []
    except (OSError, ReleaseError) as error:
        module.fail_json(msg=f"The record in {state_dir / 'records'} could not be kept: {error}")
    module.exit_json(changed=True, path=str(path), pruned=pruned)


if __name__ == "__main__":
    main()

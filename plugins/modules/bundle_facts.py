#!/usr/bin/python
"""Ansible module: check a bundle's files against its manifest, without the service's image."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: bundle_facts
short_description: Read a bundle's identity and check its files' checksums
description:
  - Reads C(bundle.json) and compares each file that it lists. Changes nothing.
options:
  path: {description: The bundle's directory, type: path, required: true}
  checksums: {description: Whether to read the listed files in full, type: bool, default: true}
author: [The maintainers]
"""

EXAMPLES = r"""
- name: Look at a bundle
  bundle_facts:
    path: models/efficientnet-lite0-imagenet/1
"""

RETURN = r"""
exists: {description: Whether there is a bundle.json, returned: success, type: bool}
sha256: {description: Digest of bundle.json, which is the bundle's identity, returned: success, type: str}
name: {description: Name in the manifest, returned: success, type: str}
version: {description: Version in the manifest, returned: success, type: str}
source_sha256: {description: Digest of the checkpoint that the bundle was made from, returned: success, type: str}
problems: {description: What is wrong, a sentence each, returned: success, type: list, elements: str}
"""


def listed_files(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the entries (file, sha256, bytes) that the manifest lists."""
    return [manifest["weights"], manifest["labels"], manifest["golden"], *manifest["golden_samples"]]


def sha256_of(path: Path) -> str:
    """Return the file's SHA-256 in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_file(bundle: Path, entry: dict[str, Any], checksums: bool) -> str:
    """Return what is wrong with one listed file, or ''."""
    path = bundle / entry["file"]
    if not path.is_file():
        return f"{path} is missing"
    size = path.stat().st_size
    if size != entry["bytes"]:
        return f"{path} has {size} bytes, its manifest says {entry['bytes']}"
    if checksums and sha256_of(path) != entry["sha256"]:
        return f"{path} differs from the checksum in its manifest"
    return ""


def read_bundle(bundle: Path, checksums: bool) -> dict[str, Any]:
    """Return identity and problems of the bundle in the directory."""
    source = bundle / "bundle.json"
    if not source.is_file():
        problems = [f"{source} is missing"]
        return {"exists": False, "sha256": "", "name": "", "version": "", "source_sha256": "", "problems": problems}
    content = source.read_bytes()
    try:
        manifest = json.loads(content)
        problems = [check_file(bundle, entry, checksums) for entry in listed_files(manifest)]
        name, version, made_from = str(manifest["name"]), str(manifest["version"]), str(manifest["source"]["sha256"])
    except (ValueError, KeyError, TypeError) as error:
        problems, name, version, made_from = [f"{source} is not a bundle manifest ({error!r})"], "", "", ""
    return {
        "exists": True,
        "sha256": hashlib.sha256(content).hexdigest(),
        "name": name,
        "version": version,
        "source_sha256": made_from,
        "problems": [problem for problem in problems if problem],
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "checksums": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    try:
        facts = read_bundle(Path(module.params["path"]), module.params["checksums"])
    except OSError as error:
        module.fail_json(msg=f"The bundle in {module.params['path']} cannot be read: {error}")
    module.exit_json(changed=False, **facts)


if __name__ == "__main__":
    main()

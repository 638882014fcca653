"""Lookup: one digest over files and folders, for asking whether an image must be built again."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

DOCUMENTATION = r"""
name: tree_digest
short_description: Digest of the names and contents of files below a folder
description: Hidden files, caches and compiled Python files do not count; neither do times and owners.
options:
  _terms: {description: Files and folders below O(root), required: true}
  root: {description: The folder, required: true, type: path}
author: The maintainers
"""


def files_of(root: Path, term: str) -> list[Path]:
    """Return the files that the term stands for, below root."""
    path = root / term
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise AnsibleLookupError(f"{path} does not exist, so the image's sources are not complete")
    found = [item for item in path.rglob("*") if item.is_file() and item.suffix != ".pyc"]
    return [item for item in found if not any(part.startswith(".") for part in item.relative_to(root).parts)]


def tree_digest(root: Path, terms: list[str]) -> str:
    """Return the SHA-256 over names, executable bits and contents, in hexadecimal digits."""
    digest = hashlib.sha256()
    for path in sorted({item for term in terms for item in files_of(root, term)}):
        executable = bool(path.stat().st_mode & 0o111)
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(root)}\0{executable}\0{content}\n".encode())
    return digest.hexdigest()


class LookupModule(LookupBase):
    """Runs on the controller, where the sources are."""

    def run(self, terms: list[str], variables: Any = None, **kwargs: Any) -> list[str]:
        """Return a list with the one digest."""
        self.set_options(var_options=variables, direct=kwargs)
        return [tree_digest(Path(self.get_option("root")), terms)]

"""What the image's build removes from the packages: what the list names, and nothing beside it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCKER = Path(__file__).parents[3] / "docker"


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """An installed tree with tests, a library under two names, and something outside that a link leads to."""
    for name in ("torch/test/a.py", "torch/lib/libbig.so.1", "timm/models.py", "timm/test_names.py"):
        path = tmp_path / "opt" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 1000)
    (tmp_path / "opt/torch/lib/libbig.so").symlink_to("libbig.so.1")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    (tmp_path / "opt/torch/include").symlink_to(tmp_path / "precious")
    return tmp_path / "opt"


def prune(folder: Path, *lines: str) -> str:
    listing = folder.parent / "list.txt"
    listing.write_text("\n".join(lines) + "\n")
    command = [sys.executable, str(DOCKER / "prune.py"), str(listing), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def left(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()}


def test_folders_and_files_that_are_named_go_and_what_lies_beside_stays(packages: Path) -> None:
    said = prune(packages, "# what nobody calls", "*/test  # its tests", "*/test/*.py", "torch/lib/libbig.so.1", "")
    assert left(packages) == {"torch/lib/libbig.so", "torch/include", "timm/models.py", "timm/test_names.py"}
    assert re.search(r"0\.0 MB  \*/test\n", said)
    assert said.endswith(f"removed from {packages}\n")


def test_of_a_link_the_link_goes(packages: Path) -> None:
    prune(packages, "torch/include", "torch/lib/libbig.so")
    assert left(packages) >= {"torch/lib/libbig.so.1"}
    assert not (packages / "torch/include").is_symlink()
    assert (packages.parent / "precious" / "file").exists()


def test_nothing_that_the_list_names_lies_outside() -> None:
    patterns = [line.split("#")[0].strip() for line in (DOCKER / "prune.txt").read_text().splitlines()]
    assert [pattern for pattern in patterns if pattern.startswith("/") or ".." in Path(pattern).parts] == []
    # A folder by its whole name, not all of them.
    assert [pattern for pattern in patterns if pattern in ("*", "**", "**/*")] == []

"""Every detection has a test that misses it: take one out of the code, and a test of the catalog fails.

A detection is one place in the code that names a finding's id. Each is spoilt in turn, in a copy of its module that
only a forked process imports, and the tests named after the id (`test_gpu012_...`, or by a parameter) run against that.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path

import coverage
import pytest

from tests.collection import COLLECTIONS

PACKAGE = "ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host"
CATALOG = ("test_gpu_host_info.py", "test_gpu_host_catalog.py", "test_gpu_host_reports.py")
IDENTIFIER = re.compile(r"(?:GPU|ENG)\d{3}")


@dataclass(frozen=True)
class Detection:
    """One place in the code that names a finding."""

    module: str
    line: int
    column: int
    identifier: str

    def __str__(self) -> str:
        return f"{self.identifier} at {self.module}.py:{self.line}"


def detections() -> Iterator[Detection]:
    for path in sorted((COLLECTIONS / PACKAGE.replace(".", "/")).glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        # A key of a table, such as that of the remedies, decides nothing.
        keys = [key for node in ast.walk(tree) if isinstance(node, ast.Dict) for key in node.keys]
        for node in ast.walk(tree):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or node in keys:
                continue
            if IDENTIFIER.fullmatch(node.value):
                yield Detection(path.stem, node.lineno, node.col_offset, node.value)


class Finder(MetaPathFinder):
    """Find the spoilt copy of one module before the module itself."""

    def __init__(self, name: str, copy: Path) -> None:
        self.name, self.copy = name, copy

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        return spec_from_file_location(fullname, self.copy) if fullname == self.name else None


def spoilt(detection: Detection, folder: Path) -> Finder:
    """Copy the detection's module, with the id of a finding that nobody knows in this one place."""
    source = COLLECTIONS / PACKAGE.replace(".", "/") / f"{detection.module}.py"
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    line, place = lines[detection.line - 1], detection.column
    lines[detection.line - 1] = line[:place] + line[place:].replace(detection.identifier, "GPU999", 1)
    copy = folder / source.name
    copy.write_text("".join(lines), encoding="utf-8")
    return Finder(f"{PACKAGE}.{detection.module}", copy)


def is_a_test(name: str) -> bool:
    """Whether the module of this name lies beside this file."""
    return Path(getattr(sys.modules[name], "__file__", None) or "/").parent == Path(__file__).parent


def run_with(finder: Finder, arguments: list[str]) -> int:
    """Run tests in a process of their own that imports what the finder finds; their exit code comes back."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 70
    try:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        # What spoilt code reaches is nobody's coverage, and to measure it takes most of the time.
        if measured := coverage.Coverage.current():
            measured.stop()
        # What a run of all tests has imported already knows the module as it was.
        for name in [item for item in sys.modules if item.startswith(PACKAGE) or is_a_test(item)]:
            del sys.modules[name]
        sys.meta_path.insert(0, finder)
        code = int(pytest.main(arguments))
    finally:
        os._exit(code)


@pytest.mark.parametrize("detection", list(detections()), ids=str)
def test_a_test_misses_it(detection: Detection, tmp_path: Path) -> None:
    files = [str(Path(__file__).with_name(name)) for name in CATALOG]
    # Nobody reads why the test fails, so nothing is spent on a message.
    quick = ["-x", "-q", "-p", "no:cacheprovider", "--assert=plain", f"--basetemp={tmp_path / 'tests'}"]
    code = run_with(spoilt(detection, tmp_path), [*quick, "-k", detection.identifier.lower(), *files])
    assert code == pytest.ExitCode.TESTS_FAILED, f"without {detection} every test named after it still passes"

"""Libraries that stand in for large ones, made from small ones that are compiled here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

DOCKER = Path(__file__).parents[3] / "docker"
LISTING = DOCKER / "stand-ins.txt"
pytestmark = pytest.mark.skipif(not shutil.which("gcc"), reason="needs a compiler")

HEADER = """
/* waveStart() is what begins. */
typedef enum { WAVE_SUCCESS = 0, WAVE_NOT_SUPPORTED = 0x10 } waveStatus_t;
#ifndef WAVE_API
#define WAVE_API
#endif
waveStatus_t WAVE_API waveStart(void **handle);
waveStatus_t WAVE_API
waveText(waveStatus_t status, int verbose,
         const char **text);
const char *waveName(waveStatus_t status);
waveStatus_t waveUnused(int);
double waveHeight(void);
"""
LIBRARY = """
int waveStart(void **handle) { *handle = &waveStart; return 0; }
int waveText(int status, int verbose, const char **text) { *text = "fine"; return 0; }
const char *waveName(int status) { return "fine"; }
int waveUnused(int number) { return number; }
double waveHeight(void) { return 1.5; }
int waveSecret(void) { return 1; }
int waveCount = 3;
"""
VERSIONS = "WAVE_2.1 { waveStart; waveText; };"
USER = """
#include <stdio.h>
int waveStart(void **handle);
int waveText(int status, int verbose, const char **text);
const char *waveName(int status);
int user(void) {
    void *handle;
    const char *text = 0;
    int first = waveStart(&handle), second = waveText(first, 1, &text);
    printf("%d %d %s; %s\\n", first, second, text, waveName(first));
    return 0;
}
"""
LINE = "wave/lib/libwave.so.*  waveStatus_t  WAVE_NOT_SUPPORTED  # waves"


def compile_c(target: Path, code: str, *options: str) -> None:
    """Compile code to a shared library."""
    target.parent.mkdir(parents=True, exist_ok=True)
    words = ["gcc", "-shared", "-fPIC", "-o", str(target), "-x", "c", "-", "-x", "none", *options]
    subprocess.run(words, input=code, check=True, text=True)


class Tree:
    """A library of waves with its header, and what uses it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "stack"
        self.library = self.folder / "wave" / "lib" / "libwave.so.2"
        versions = folder / "versions"
        versions.write_text(VERSIONS)
        compile_c(self.library, LIBRARY, "-Wl,-soname,libwave.so.2", f"-Wl,--version-script={versions}")
        header = self.folder / "wave" / "include" / "wave.h"
        header.parent.mkdir()
        header.write_text(HEADER)
        self.use("libuser.so", USER)

    def use(self, name: str, code: str) -> None:
        compile_c(self.folder / "user" / name, code, str(self.library))

    def stand_in(self, line: str = LINE) -> subprocess.CompletedProcess[str]:
        whole = self.folder.with_name("whole")
        if not whole.exists():
            shutil.copytree(self.folder, whole)
        shutil.rmtree(self.folder / "wave" / "include", ignore_errors=True)
        listing = self.folder.with_name("list.txt")
        listing.write_text(f"# A comment\n\nno/such/lib.so*  -  -  # nothing\n{line}\n")
        words = [sys.executable, str(DOCKER / "stand_in.py"), str(listing), str(self.folder), str(whole)]
        return subprocess.run(words, capture_output=True, text=True, check=False)

    def call(self) -> subprocess.CompletedProcess[str]:
        code = f"import ctypes; ctypes.CDLL({str(self.folder / 'user' / 'libuser.so')!r}).user()"
        environment = os.environ | {"LD_LIBRARY_PATH": str(self.library.parent), "LD_BIND_NOW": "1"}
        return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def defined(library: Path) -> list[str]:
    words = ["nm", "--dynamic", "--defined-only", str(library)]
    lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    return sorted(line.split()[-1] for line in lines)


def test_a_call_is_answered_with_the_error_of_the_header_and_says_what_is_missing_once(tree: Tree) -> None:
    assert tree.call().stdout == "0 0 fine; fine\n"
    done = tree.stand_in()
    assert done.returncode == 0, done.stderr
    assert "wave/lib/libwave.so.2: 3 functions stood in for" in done.stdout
    said = "libwave.so.2 is a stand-in: this image leaves out waves. "
    said += "To have that, build with --build-arg CUDA_LIBRARIES=whole"
    called = tree.call()
    assert called.stdout == f"16 16 {said}; {said}\n"
    assert called.stderr == f"{said} (waveStart was called)\n"


def test_it_has_the_symbols_that_are_asked_for_in_their_versions_and_no_other(tree: Tree) -> None:
    tree.stand_in()
    names = [name for name in defined(tree.library) if not name.startswith("WAVE")]
    assert names == ["waveName", "waveStart@@WAVE_2.1", "waveText@@WAVE_2.1"]
    dynamic = subprocess.run(["readelf", "-d", str(tree.library)], capture_output=True, text=True, check=True).stdout
    assert "Library soname: [libwave.so.2]" in dynamic
    assert tree.library.stat().st_size < 20_000
    assert sorted(path.name for path in tree.library.parent.iterdir()) == ["libwave.so.2"]


@pytest.mark.parametrize(
    ("code", "line", "said"),
    [
        ("int waveUnused(int); int more(void) { return waveUnused(1); }",
         "wave/lib/libwave.so.*  -  -  # waves", "are asked for now; the list has no answer for them"),
        ("int waveSecret(void); int more(void) { return waveSecret(); }", LINE,
         "no header says that waveSecret answers with waveStatus_t or a text"),
        ("double waveHeight(void); int more(void) { return waveHeight() > 1; }", LINE,
         "no header says that waveHeight answers with waveStatus_t or a text"),
        ("extern int waveCount; int more(void) { return waveCount; }", LINE, "waveCount is no function"),
        ("", LINE.replace("WAVE_NOT_SUPPORTED", "WAVE_NO"), "no header gives WAVE_NO a number"),
        ("", LINE.replace("#", ""), "is not: library, type, answer, # what is missing then"),
    ],
    ids=["asked for after all", "unknown to the headers", "another type", "data", "another error", "no reason"],
)  # fmt: skip
def test_what_a_new_version_asks_for_beside_that_ends_the_build(tree: Tree, code: str, line: str, said: str) -> None:
    if code:
        tree.use("libmore.so", code)
    done = tree.stand_in(line)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert list(map(str.strip, defined(tree.library))).count("waveUnused") == 1, "the real one stays"


def test_a_library_that_nothing_asks_is_empty(tree: Tree) -> None:
    tree.use("libuser.so", "int user(void) { return 0; }")
    done = tree.stand_in("wave/lib/libwave.so.*  -  -  # waves")
    assert done.returncode == 0, done.stderr
    assert defined(tree.library) == []
    tree.call()


def entries(path: Path) -> Sequence[list[str]]:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return [re.split(r"\s{2,}", line) for line in lines]


def test_every_line_of_the_list_has_its_four_columns_and_both_layouts_of_wheels_are_covered() -> None:
    rows = entries(LISTING)
    assert {len(row) for row in rows} == {4}
    assert all(row[3].startswith("# ") for row in rows)
    names = [Path(row[0]).name for row in rows]
    # CUDA 12's wheels have a folder each, CUDA 13's share one; NCCL has its own in both.
    assert {name for name in names if names.count(name) != 2} == {"libnccl.so.*"}
    # What a forward pass computes with is never stood in for.
    assert not re.search(r"cublas|cudnn|cudart|nvrtc", " ".join(names))


def test_nothing_is_both_pruned_and_stood_in_for() -> None:
    pruned = {row[0].removeprefix("torch/") for row in entries(DOCKER / "prune.txt")}
    assert not pruned & {row[0] for row in entries(LISTING)}

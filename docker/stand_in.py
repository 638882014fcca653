"""Put small libraries in the places of large ones that are linked, and never called by what the image is for.

A stand-in has the name of the library, and of its symbols those that the other libraries ask for, in the same versions,
so the dynamic loader is content. What a function answers is looked up in the library's own headers: the error that the
list names, or a text. Whoever calls one reads on stderr what is missing and how to get it.

Usage: python stand_in.py LIST FOLDER WHOLE
    FOLDER is changed; WHOLE is the same before anything was removed from it, with the headers.
"""

import itertools
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# What the list has for a library that nothing asks for anything.
NOTHING = "-"
# What keeps the real libraries, in the words of the Dockerfile.
WAY_BACK = "--build-arg CUDA_LIBRARIES=whole"
_PRELUDE = """
#include <stdio.h>
#define TEXT {text}
static int called(const char *name, int answer) {{
    static int said;
    if (!__atomic_exchange_n(&said, 1, __ATOMIC_RELAXED))
        dprintf(2, "%s (%s was called)\\n", TEXT, name);
    return answer;
}}
"""


class StandInError(Exception):
    """A library that cannot be stood in for as the list says."""


@dataclass(frozen=True)
class Symbol:
    """A dynamic symbol: what it is called, in which version, and of which kind and size, by the letters of nm."""

    name: str
    version: str
    kind: str
    size: int

    @property
    def is_function(self) -> bool:
        """Whether it can be called."""
        return self.kind in "TtWi"


@dataclass(frozen=True)
class Entry:
    """A line of the list."""

    pattern: str
    status: str
    answer: str
    missing: str


def read(listing: str) -> list[Entry]:
    """The entries of a list: a glob, the type and the name of the answer, and behind a # what the image then lacks."""
    entries: list[Entry] = []
    for line in listing.splitlines():
        words, _, missing = line.partition("#")
        if not words.strip():
            continue
        fields = words.split()
        if len(fields) != 3 or not missing.strip():
            raise StandInError(f"'{line.strip()}' is not: library, type, answer, # what is missing then")
        pattern, status, answer = fields
        entries.append(Entry(pattern, status, answer, missing.strip()))
    return entries


def symbols(binary: Path, kind: str) -> list[Symbol]:
    """The dynamic symbols that a binary defines (`--defined-only`), or lacks (`--undefined-only`)."""
    command = ["nm", "--dynamic", "--format=posix", "--radix=d", kind, str(binary)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: list[Symbol] = []
    for line in output.splitlines():
        name, letter, *numbers = line.split()
        name, _, version = name.replace("@@", "@").partition("@")
        found.append(Symbol(name, version, letter, int(numbers[1]) if len(numbers) > 1 else 0))
    return found


def wanted(library: Path, users: Iterable[Path]) -> list[Symbol]:
    """The symbols of a library that the users ask for."""
    asked = {(symbol.name, symbol.version) for user in users for symbol in symbols(user, "--undefined-only")}
    names = {name for name, version in asked if not version}
    defined = symbols(library, "--defined-only")
    return [symbol for symbol in defined if symbol.name in names or (symbol.name, symbol.version) in asked]


def make(target: Path, source: str, exported: Iterable[Symbol]) -> None:
    """Compile the source to a shared library of this name, with the versions that its symbols have."""
    versions: dict[str, list[str]] = {}
    for symbol in exported:
        if symbol.version:
            versions.setdefault(symbol.version, []).append(symbol.name)
    script = target.with_name(f"{target.name}.map")
    script.write_text("".join(f"{node} {{ {'; '.join(names)}; }};\n" for node, names in versions.items()))
    scripts = [f"-Wl,--version-script={script}"] if versions else []
    words = ["gcc", "-shared", "-fPIC", "-O1", "-s", "-x", "c", "-fno-builtin", f"-Wl,-soname,{target.name}", *scripts]
    made = target.with_name(f"{target.name}.new")
    subprocess.run([*words, "-o", str(made), "-"], input=source, check=True, text=True)
    script.unlink()
    made.replace(target)


def _declarations(folder: Path) -> str:
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in sorted(folder.rglob("*.h"))]
    return re.sub(r"/\*.*?\*/|//[^\n]*", " ", "\n".join(texts), flags=re.DOTALL)


class Headers:
    """What a library's headers say of its functions, and they or those beside them of its errors."""

    def __init__(self, folder: Path, beside: Path) -> None:
        self._text = _declarations(folder)
        self._folder = folder
        self._beside = beside

    def number(self, name: str) -> int:
        """The value of a member of an enumeration, which another library's header may define."""
        others = (path for path in sorted(self._beside.glob("**/include")) if path != self._folder)
        for text in itertools.chain([self._text], map(_declarations, others)):
            if found := re.search(rf"\b{name}\s*=\s*(0[xX][0-9a-fA-F]+|\d+)\b", text):
                return int(found[1], 0)
        raise StandInError(f"no header gives {name} a number")

    def function(self, name: str, status: str) -> tuple[bool, list[str]]:
        """Whether a function answers with a text instead of the status, and its parameters."""
        for found in re.finditer(rf"\b{name}\s*\(([^()]*)\)", self._text):
            result = re.split(r"[;{}()#\"]", self._text[max(0, found.start() - 200) : found.start()])[-1]
            words = result.replace("*", " * ").split()
            if status in words or ("char" in words and "*" in words):
                return status not in words, found[1].split(",")
        raise StandInError(f"no header says that {name} answers with {status} or a text")


def function(name: str, status: str, answer: int, headers: Headers) -> str:
    """A function in C that does nothing but to say so."""
    is_text, parameters = headers.function(name, status)
    if is_text:
        return f'const char *{name}(void) {{ called("{name}", 0); return TEXT; }}'
    if re.search(r"\bchar\s*\*\s*\*", parameters[-1]):
        # It hands a text over through its last parameter, and who asks reads it whatever the status says.
        before = "".join(f"long unused{number}, " for number in range(len(parameters) - 1))
        return f'int {name}({before}const char **text) {{ *text = TEXT; return called("{name}", {answer}); }}'
    return f'int {name}(void) {{ return called("{name}", {answer}); }}'


def source(target: str, entry: Entry, names: Sequence[str], headers: Headers) -> str:
    """The whole stand-in, in C."""
    text = f"{target} is a stand-in: this image leaves out {entry.missing}. To have that, build with {WAY_BACK}"
    quoted = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    answer = headers.number(entry.answer) if names else 0
    functions = [function(name, entry.status, answer, headers) for name in names]
    return _PRELUDE.format(text=quoted) + "\n".join(functions) + "\n"


def replace(library: Path, headers: Headers, entry: Entry, users: Sequence[Path]) -> int:
    """Put a stand-in in a library's place; how many functions of it are asked for."""
    # Libraries of C carry parts of the C++ runtime that they were compiled with; those are found in the runtime itself.
    exported = [symbol for symbol in wanted(library, users) if not symbol.name.startswith("_Z")]
    names = [symbol.name for symbol in exported]
    if entry.answer == NOTHING and names:
        raise StandInError(f"{names[0]} and {len(names) - 1} more are asked for now; the list has no answer for them")
    data = [symbol.name for symbol in exported if not symbol.is_function]
    if data:
        raise StandInError(f"{data[0]} is no function")
    make(library, source(library.name, entry, names, headers), exported)
    return len(names)


def binaries(folder: Path) -> list[Path]:
    """Every shared library and extension module below a folder."""
    found = [path for path in folder.rglob("*.so*") if path.is_file() and not path.is_symlink()]
    return [path for path in found if path.open("rb").read(4) == b"\x7fELF"]


def places(entries: Iterable[Entry], folder: Path) -> Mapping[Path, Entry]:
    """The libraries that are stood in for, with their entries."""
    return {path: entry for entry in entries for path in sorted(folder.glob(entry.pattern)) if not path.is_symlink()}


def main(listing: Path, folder: Path, whole: Path) -> None:
    """Replace every library of the list that is there, and print what that saved."""
    found = places(read(listing.read_text(encoding="utf-8")), folder)
    users = [path for path in binaries(folder) if path not in found]
    for library, entry in found.items():
        before = library.stat().st_size
        try:
            headers = Headers((whole / library.relative_to(folder)).parents[1] / "include", whole)
            count = replace(library, headers, entry, users)
        except StandInError as error:
            raise StandInError(f"there can be no stand-in for {library.name}: {error}") from None
        saved = (before - library.stat().st_size) / 1e6
        sys.stdout.write(f"{saved:9.1f} MB  {library.relative_to(folder)}: {count} functions stood in for\n")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
    except StandInError as error:
        sys.exit(f"error: {error}. Mend {sys.argv[1]}, or remove that line")

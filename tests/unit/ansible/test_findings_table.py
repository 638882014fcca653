"""docs/FINDINGS.md lists every finding with its severities, fixtures, tests and explanation, as the code has them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.unit.ansible.simulated_host import FIXTURES

ROOT = Path(__file__).resolve().parents[3]
FILES = ("test_gpu_host_info.py", "test_gpu_host_catalog.py", "test_gpu_host_reports.py")
IDENTIFIER = re.compile(r"(?:GPU|ENG)\d{3}")
SEVERITIES = ("error", "warning", "info")


def headings() -> dict[str, tuple[str, str]]:
    """Title and anchor of each finding in docs/TROUBLESHOOTING.md."""
    text = (ROOT / "docs/TROUBLESHOOTING.md").read_text(encoding="utf-8")
    found = {}
    for title in re.findall(r"^### (.*)$", text, re.MULTILINE):
        if IDENTIFIER.match(title):
            anchor = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
            found[title[:6]] = (title[8:], anchor)
    return found


def words(node: ast.AST) -> set[str]:
    """Every text that stands in a piece of code."""
    return {item.value for item in ast.walk(node) if isinstance(item, ast.Constant) and isinstance(item.value, str)}


def severities() -> dict[str, list[str]]:
    """Severities that the code gives to each finding; a variable may be an error or a warning."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "plugins/module_utils/gpu_host").glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or len(node.args) < 2:
                continue
            identifiers = [word for word in words(node.args[0]) if IDENTIFIER.fullmatch(word)]
            if node.func.id == "finding" and identifiers:
                given = words(node.args[1]) & set(SEVERITIES) or {"error", "warning"}
                found.setdefault(identifiers[0], set()).update(given)
        if path.stem == "access":
            for identifier in words(tree):
                if IDENTIFIER.fullmatch(identifier):
                    found.setdefault(identifier, set()).add("error")
    # Both of these get id and severity from variables: a loop over two plugins, a helper for one socket.
    for identifier in ("ENG003", "ENG004", "GPU017"):
        found.setdefault(identifier, set()).update({"error", "warning"})
    return {name: [item for item in SEVERITIES if item in given] for name, given in found.items()}


def named_tests() -> dict[str, dict[str, set[str]]]:
    """Tests named after each finding, each with the fixtures that it or a helper of its file names."""
    recorded = {str(path.relative_to(FIXTURES)) for path in FIXTURES.glob("*/*")}
    # Some tests name a file of one folder without it; a plain word would be taken for a name where it is none.
    short = {name.split(".")[0].rpartition("/")[2]: name for name in sorted(recorded)}
    names = {word: name for word, name in short.items() if "_" in word}
    names |= {name.split(".")[0]: name for name in recorded} | {name: name for name in recorded}
    found: dict[str, dict[str, set[str]]] = {}
    for file in FILES:
        tree = ast.parse(Path(__file__).with_name(file).read_text(encoding="utf-8"))
        functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        for function in functions.values():
            identifiers = re.findall(r"(?<=_)((?:gpu|eng)\d{3})(?=_)", function.name)
            called = {
                item.attr if isinstance(item, ast.Attribute) else item.id
                for item in ast.walk(function)
                if isinstance(item, (ast.Attribute, ast.Name))
            }
            helpers = [functions[name] for name in called & functions.keys() if not name.startswith("test_")]
            texts = set().union(*(words(node) for node in (function, *helpers)))
            used = {names[text] for text in texts if text in names}
            for identifier in identifiers:
                found.setdefault(identifier.upper(), {})[function.name] = used
    return found


def table() -> str:
    """The table as the code has it."""
    given, tested = severities(), named_tests()
    lines = ["| Finding | Severity | Fixtures | Tests |", "|---|---|---|---|"]
    for identifier, (title, anchor) in sorted(headings().items(), key=lambda item: (item[0][:3] == "ENG", item[0])):
        functions = tested[identifier]
        used = sorted(set().union(*functions.values()))
        fixtures = ", ".join(f"`{name}`" for name in used) or "the healthy host, changed"
        names = "<br>".join(f"`{name}`" for name in functions)
        link = f"[{identifier}](TROUBLESHOOTING.md#{anchor}) {title}"
        lines.append(f"| {link} | {', '.join(given[identifier])} | {fixtures} | {names} |")
    return "\n".join(lines) + "\n"


def test_the_table_of_findings_is_true() -> None:
    text = (ROOT / "docs/FINDINGS.md").read_text(encoding="utf-8")
    written = text[text.index("| Finding |") :]
    missing = [line for line in table().splitlines() if line not in written.splitlines()]
    assert written == table(), "docs/FINDINGS.md lacks these lines, or has others instead:\n" + "\n".join(missing)


def test_the_catalog_is_complete() -> None:
    """The 26 failures that users of GPU hosts report, and the two of nvidia-smi itself."""
    assert {f"GPU{number:03d}" for number in range(1, 29)} <= severities().keys()
    assert named_tests().keys() == headings().keys() == severities().keys()

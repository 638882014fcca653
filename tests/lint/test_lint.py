"""Every linter is one test, over what the repository tracks."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# The link that makes the checkout a collection.
COLLECTION = "playbooks/collections/ansible_collections/gpu_hosts/timm"


def tracked(*patterns: str) -> list[str]:
    """Return the files of the checkout that git tracks or would track."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    return sorted({name for name in listed if (ROOT / name).is_file()})


def first_line(name: str) -> str:
    """Return the first line of a file, empty for a binary one."""
    with (ROOT / name).open("rb") as file:
        return file.readline(200).decode(errors="replace")


def with_shebang(interpreter: str) -> list[str]:
    """Return the scripts without a suffix that this interpreter runs."""
    shebang = re.compile(rf"#!.*\b{interpreter}\b")
    return [name for name in tracked() if not Path(name).suffix and shebang.match(first_line(name))]


def matches(pattern: str, names: Iterable[str]) -> list[str]:
    """Return every matching line as file:line: text."""
    expression = re.compile(pattern)
    found = []
    for name in names:
        content = (ROOT / name).read_bytes()
        if b"\0" in content:
            continue
        for number, line in enumerate(content.decode(errors="replace").splitlines(), start=1):
            if expression.search(line):
                found.append(f"{name}:{number}: {line.strip()[:160]}")
    return found


def check(*command: str) -> None:
    """Run a linter from the virtual environment; its whole output is the failure message."""
    tool = Path(sys.executable).with_name(command[0])
    done = subprocess.run([str(tool), *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.fail(f"{command[0]} found problems:\n{done.stdout}{done.stderr}", pytrace=False)


def test_ruff_finds_nothing() -> None:
    check("ruff", "check", "--no-cache", ".", *with_shebang("python3"))


def test_python_is_formatted() -> None:
    check("ruff", "format", "--no-cache", "--check", "--diff", ".", *with_shebang("python3"))


def test_types_are_strict() -> None:
    # Scripts without a suffix are checked one by one: each of them is a __main__.
    # Plugins are checked by the names that they are imported by.
    check("mypy", *(f"{COLLECTION}/{name}" if name.startswith("plugins/") else name for name in tracked("*.py")))
    for script in with_shebang("python3"):
        check("mypy", script)


def test_yaml_is_clean() -> None:
    check("yamllint", "--strict", ".")


def test_ansible_lint_production() -> None:
    check("ansible-lint", "--profile=production", "--offline", "--strict", "--nocolor")


def test_dockerfiles_are_clean() -> None:
    files = tracked("Dockerfile", "**/Dockerfile")
    assert "Dockerfile" in files
    check("hadolint", "--failure-threshold=style", *files)


def test_shell_scripts_are_clean() -> None:
    files = tracked("*.sh") + with_shebang("sh") + with_shebang("bash")
    assert files
    check("shellcheck", *files)


@pytest.mark.parametrize("playbook", sorted(path.name for path in (ROOT / "playbooks").glob("*.yml")))
def test_playbook_syntax(playbook: str) -> None:
    check("ansible-playbook", "--syntax-check", "-i", "inventory/local", f"playbooks/{playbook}")


# The words are put together here, so that this file does not contain what it forbids.
SUPPRESSIONS = (
    r"#\s*" + "noqa",
    r"#\s*type:\s*" + "ignore",
    "no" + "sec" + r"\b",
    "(skip|warn)" + "_list:",
    "molecule-" + "notest",
    "hadolint " + "ignore=",
    "shellcheck " + "disable=",
    "yamllint " + "disable",
)


def test_no_linter_is_silenced() -> None:
    assert matches("|".join(SUPPRESSIONS), tracked()) == []


def test_no_merge_is_left_half_done() -> None:
    assert matches(r"^(<{7}|>{7}) ", tracked()) == []


# Package indexes come from the machine's own settings; paths of a developer's machine help nobody.
PLACES = (
    r"deb\." + r"debian\.org",
    r"security\." + r"debian\.org",
    r"pypi\." + "org",
    "python" + "hosted",
    r"registry\." + "npmjs",
    r"(^|[\s'\"=:])/" + "(work|farm|home/[a-z]+|tmp/plan)/",
)


def test_no_place_of_one_machine_is_named() -> None:
    assert matches("|".join(PLACES), tracked()) == []


def test_no_cache_or_secret_is_tracked() -> None:
    command = ["git", "ls-files", "--cached", "--ignored", "--exclude-standard"]
    assert subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout == ""
    assert matches("-----BEGIN ([A-Z]+ )?PRIVATE " + "KEY-----", tracked()) == []


# As they are spelled in other countries; two names of releases from before 1.0.0 stay what they were.
ELSEWHERE = (
    r"(?<!inference-service\.)(?<!release_)colo" + "ur",
    "flavo" + "ur|favo" + "ur|behavio" + "ur|neighbo" + r"ur|hono" + "ur",
    "catalog" + "ue|licen" + "ce|judge" + "ment|data" + "centre|artef" + "act",
    "(normal|vector|initial|optim|recogn|summar|organ|serial|util|minim|maxim)" + r"is(e|ed|es|er|ing|ation)\b",
    r"\bgr" + r"ey\b|label" + "led|label" + "ling",
)


def test_spelling_is_american() -> None:
    ours = [name for name in tracked() if not name.startswith(("app/data/", "LICENSE"))]
    assert matches("(?i)" + "|".join(ELSEWHERE), ours) == []

"""The tables of variables in the roles' READMEs come from their argument specs, so that a sentence stands once."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
SPEC = """
argument_specs:
  main:
    options:
      cook_oven: {description: "Which oven: gas or power.", type: str, choices: [gas, power], default: gas}
      cook_dish: {description: "What is made.", type: str, required: true, choices: [soup, bread]}
      cook_version: {description: "Which one | of several.", type: str, default: "2"}
      cook_hot: {description: "Heat it.", type: bool, default: true}
      cook_with: {description: "Spices.", type: list, default: [salt]}
      cook_note: {description: "Words.", type: str, default: ""}
      cook_time: {description: "Minutes.", type: int, default: "{{ 5 | int }}"}
"""
TABLE = r"""| Variable | Default | Meaning |
|---|---|---|
| `cook_oven` | `gas` | Which oven: gas or power. |
| `cook_dish` | required | What is made. One of `soup`, `bread`. |
| `cook_version` | `"2"` | Which one \| of several. |
| `cook_hot` | `true` | Heat it. |
| `cook_with` | `["salt"]` | Spices. |
| `cook_note` | empty | Words. |
| `cook_time` | see `defaults/main.yml` | Minutes. |
"""


def run(root: Path, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, str(root / "scripts/role-tables"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_tables_are_those_of_the_argument_specs() -> None:
    assert run(ROOT, "--check") == (0, "")


def test_a_stale_table_is_named_and_written(tmp_path: Path) -> None:
    role = tmp_path / "roles/cook"
    (role / "meta").mkdir(parents=True)
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/role-tables", tmp_path / "scripts")
    (role / "meta/argument_specs.yml").write_text(SPEC)
    readme = role / "README.md"
    readme.write_text("# cook\n\n## Variables\n\n| `cook_old` | x | y |\n\nMore.\n")
    assert run(tmp_path, "--check") == (1, "roles/cook/README.md: not as its argument spec; run scripts/role-tables\n")
    assert "cook_old" in readme.read_text()
    assert run(tmp_path) == (0, "roles/cook/README.md: written\n")
    assert readme.read_text() == f"# cook\n\n## Variables\n\n{TABLE}\nMore.\n"
    assert run(tmp_path, "--check") == (0, "")

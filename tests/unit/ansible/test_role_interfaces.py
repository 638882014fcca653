"""Each role describes its interface in defaults and argument spec, which must agree; its files must hold together."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROLES = Path(__file__).resolve().parents[3] / "roles"
NAMES = sorted(path.name for path in ROLES.iterdir() if path.is_dir())

pytestmark = pytest.mark.parametrize("role", NAMES)


def load(role: str, path: str) -> Any:
    return yaml.safe_load((ROLES / role / path).read_text(encoding="utf-8"))


def defaults(role: str) -> dict[str, Any]:
    return dict(load(role, "defaults/main.yml") or {})


def options(role: str) -> dict[str, Any]:
    return dict(load(role, "meta/argument_specs.yml")["argument_specs"]["main"].get("options") or {})


def task_files(role: str) -> list[Path]:
    return sorted((ROLES / role / "tasks").glob("*.yml"))


def test_defaults_are_the_options_of_the_argument_specs(role: str) -> None:
    # An option without a sane default is required, and then has no default.
    required = {name for name, option in options(role).items() if option.get("required")}
    assert set(defaults(role)) == set(options(role)) - required
    assert not required & set(defaults(role))


def test_variables_carry_the_name_of_the_role(role: str) -> None:
    assert [name for name in options(role) if not name.startswith(f"{role}_")] == []


def test_simple_defaults_equal_those_of_the_argument_specs(role: str) -> None:
    specs = options(role)
    differing = {
        name: (value, specs[name].get("default"))
        for name, value in defaults(role).items()
        if isinstance(value, (bool, int, float, str)) and "{{" not in str(value) and specs[name].get("default") != value
    }
    assert differing == {}


def test_every_default_has_a_comment_above(role: str) -> None:
    lines = (ROLES / role / "defaults/main.yml").read_text(encoding="utf-8").splitlines()
    pairs = zip(["", *lines[:-1]], lines, strict=True)
    bare = [line for above, line in pairs if re.match(r"\w+:", line) and not above.startswith("#")]
    assert bare == []


def test_every_default_is_used(role: str) -> None:
    folders = ("tasks", "templates", "vars", "handlers")
    files = [path for folder in folders for path in (ROLES / role / folder).glob("**/*") if path.is_file()]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    assert [name for name in defaults(role) if not re.search(rf"\b{name}\b", text)] == []


def test_metadata_is_complete(role: str) -> None:
    info = load(role, "meta/main.yml")["galaxy_info"]
    assert info["license"] == "Apache-2.0"
    assert info["author"]
    assert info["description"]
    assert info["platforms"]
    assert str(info["min_ansible_version"])


def test_main_is_a_table_of_contents_with_tags(role: str) -> None:
    for task in load(role, "tasks/main.yml"):
        action = {"ansible.builtin.import_tasks", "ansible.builtin.include_tasks"} & task.keys()
        assert action, f"{task['name']} is no include"
        assert task.get("tags"), f"{task['name']} has no tags"
        assert all(re.fullmatch(rf"{role}_[a-z_]+|always", tag) for tag in task["tags"]), task["tags"]
        included = task.get("ansible.builtin.include_tasks")
        if included is not None:
            # Without `apply`, a run limited to these tags enters the file and skips every task in it.
            assert isinstance(included, dict), f"{task['name']} does not hand its tags on"
            handed_on = set(included.get("apply", {}).get("tags", []))
            assert set(task["tags"]) - {"always"} <= handed_on, f"{task['name']} does not hand its tags on"


def test_every_task_file_is_reached(role: str) -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in task_files(role))
    templated = [re.sub(r"\{\{.*?\}\}", "*", name) for name in re.findall(r'"([^"\n]*\{\{[^\n]*?\.yml)"', text)]
    callers = [
        *ROLES.parent.glob("playbooks/*.yml"),
        *ROLES.parent.glob("playbooks/tasks/*.yml"),
        *ROLES.glob("*/tasks/*.yml"),
    ]
    called = "\n".join(path.read_text(encoding="utf-8") for path in callers)
    unreached = [
        path.name
        for path in task_files(role)
        if path.name != "main.yml"
        and not re.search(rf"\b{path.name}\b", text)
        and not any(path.match(pattern) for pattern in templated)
        and not re.search(rf"(?:tasks_from|__\w+_entry): {path.stem}(\.yml)?\b", called)
    ]
    assert unreached == []

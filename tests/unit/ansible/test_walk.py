"""Where a deploy leads through the files, as docs/ARCHITECTURE.md lists it: downwards, never back into a caller."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.collection import COLLECTION
from tests.collection import REPOSITORY

DEPLOY = "playbooks/deploy.yml"


class Step(NamedTuple):
    """A file that is entered, below those that lead there, and what of the collection it calls itself."""

    path: str
    depth: int
    calls: tuple[str, ...]


def walk(
    path: str, variables: dict[str, Any], above: tuple[str, ...] = (), only: set[str] | None = None
) -> Iterator[Step]:
    """Yield a file of a playbook or a role and in their order those that it enters, whatever their conditions.

    With `only` the others are passed by, as those whose conditions are not met.
    """
    assert path not in above, f"{' -> '.join(above)} leads back to {path}"
    content = yaml.safe_load((REPOSITORY / path).read_text(encoding="utf-8"))
    tasks = list(flat(content, variables))
    calls = [name.removeprefix(f"{COLLECTION}.") for task, _ in tasks for name in task if name.startswith(COLLECTION)]
    yield Step(path, len(above), tuple(dict.fromkeys(calls)))
    for task, known in tasks:
        entered = entered_by(path, task, known)
        if entered and (only is None or entered in only):
            yield from walk(entered, known, (*above, path), only)


def flat(content: list[dict[str, Any]], variables: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield the tasks of plays and blocks in order, each with the variables that are set for it here and above."""
    for item in content:
        known = {**variables, **item.get("vars", {})}
        inner = [part for name in ("pre_tasks", "tasks", "block", "rescue", "always") for part in item.get(name, [])]
        if inner:
            yield from flat(inner, known)
        elif "hosts" not in item:
            yield item, known


def entered_by(path: str, task: dict[str, Any], variables: dict[str, Any]) -> str:
    """Return the file that a task enters, '' for none or one that only facts of a host name."""
    for name in ("import_tasks", "include_tasks", "import_playbook"):
        said = task.get(f"ansible.builtin.{name}")
        if said:
            file = said["file"] if isinstance(said, dict) else said
            return named(file, variables, str(Path(path).parent))
    for name in ("import_role", "include_role"):
        if said := task.get(f"ansible.builtin.{name}"):
            role = said["name"].removeprefix(f"{COLLECTION}.")
            return named(f"{said.get('tasks_from', 'main')}.yml", variables, f"roles/{role}/tasks")
    return ""


def named(file: str, variables: dict[str, Any], folder: str) -> str:
    """Return a file's path with the variable in its name replaced."""
    file = re.sub(r"\{\{ (\w+) \}\}", lambda found: str(variables.get(found[1], found[0])), file)
    return "" if "{{" in file else f"{folder}/{file}"


def listed(first: str) -> list[Step]:
    """Return the walk that the document has from this file on."""
    text = (REPOSITORY / "docs/ARCHITECTURE.md").read_text(encoding="utf-8")
    block = re.search(rf"(?ms)^```\n({re.escape(first)}\b.*?)^```", text)
    assert block
    steps = []
    for line in block[1].splitlines():
        path, _, calls = line.strip().partition(" ")
        depth = (len(line) - len(line.lstrip())) // 2
        steps.append(Step(path, depth, tuple(calls.strip().split(", ")) if calls else ()))
    return steps


def test_no_file_leads_back_to_one_that_led_to_it() -> None:
    assert "roles/inference_service/tasks/record.yml" in [step.path for step in walk(DEPLOY, {})]


def test_the_document_has_the_files_in_the_order_in_which_a_deploy_comes_to_them() -> None:
    shown = listed(DEPLOY)
    names = [step.path for step in shown]
    # One that is entered again was called by several, and returns to each.
    first = {step.path: step for step in reversed([*walk(DEPLOY, {}, only={*names})])}
    assert shown == [first[path] for path in dict.fromkeys(step.path for step in walk(DEPLOY, {}, only={*names}))]


def test_the_files_of_a_request_are_there_and_each_is_met_once() -> None:
    """Their order is that of a trace (docs/ARCHITECTURE.md)."""
    names = [step.path for step in listed("app/http/server.py")]
    assert [name for name in names if not (REPOSITORY / name).is_file()] == []
    assert len(names) == len({*names}) > 20

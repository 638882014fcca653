"""No input breaks the host checks: whatever commands print and files hold, there are facts or findings."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import pkgutil
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils import gpu_host
from plugins.module_utils.gpu_host.access import assess_access
from plugins.module_utils.gpu_host.commands import Outcome
from plugins.module_utils.gpu_host.engine import assess_engine
from plugins.module_utils.gpu_host.findings import assess_driver, assess_toolkit
from plugins.module_utils.gpu_host.host import host_facts
from plugins.module_utils.gpu_host.nvidia_smi import UnreadableOutputError
from tests.unit.ansible.simulated_host import CU124, FIXTURES, Host, shown

SEEDS = range(25)
FOREIGN = (
    "NVIDIA-SMI n'a pas pu communiquer avec le pilote. Bitte prüfen Sie den Treiber. ドライバーが見つかりません。\n"
)


class Chance(random.Random):
    """Chance that repeats itself from its seed."""


def cut(text: str, chance: Chance) -> str:
    return text[: chance.randrange(len(text) + 1)]


def shuffled(text: str, chance: Chance) -> str:
    lines = text.splitlines(keepends=True)
    chance.shuffle(lines)
    return "".join(lines)


def foreign(text: str, chance: Chance) -> str:
    return FOREIGN + text.replace("Enabled", "Activé").replace("installed", "installé").replace("version", "версия")


def huge(text: str, chance: Chance) -> str:
    middle = chance.randrange(len(text) + 1)
    return text[:middle] + chance.choice(["9", "[", "<a>", "x=\n", "\n\n", " "]) * 50_000 + text[middle:]


def binary(text: str, chance: Chance) -> str:
    middle = chance.randrange(len(text) + 1)
    return text[:middle] + chance.randbytes(300).decode("utf-8", "replace") + "\0" + text[middle:]


def numbers(text: str, chance: Chance) -> str:
    return "".join(chance.choice("0123456789") if letter.isdigit() else letter for letter in text)


def wrong_types(text: str, chance: Chance) -> str:
    for value in ("[]", "{}", "true", "null"):
        text = text.replace(value, chance.choice(["1", '"x"', "null", "[[]]", '{"a": 1}', "1e400", "NaN"]))
    return text


def empty(text: str, chance: Chance) -> str:
    return ""


DAMAGES = (cut, shuffled, foreign, huge, binary, numbers, wrong_types, empty)


def examine(host: Host) -> None:
    """Read and judge everything; `shown` checks that each finding says all that it must."""
    facts = host_facts(host.root, host.run, 1.0, {"driver", "engine", "toolkit"})
    findings = [
        *assess_driver(facts, "required", {**CU124, "vram_mib": 2048}),
        *assess_engine(facts, True),
        *assess_toolkit(facts, True),
    ]
    shown(findings)
    assert facts["gpus"] or findings, "neither facts nor a finding"


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_answers_and_files(tmp_path: Path, damage: Callable[[str, Chance], str]) -> None:
    for seed in SEEDS:
        chance = Chance(seed)
        host = Host(tmp_path / str(seed))
        for argv, outcome in list(host.answers.items()):
            if chance.random() < 0.5:
                host.answer(Outcome(rc=chance.choice([0, 0, 0, 9]), out=damage(outcome.out, chance)), *argv)
        for path in sorted(host.root.rglob("*")):
            if path.is_file() and not path.is_symlink() and chance.random() < 0.3:
                text = damage(path.read_text(encoding="utf-8", errors="replace"), chance)
                path.write_text(text, encoding="utf-8", errors="replace")
        examine(host)


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_every_fixture_where_it_does_not_belong(tmp_path: Path, path: Path) -> None:
    """Each recorded text in the place of every other one, whole and damaged."""
    text = path.read_text(encoding="utf-8")
    chance = Chance(path.name)
    for number, damage in enumerate((lambda content, _: content, *chance.sample(DAMAGES, 2))):
        host = Host(tmp_path / str(number))
        for argv in list(host.answers):
            host.answer(Outcome(out=damage(text, chance)), *argv)
        for argv in (("journalctl",), ("dmesg",), ("dkms", "status"), ("nv-fabricmanager", "--version")):
            host.answer(Outcome(out=damage(text, chance)), *argv)
        host.write("etc/cdi/nvidia.yaml", damage(text, chance))
        host.write("etc/apt/sources.list.d/a.list", damage(text, chance))
        host.write("etc/apt/sources.list.d/b.sources", damage(text, chance))
        host.write("etc/nvidia-container-runtime/config.toml", damage(text, chance))
        examine(host)
        shown(assess_access(Outcome(out=damage(text, chance)), 2))


def parsers() -> Iterator[Callable[..., Any]]:
    """Every parser of the host checks, those that somebody adds tomorrow included."""
    for found in pkgutil.iter_modules(gpu_host.__path__):
        module = importlib.import_module(f"{gpu_host.__name__}.{found.name}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if name.startswith("parse_") and function.__module__ == module.__name__:
                yield function


def as_asked(function: Callable[..., Any], text: str) -> list[Any]:
    """The text in the shapes that the parser takes."""
    shapes = {"str": text, "list[str]": [text], "dict[str, str]": {"/etc/apt/a.sources": text, "/etc/apt/b.list": text}}
    given = {**shapes, "Outcome": Outcome(out=text)}
    return [given[parameter.annotation] for parameter in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("function", list(parsers()), ids=lambda function: str(function.__name__))
def test_every_parser_takes_every_text(function: Callable[..., Any]) -> None:
    """Facts come back, or the one error that says why the text is no report; never anything else."""
    for path in sorted(FIXTURES.glob("*/*")):
        whole = path.read_text(encoding="utf-8")
        chance = Chance(f"{function.__name__} {path.name}")
        for text in (whole, *(damage(whole, chance) for damage in chance.sample(DAMAGES, 4))):
            # The one error that a parser may raise says why the text is no report.
            with contextlib.suppress(UnreadableOutputError):
                assert function(*as_asked(function, text)) is not None

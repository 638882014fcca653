"""Damaged and hostile checkpoints, manifests, labels: each is read or refused by a sentence, and nothing of it runs."""

import io
import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from app.models import labels
from app.bundle.__main__ import main
from app.bundle.create import Order, create
from app.bundle.verify import verify
from app.errors import BundleError
from tests.unit.app.support import CLASSES, timm_model, write_labels

# timm has some for tests: seconds matter here.
SMALL = "test_efficientnet"
# Of each kind: few for every change, and 2,100 together for the trial.
ROUNDS = [40, pytest.param(700, marks=pytest.mark.trial)]
# What a pickle can be made to say: GLOBAL, REDUCE, BUILD and NEWOBJ of whatever stands on its stack.
_OPCODES = b"cR\x81bos}](.tNe\x85\x86h"
_CALLS = (b"cposix\nsystem\n(X\x05\x00\x00\x00touchtR", b"cbuiltins\neval\n(X\x01\x00\x00\x001tR",
          b"cbuiltins\ngetattr\n", b"cnumpy\nload\n", b"ctorch\nload\n", b"capp.reading\n_Record\n")  # fmt: skip


class Chance:
    """The same chance in every run."""

    def __init__(self) -> None:
        self._numbers = np.random.default_rng(15)

    def below(self, limit: int) -> int:
        return int(self._numbers.integers(limit))

    def of(self, choices: list[Any]) -> Any:
        return choices[self.below(len(choices))]


@pytest.fixture(scope="module")
def originals() -> list[bytes]:
    state = timm_model(SMALL).state_dict()
    files = []
    for content, zipped in (({"state_dict": state, "epoch": 3}, True), (state, False)):
        file = io.BytesIO()
        torch.save(content, file, _use_new_zipfile_serialization=zipped)
        files.append(file.getvalue())
    return files


def with_pickle(archive: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """An archive of torch whose pickle was changed and whose checksums are right."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            content = source.read(name)
            copy.writestr(name, change(content) if name.endswith("data.pkl") else content)
    return target.getvalue()


def flipped(content: bytes, chance: Chance) -> bytes:
    changed = bytearray(content)
    for _ in range(1 + chance.below(6)):
        changed[chance.below(len(changed))] = chance.below(256)
    return bytes(changed)


def spliced(content: bytes, chance: Chance) -> bytes:
    at = 2 + chance.below(len(content) - 2)
    extra: bytes = chance.of([*_CALLS, bytes(chance.of(list(_OPCODES)) for _ in range(8))])
    return content[:at] + extra + content[at:]


def mutated(original: bytes, chance: Chance) -> bytes:
    ways: list[Callable[[], bytes]] = [
        lambda: original[: chance.below(len(original))],
        lambda: flipped(original[:2000], chance) + original[2000:],
        lambda: flipped(original, chance),
        lambda: original[: (at := chance.below(len(original)))] + original[at + 1 + chance.below(500) :],
    ]
    if original.startswith(b"PK"):
        ways += [lambda: with_pickle(original, lambda part: flipped(part, chance))] * 3
        ways += [lambda: with_pickle(original, lambda part: spliced(part, chance))] * 3
    else:
        ways.append(lambda: spliced(original[:3000], chance) + original[3000:])
    changed: bytes = chance.of(ways)()
    return changed


@pytest.fixture
def nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails when anything was executed or written that no bundle has."""
    ran: list[Any] = []
    for owner, name in ((os, "system"), (os, "popen"), (subprocess, "Popen")):
        monkeypatch.setattr(owner, name, lambda *arguments, **_: ran.append(arguments))
    monkeypatch.chdir(tmp_path)
    yield
    assert ran == []
    assert not {path.name for path in tmp_path.iterdir()} - {"checkpoint.pth", "labels.txt", "models", "bundle"}


def refused(act: Callable[[], object]) -> bool:
    """Whether something is refused, in a sentence; any other error is one of the code, and fails the test."""
    refusal: BundleError | None = None
    try:
        act()
    except BundleError as error:
        refusal = error
    if refusal:
        assert refusal.code
        assert 10 < len(refusal.detail) < 1000
        assert "Traceback" not in refusal.detail
    return refusal is not None


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize("rounds", ROUNDS)
def test_a_damaged_or_hostile_checkpoint_leaves_a_whole_bundle_or_none(
    tmp_path: Path, originals: list[bytes], rounds: int
) -> None:
    chance = Chance()
    write_labels(tmp_path / "labels.txt")
    count = 0
    for number in range(rounds):
        (tmp_path / "checkpoint.pth").write_bytes(mutated(chance.of(originals), chance))
        order = Order(checkpoint=tmp_path / "checkpoint.pth", architecture=SMALL, labels=tmp_path / "labels.txt",
                      name="own", version=str(number), output=tmp_path / "models", image_size=32)  # fmt: skip
        count += refused(partial(create, order))
        made = list(tmp_path.glob("models/own/*"))
        assert [path.name for path in made] in ([], [str(number)])
        for path in made:
            verify(path)
            shutil.rmtree(path)
    assert rounds > count > rounds // 2


VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, 10**30, 1e308, "", "..", "/etc/passwd", "models", "\ud800", "\0", "x" * 5000, [], {}, [[]],
    {"a": {}}, [1, 2, 3], "bundle.json", "labels.txt",
)  # fmt: skip


def changed(content: Any, chance: Chance) -> Any:
    """JSON with one value, somewhere in it, that is another, twice there, or gone."""
    if not isinstance(content, dict | list) or not content or chance.below(4) == 0:
        return chance.of(list(VALUES))
    copy: Any = dict(content) if isinstance(content, dict) else list(content)
    key = chance.of(list(content) if isinstance(content, dict) else list(range(len(content))))
    way = chance.below(8)
    if way == 0:
        del copy[key]
    elif way == 1 and isinstance(copy, dict):
        copy[chance.of([*content, "more"])] = content[key]
    else:
        copy[key] = changed(content[key], chance)
    return copy


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize("rounds", ROUNDS)
def test_a_changed_manifest_is_read_or_refused(tmp_path: Path, bundle: Path, rounds: int) -> None:
    chance = Chance()
    copy = tmp_path / "bundle"
    shutil.copytree(bundle, copy)
    original = (copy / "bundle.json").read_bytes()
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file() and path.name != "bundle.json"}
    count = 0
    for _ in range(rounds):
        text = original
        if chance.below(3):
            text = json.dumps(changed(json.loads(original), chance)).encode("utf-8", "surrogatepass")
        if text == original or chance.below(4) == 0:
            text = flipped(text, chance)
        (copy / "bundle.json").write_bytes(text)
        count += refused(lambda: verify(copy))
        assert main(["show", str(copy)]) in (0, 1)
    assert rounds > count > rounds // 3
    assert before == {path: path.read_bytes() for path in before}


LABELS = (
    "".join(f"class {number}\n" for number in range(CLASSES)),
    json.dumps([f"class {number}" for number in range(CLASSES)]),
    json.dumps({f"class {number}": number for number in range(CLASSES)}),
    json.dumps({"id2label": {number: f"class {number}" for number in range(CLASSES)}}),
    "id,name\n" + "".join(f"{number},class {number}\n" for number in range(CLASSES)),
    "".join(f"{number}: Klässe {number}\r\n" for number in range(CLASSES)),
)


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize("rounds", ROUNDS)
def test_damaged_labels_are_read_or_refused(tmp_path: Path, rounds: int) -> None:
    chance = Chance()
    path = tmp_path / "labels.txt"
    count = 0
    for _ in range(rounds):
        text = chance.of(list(LABELS))
        content = text.encode(chance.of(["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"]))
        if text[0] in "[{" and chance.below(2):
            content = json.dumps(changed(json.loads(text), chance)).encode("utf-8", "surrogatepass")
        path.write_bytes(flipped(content, chance) if chance.below(4) else content[: chance.below(len(content))])
        if refused(lambda: labels.read(path, CLASSES)):
            count += 1
            continue
        names = labels.read(path, CLASSES).names
        # What a bundle keeps of it is a line for each.
        assert "".join(f"{name}\n" for name in names).splitlines() == list(names)
        assert all(name == name.strip() != "" for name in names)
    assert rounds > count > rounds // 4

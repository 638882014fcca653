"""Trying a model with labeled pictures under every plausible preprocessing: nothing else finds a wrong one."""

import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from app.bundle import manifest as manifests
from app.bundle.manifest import Activation, Input
from app.engines.engine import Pixels
from app.engines.torch_engine import TorchEngine
from app.errors import BundleError, ServiceError
from app.images.decoder import Decoder
from app.images.pictures import pictures
from app.models.networks import IMAGENET_MEAN, IMAGENET_STD
from app.models.recipe import describe

# More pictures cost minutes and say little more.
MOST_PICTURES = 320
_BATCH = 8
# A true class with less than that counts as this much, so that one sure mistake does not outweigh all others.
_LEAST = 1e-4
# Another way has to be better by that many standard errors: of nearly ten ways one is better by two just by chance.
_CERTAIN = 2.5
# By the pictures that are right alone, where the model is as sure of its mistakes as of the rest.
_CERTAIN_RIGHT = 3.0
# Of a few pictures one or two more are right by chance, however sure the model is of them.
_MORE_RIGHT = 3
_PARTS = ("val", "valid", "validation", "test", "train", "training")

_NORMALIZATIONS: tuple[Mapping[str, object], ...] = (
    {"mean": IMAGENET_MEAN, "std": IMAGENET_STD},
    {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
    {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)},
    {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)},
)
_GEOMETRIES: tuple[Mapping[str, object], ...] = (
    {"crop_mode": "squash", "crop_pct": 1.0},
    {"crop_mode": "center", "crop_pct": 0.875},
    {"crop_mode": "center", "crop_pct": 1.0},
    {"crop_mode": "border", "crop_pct": 1.0},
)


@dataclass(frozen=True)
class Trial:
    """How one preprocessing did: for each picture the logarithm of its true class's probability, and whether it won."""

    inputs: Input
    logarithms: tuple[float, ...]
    right: tuple[bool, ...]

    @property
    def accuracy(self) -> float:
        """The share of pictures whose best class is the true one."""
        return sum(self.right) / len(self.right)


@dataclass(frozen=True)
class Checked:
    """What the trials say: a line of figures, and a warning where another way does better."""

    note: str
    warning: str


def check(module: nn.Module, inputs: Input, activation: Activation, labels: Sequence[str], folder: Path) -> Checked:
    """Try the preprocessing against others with the labeled pictures of a folder."""
    samples = labeled(folder, labels)
    contents = [(path, path.read_bytes(), class_id) for path, class_id in samples]

    def attempt(changed: Mapping[str, object], base: Input) -> Trial:
        tried = Input.model_validate({**base.model_dump(), **changed})
        return _attempt(module, tried, activation, len(labels), contents)

    chosen = attempt({}, inputs)
    trials = [chosen]
    # A network that sees gray has a normalization of its own.
    for ways in (_NORMALIZATIONS if len(inputs.mean) == 3 else (), _GEOMETRIES):
        # Geometries are tried with the best normalization: under a wrong one they say little.
        surer = [trial for trial in trials if _more_right(trial, chosen) and _surer(trial, chosen)]
        best = max(surer, key=lambda trial: sum(trial.logarithms), default=chosen)
        for way in ways:
            if not any(_same(trial.inputs, way, best.inputs) for trial in trials):
                trials.append(attempt(way, best.inputs))
    figures = "; ".join(f"{_changes(trial.inputs, inputs)} {trial.accuracy:.1%}" for trial in trials[1:])
    note = f"Check: {len(samples)} pictures, {chosen.accuracy:.1%} right as it is; {figures}."
    winners = better(trials, chosen)
    if not winners:
        return Checked(note, "")
    winner = max(winners, key=lambda trial: (sum(trial.right), sum(trial.logarithms)))
    return Checked(
        note,
        f"Preprocessing: {winner.accuracy:.1%} of {len(samples)} pictures are right with "
        f"{_options(winner.inputs, inputs)}, {chosen.accuracy:.1%} as it is ({describe(inputs)}); the model was "
        "likely trained with the former.",
    )


def better(trials: Iterable[Trial], chosen: Trial) -> list[Trial]:
    """The trials that did better than the chosen one beyond chance: more pictures right, and surer of them."""
    return [
        trial
        for trial in trials
        if _more_right(trial, chosen) and (_surer(trial, chosen) or _excess(trial.right, chosen.right) > _CERTAIN_RIGHT)
    ]


def _more_right(trial: Trial, chosen: Trial) -> bool:
    return sum(trial.right) >= sum(chosen.right) + _MORE_RIGHT


def _surer(trial: Trial, chosen: Trial) -> bool:
    return _excess(trial.logarithms, chosen.logarithms) > _CERTAIN


def _excess(one: Sequence[float], other: Sequence[float]) -> float:
    return _errors(first - second for first, second in zip(one, other, strict=True))


def _errors(differences: Iterable[float]) -> float:
    """By how many standard errors the mean of these is above zero."""
    values = list(differences)
    if len(values) < 2:
        return 0.0
    spread = statistics.stdev(values)
    mean = statistics.fmean(values)
    return mean / (spread / math.sqrt(len(values))) if spread else math.copysign(math.inf, mean) if mean else 0.0


def _attempt(
    module: nn.Module,
    inputs: Input,
    activation: Activation,
    classes: int,
    contents: Sequence[tuple[Path, bytes, int]],
) -> Trial:
    engine = TorchEngine(module, inputs, activation, "cpu", _BATCH, ranked=classes)
    decoder = Decoder(inputs, manifests.GOLDEN_PIXELS)
    logarithms: list[float] = []
    right: list[bool] = []
    for start in range(0, len(contents), _BATCH):
        part = contents[start : start + _BATCH]
        rankings = engine.predict([_decode(decoder, path, content) for path, content, _ in part])
        for ranking, (_, _, true) in zip(rankings, part, strict=True):
            probability = dict(zip(ranking.class_ids, ranking.probabilities, strict=True))[true]
            logarithms.append(math.log(max(probability, _LEAST)))
            right.append(ranking.class_ids[0] == true)
    return Trial(inputs, tuple(logarithms), tuple(right))


def _decode(decoder: Decoder, path: Path, content: bytes) -> Pixels:
    try:
        return decoder.decode(content).pixels
    except ServiceError as error:
        raise BundleError("check_invalid", f"The picture {path} of --check is refused: {error.detail}") from None


def labeled(folder: Path, labels: Sequence[str]) -> list[tuple[Path, int]]:
    """Pictures with their classes, by the folder they are in or the beginning of their names; a spread of them."""
    root = folder
    parts = [item for item in folder.iterdir() if item.is_dir()] if folder.is_dir() else []
    if parts and all(item.name.lower() in _PARTS for item in parts):
        root = min(parts, key=lambda item: _PARTS.index(item.name.lower()))
    found = pictures(root)
    if not found:
        raise BundleError("check_missing", f"{folder} holds no picture; give --check a folder of class folders.")
    ids = {_plain(label): number for number, label in enumerate(labels)}
    groups: dict[int, list[Path]] = {}
    for path in found:
        groups.setdefault(_class_of(path, root, ids), []).append(path)
    queue: list[tuple[Path, int]] = []
    for round_number in range(max(len(paths) for paths in groups.values())):
        queue += [
            (paths[round_number], number) for number, paths in sorted(groups.items()) if round_number < len(paths)
        ]
    return queue[:MOST_PICTURES]


def _class_of(path: Path, root: Path, ids: Mapping[str, int]) -> int:
    within = path.relative_to(root)
    if len(within.parts) > 1:
        name = _plain(within.parts[0])
        if name in ids:
            return ids[name]
        if name.isdecimal() and int(name) in ids.values():
            return int(name)
        raise BundleError(
            "check_invalid", f"The folder {within.parts[0]!r} of --check is no class of the model; rename or remove it."
        )
    words = _plain(path.stem)
    name = max((label for label in ids if f"{words} ".startswith(f"{label} ")), key=len, default="")
    if not name:
        raise BundleError(
            "check_invalid",
            f"The picture {path.name!r} of --check names no class; put it in a folder called like its class.",
        )
    return ids[name]


def _plain(name: str) -> str:
    return " ".join(re.split(r"[\s_-]+", name.casefold())).strip()


def _same(inputs: Input, way: Mapping[str, object], base: Input) -> bool:
    return inputs == Input.model_validate({**base.model_dump(), **way})


def _changed(inputs: Input, base: Input) -> dict[str, object]:
    values, before = inputs.model_dump(), base.model_dump()
    return {name: value for name, value in values.items() if value != before[name]}


def _text(value: object, sign: str) -> str:
    return sign.join(f"{number:.3g}" for number in value) if isinstance(value, tuple) else str(value)


def _changes(inputs: Input, base: Input) -> str:
    return " ".join(f"{name} {_text(value, '/')}" for name, value in _changed(inputs, base).items() if name != "std")


def _options(inputs: Input, base: Input) -> str:
    return " ".join(f"--{name.replace('_', '-')} {_text(value, ',')}" for name, value in _changed(inputs, base).items())

"""Training checkpoints: read without running their code, fitted to the architecture that they are said to have."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from app.models import architectures

from app.models import fitting

from app.models import reading

from app.models import weights
from app.bundle.manifest import Design, Head, sha256_of
from app.errors import BundleError
from app.models.fitting import Wish
from app.models.weights import State

__all__ = ["Checkpoint", "Wish", "read"]

# Numbers a trainer stores beside the weights that are worth keeping with the model.
_METRIC_KEYS = re.compile(
    r"epoch|metric|top[15]|acc[15]|accuracy|f1|best_(acc1?|metric|score)|(val|valid|best|test|eval)_?\w*(acc|accuracy|f1|loss|top)\w*",
    re.IGNORECASE,
)
_ARCHITECTURE_KEYS = ("arch", "architecture", "model_name", "model", "model_arch", "timm_model", "backbone", "encoder")


@dataclass(frozen=True)
class Checkpoint:
    """Weights under the names of the network they belong to."""

    state: State
    design: Design
    sha256: str
    metrics: dict[str, float]
    # What the trainer stored beside the weights: arguments, class names, and the like.
    recorded: dict[str, object] = field(default_factory=dict)
    # Whether it has the form of the reference project's trainer, which says how images were prepared.
    trainers: bool = False
    # The side of the images that the weights were made for, where they tell.
    image_size: int | None = None
    # Tensors that are no part of the network: counters, and the weights of a loss.
    left_out: tuple[str, ...] = ()
    # What was found and assumed, a sentence each.
    notes: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """How many classes the head has."""
        return self.design.num_classes

    @property
    def head(self) -> Head:
        """Whose preprocessing the form of the checkpoint implies."""
        return "sequential" if self.trainers else "timm"


def read(path: Path, wish: Wish) -> Checkpoint:
    """Read a checkpoint and fit it to the architecture that is wished for; a BundleError says why it does not fit."""
    architectures.config(wish.architecture)
    content = reading.read(path)
    recorded = _recorded(content)
    fitted = fitting.fit(weights.find(content), wish, str(path))
    notes = fitted.notes
    if not _compare(recorded, wish.architecture, str(path)):
        notes += (
            f"Architecture: {wish.architecture} as given; the file does not record it, and networks that differ only "
            "in what has no weights (activation, padding) look alike.",
        )
    return Checkpoint(
        state=fitted.state,
        design=fitted.design,
        sha256=sha256_of(path),
        metrics=_metrics(content),
        recorded=recorded,
        trainers=fitted.trainers,
        image_size=fitted.image_size,
        left_out=fitted.left_out,
        notes=notes,
    )


def _recorded(content: object) -> dict[str, object]:
    """What stands beside the weights."""
    if not isinstance(content, dict):
        return {}
    return {str(key): value for key, value in content.items() if not isinstance(value, Tensor)}


def _compare(recorded: dict[str, object], architecture: str, origin: str) -> bool:
    """Whether weights say that they are this architecture's; those of another are refused: siblings look alike."""
    said = False
    wanted = architectures.resolve(architecture).partition(".")[0]
    for key, value in _architectures(recorded):
        try:
            name = architectures.resolve(value.removeprefix("timm/")).partition(".")[0]
        except BundleError:
            continue
        if name != wanted:
            raise BundleError(
                "architecture_mismatch",
                f"{origin} records that it was trained as {value} ({key}), and {architecture} was named. Their layers "
                f"have the same names, and their answers differ: name {value}.",
            )
        said = True
    return said


def _architectures(recorded: Mapping[Any, object], depth: int = 4) -> Iterator[tuple[str, str]]:
    """The entries of a trainer's arguments that name an architecture: `arch`, or `name` in a part called `model`."""
    for entry, value in recorded.items():
        key = str(entry).lower()
        if isinstance(value, str) and key in _ARCHITECTURE_KEYS:
            yield str(entry), value
        elif isinstance(value, dict) and depth and "teacher" not in key:
            name = value.get("name", value.get("type"))
            if key in _ARCHITECTURE_KEYS and isinstance(name, str):
                yield f"{entry}.name", name
            yield from _architectures(value, depth - 1)


def _metrics(content: object) -> dict[str, float]:
    if not isinstance(content, dict):
        return {}
    found: dict[str, float] = {}
    nested = content.get("metrics")
    for key, value in [*content.items(), *(nested.items() if isinstance(nested, dict) else ())]:
        number = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
        if (
            isinstance(number, int | float)
            and not isinstance(number, bool)
            and np.isfinite(number)
            and _METRIC_KEYS.fullmatch(str(key))
        ):
            found[str(key)] = float(number)
    return found

"""Training checkpoints: read without running their code, fitted to the architecture that they are said to have."""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from app import architectures, fitting, reading, weights
from app.bundle.manifest import Design, Head
from app.errors import BundleError
from app.fitting import Wish
from app.weights import State

__all__ = ["Checkpoint", "Wish", "read"]

# Numbers a trainer stores beside the weights that are worth keeping with the model.
_METRIC_KEYS = re.compile(
    r"epoch|metric|top[15]|acc[15]|accuracy|f1|best_(acc1?|metric|score)|(val|valid|best|test|eval)_?\w*(acc|accuracy|f1|loss|top)\w*",
    re.IGNORECASE,
)
# Where trainers keep what they were called with.
_ARGUMENTS = ("args", "hyper_parameters", "hparams", "config", "cfg", "opt", "opts", "params", "meta")
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
    _compare(recorded, wish.architecture, str(path))
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Checkpoint(
        state=fitted.state,
        design=fitted.design,
        sha256=sha256,
        metrics=_metrics(content),
        recorded=recorded,
        trainers=fitted.trainers,
        image_size=fitted.image_size,
        left_out=fitted.left_out,
        notes=fitted.notes,
    )


def _recorded(content: object) -> dict[str, object]:
    """What stands beside the weights."""
    if not isinstance(content, dict):
        return {}
    return {str(key): value for key, value in content.items() if not isinstance(value, Tensor)}


def _compare(recorded: dict[str, object], architecture: str, origin: str) -> None:
    """Refuse weights that say that they are another architecture's: siblings have the same names and shapes."""
    wanted = architectures.resolve(architecture).partition(".")[0]
    parts = [recorded, *(part for part in map(recorded.get, _ARGUMENTS) if isinstance(part, dict))]
    for key, value in ((key, part.get(key)) for part in parts for key in _ARCHITECTURE_KEYS):
        if not isinstance(value, str):
            continue
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

"""The model in service, and what it says about itself."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.bundle import manifest as manifests
from app.engines.engine import Engine
from app.engines.selection import Trial
from app.process import cpus
from app.settings import Settings

if TYPE_CHECKING:
    from app.fronts.remote_engine import RemoteEngine
    from app.images.decoder import Decoder

# Large batches hardly help a CPU, and they leave the other cores without work.
CPU_BATCH = 4


@dataclass(frozen=True)
class Facts:
    """What is known of a model beside its weights."""

    settings: manifests.Input
    activation: manifests.Activation
    threshold: manifests.Threshold
    name: str
    architecture: str
    version: str
    sha256: str
    labels: tuple[str, ...]
    path: Path
    metrics: dict[str, float]

    @property
    def ranked(self) -> int:
        """How many classes an answer has; where a picture may have several, all of them."""
        return len(self.labels) if self.threshold is not None else min(len(self.labels), manifests.TOP_K)

    @property
    def thresholds(self) -> tuple[float, ...] | None:
        """What each class must reach where a picture may have any number of them; nothing where it has one."""
        return (self.threshold,) * len(self.labels) if isinstance(self.threshold, float) else self.threshold

    @property
    def image_size(self) -> int:
        """The height of the model's images."""
        return self.settings.size[1]


def facts_of(directory: Path, manifest: manifests.Manifest, sha256: str, labels: tuple[str, ...]) -> Facts:
    """What a bundle says of its model."""
    return Facts(
        settings=manifest.input,
        activation=manifest.activation,
        threshold=manifest.threshold,
        name=manifest.name,
        architecture=manifest.architecture,
        version=manifest.version,
        sha256=sha256,
        labels=labels,
        path=directory / manifest.weights.file,
        metrics=manifest.metrics or {},
    )


@dataclass(frozen=True)
class ServedModel(Facts):
    """What requests need of the model, and what it says about itself."""

    engine: "Engine | RemoteEngine"
    reason: str
    trials: Sequence[Trial]
    # Where what computes was read from, which was made of the bundle before; nothing where it was made now.
    derived: Path | None
    decoder: "Decoder"
    workers: int
    torch_version: str
    load_phases: dict[str, float]

    def describe(self) -> dict[str, Any]:
        """What the model is and what computes it; /model/info, the log, /metrics, health and answers say it of this."""
        return {
            "model_name": self.name,
            "architecture": self.architecture,
            "version": self.version,
            "sha256": self.sha256,
            "num_classes": len(self.labels),
            "image_size": self.image_size,
            "multi_label": self.thresholds is not None,
            "checkpoint_path": str(self.path),
            "device": self.engine.device,
            "engine": self.engine.runtime,
            "precision": self.engine.precision,
            "engine_reason": self.reason,
            "engines_tried": [
                {
                    "engine": trial.engine,
                    "precision": trial.precision,
                    "image_ms": round(1000 * trial.seconds, 3) or None,
                    "largest_change": None if trial.change is None or trial.change == math.inf else trial.change,
                    "refused": trial.refused or None,
                }
                for trial in self.trials
            ],
            "derived_model": str(self.derived) if self.derived else None,
            "torch_version": self.torch_version,
            "load_phases": self.load_phases,
        }


def cpu_threads(settings: Settings) -> int:
    """How many threads compute on a CPU."""
    return settings.torch_threads or cpus.available()


def cpu_batch(settings: Settings) -> int:
    """How many images a CPU gets at once."""
    return min(settings.max_batch, CPU_BATCH)

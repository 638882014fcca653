"""The model in service: loaded, warmed up, and described."""

import functools
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from app import cpus, model
from app.bundle import manifest as manifests
from app.bundle import verify
from app.checkpoint import Wish
from app.checkpoint import read as read_checkpoint
from app.engine import Build, Engine, Precision, Runtime
from app.errors import BundleError, ServiceError
from app.imaging import Decoder
from app.openvino_engine import OpenVinoEngine, convert
from app.recipe import Given, settle
from app.selection import Referee, Selection, ways
from app.settings import PREFIX, Settings
from app.torch_engine import TorchEngine, choose_device

if TYPE_CHECKING:
    import openvino
    from torch import Tensor, nn


log = logging.getLogger(__name__)

CPU_BATCH = 4
# Golden pictures that a start compares precisions with: fewer let a precision pass that others refuse.
FEWEST_SAMPLES, MOST_SAMPLES = 3, 12


@dataclass(frozen=True)
class ServedModel:
    """What requests need of the model, and what it says about itself."""

    engine: Engine
    selection: Selection
    decoder: Decoder
    name: str
    architecture: str
    version: str
    sha256: str
    labels: tuple[str, ...]
    # What a class must reach where a picture may have any number of them; nothing where it has one.
    thresholds: tuple[float, ...] | None
    image_size: int
    path: str
    metrics: dict[str, float]
    workers: int
    torch_version: str
    load_phases: dict[str, float]

    def described(self) -> dict[str, Any]:
        """The engine: what was tried, and why this one computes."""
        return {
            "engine": self.engine.runtime,
            "precision": self.engine.precision,
            "engine_reason": self.selection.reason,
            "engines_tried": [
                {
                    "engine": trial.engine,
                    "precision": trial.precision,
                    "image_ms": round(1000 * trial.seconds, 3) or None,
                    "largest_change": None if trial.change is None or trial.change == math.inf else trial.change,
                    "refused": trial.refused or None,
                }
                for trial in self.selection.trials
            ],
        }


@dataclass(frozen=True)
class Source:
    """A model to make engines of, with all that is known of it."""

    module: "nn.Module"
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
    golden: tuple[Path, ...]
    tolerance: float


def load(settings: Settings, phases: dict[str, float]) -> ServedModel:
    """Load the model the settings name and make it fast; runs in a thread.

    `phases` has the seconds of what came before and gets those of each step here.
    """
    phase = _Phases(phases)
    device = choose_device("cpu" if settings.engine == "openvino" else settings.device, settings.require_gpu)
    source = from_bundle(settings.bundle_path) if settings.bundle_path else _from_checkpoint(settings)
    phase.ended("weights")
    # Each thread sets its own number; what is measured here is to run on one core of several that do the same.
    torch.set_num_threads(1)
    decoder = Decoder(source.settings, settings.max_pixels, settings.decode, settings.orientation)
    threads = settings.torch_threads or cpus.available()
    on_cpu = device == "cpu"
    # Large batches hardly help a CPU, and they leave the other cores without work.
    max_batch = min(settings.max_batch, CPU_BATCH) if on_cpu else settings.max_batch

    workers = threads if on_cpu else 1
    compared = samples(source.golden, Decoder(source.settings, manifests.GOLDEN_PIXELS))
    referee = Referee(builder(source, device, max_batch, workers), compared, source.tolerance, workers)
    selection = referee.choose(ways(settings.engine, settings.precision, device))
    phase.ended("engine")
    selection.engine.prepare(selection.seconds)
    phase.ended("warm_up")
    return ServedModel(
        engine=selection.engine,
        selection=selection,
        decoder=decoder,
        name=source.name,
        architecture=source.architecture,
        version=source.version,
        sha256=source.sha256,
        labels=source.labels,
        thresholds=_each(source.threshold, len(source.labels)),
        image_size=source.settings.size[1],
        path=str(source.path),
        metrics=source.metrics,
        workers=workers,
        torch_version=torch.__version__,
        load_phases={name: round(seconds, 3) for name, seconds in phases.items()},
    )


def builder(source: Source, device: str, max_batch: int, threads: int) -> Build:
    """What makes engines of a source; it is converted once, whatever the precision."""
    ranked = len(source.labels)
    if source.threshold is None:
        ranked = min(ranked, manifests.TOP_K)

    @functools.cache
    def converted() -> "openvino.Model":
        return convert(source.module, source.settings, source.activation, ranked)

    def build(runtime: Runtime, precision: Precision) -> Engine:
        if runtime == "openvino":
            return OpenVinoEngine(converted(), max_batch, precision, threads)
        return TorchEngine(
            source.module, source.settings, source.activation, device, max_batch, precision, ranked, threads
        )

    return build


def samples(golden: Sequence[Path], decoder: Decoder) -> "list[Tensor]":
    """The pixels of pictures to compare precisions with: enough to tell them apart, not more than a start waits for."""
    paths = [golden[position * len(golden) // MOST_SAMPLES] for position in range(MOST_SAMPLES)]
    paths = list(dict.fromkeys(paths if len(golden) > MOST_SAMPLES else golden))
    if len(paths) < FEWEST_SAMPLES:
        paths += _shipped_golden()
    try:
        return [decoder.decode(path.read_bytes()).pixels for path in paths]
    except ServiceError as error:
        raise BundleError("golden_invalid", f"A golden picture is refused: {error.detail}") from None


def _shipped_golden() -> list[Path]:
    return sorted((manifests.DATA / "golden").glob("*.jpg"))


def _each(threshold: manifests.Threshold, classes: int) -> tuple[float, ...] | None:
    return (threshold,) * classes if isinstance(threshold, float) else threshold


class _Phases:
    """Takes the time of one step after the other."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds = seconds
        self._started = time.perf_counter()

    def ended(self, name: str) -> None:
        now = time.perf_counter()
        self._seconds[name], self._started = now - self._started, now


def from_bundle(directory: Path) -> Source:
    """The model of a bundle, verified."""
    verified = verify.verify(directory)
    manifest = verified.manifest
    return Source(
        module=verified.module,
        settings=manifest.input,
        activation=manifest.activation,
        threshold=manifest.threshold,
        name=manifest.name,
        architecture=manifest.architecture,
        version=manifest.version,
        sha256=verified.sha256,
        labels=verified.labels,
        path=directory / manifest.weights.file,
        metrics=manifest.metrics or {},
        golden=tuple(directory / sample.file for sample in manifest.golden_samples),
        tolerance=manifests.read_golden(directory / manifest.golden.file).tolerance,
    )


def _from_checkpoint(settings: Settings) -> Source:
    path, architecture = settings.checkpoint_path, settings.model_name
    if path is None or architecture is None:
        raise BundleError("checkpoint_missing", "Set API_CHECKPOINT_PATH and API_MODEL_NAME.")
    checkpoint = read_checkpoint(
        path,
        Wish(architecture, settings.weights, settings.model_args or {}, settings.head_activation, settings.image_size),
    )
    if settings.num_classes not in (None, checkpoint.num_classes):
        raise BundleError(
            "class_count_mismatch",
            f"API_NUM_CLASSES is {settings.num_classes} but the head of {path} has {checkpoint.num_classes} classes; "
            "set it to what the checkpoint was trained with.",
        )
    given = {name: getattr(settings, name) for name in ("mean", "std", "interpolation", "crop_pct", "crop_mode")}
    recipe = settle(
        checkpoint,
        Given(
            labels=settings.labels_path,
            image_size=settings.image_size,
            preprocessing={name: value for name, value in given.items() if value is not None},
            activation=settings.activation,
            threshold=settings.threshold,
            prefix=PREFIX,
        ),
    )
    for note in (*checkpoint.notes, *recipe.notes):
        log.info("The checkpoint is understood", extra={"code": "understood", "detail": note})
    for warning in recipe.warnings:
        log.warning("The checkpoint is doubtful", extra={"code": "assumed", "detail": warning})
    inputs = recipe.inputs
    module = model.load(checkpoint.design, inputs.size, checkpoint.state, str(path))
    model.probe(module, checkpoint.design, inputs.size)
    return Source(
        module=module,
        settings=inputs,
        activation=recipe.activation,
        threshold=recipe.threshold,
        name=architecture,
        architecture=architecture,
        version=checkpoint.sha256[:12],
        sha256=checkpoint.sha256,
        labels=recipe.labels,
        path=path,
        metrics=checkpoint.metrics,
        golden=tuple(_shipped_golden()),
        tolerance=manifests.TOLERANCE,
    )

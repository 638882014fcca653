"""Engines of a model by torch and what it is converted to: built, tried, and the best one made fast."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from app.bundle import manifest as manifests
from app.bundle import verify
from app.engines.engine import Engine, NotBuiltError, Pixels, Precision, Runtime
from app.engines.selection import Referee, Selection, ways
from app.engines.torch_engine import TorchEngine, choose_device
from app.errors import BundleError, ServiceError
from app.images.decoder import Decoder
from app.models import networks
from app.models.checkpoint import Wish
from app.models.checkpoint import read as read_checkpoint
from app.models.recipe import Given, settle
from app.process.timing import Phases
from app.settings import PREFIX, Settings
from app.start.derived import Derived
from app.start.served_model import Facts, ServedModel, cpu_batch, cpu_threads, facts_of

if TYPE_CHECKING:
    import openvino
    from torch import nn


log = logging.getLogger(__name__)

# Golden pictures that a start compares precisions with: fewer let a precision pass that others refuse.
FEWEST_SAMPLES, MOST_SAMPLES = 3, 12


@dataclass(frozen=True)
class Source:
    """A model to make engines of, with all that is known of it."""

    facts: Facts
    module: "nn.Module"
    golden: tuple[Path, ...]
    tolerance: float


class Builder:
    """Makes engines of a source, one after the other; it is converted once, whatever the precision."""

    def __init__(self, source: Source, device: str, settings: Settings) -> None:
        self.device = device
        on_cpu = device == "cpu"
        self.threads = cpu_threads(settings) if on_cpu else 1
        self._max_batch = cpu_batch(settings) if on_cpu else settings.max_batch
        self._graphs = settings.cuda_graphs
        self._source = source
        self._converted: openvino.Model | NotBuiltError | None = None

    def __call__(self, runtime: Runtime, precision: Precision) -> Engine:
        """An engine, or a NotBuiltError."""
        facts = self._source.facts
        if runtime == "openvino":
            converted = self.converted()
            from app.engines.openvino_engine import OpenVinoEngine

            return OpenVinoEngine(converted, self._max_batch, precision, self.threads)
        return TorchEngine(
            self._source.module,
            facts.settings,
            facts.activation,
            self.device,
            self._max_batch,
            precision,
            facts.ranked,
            self.threads,
            self._graphs,
        )

    def converted(self) -> "openvino.Model":
        """What OpenVINO computes."""
        if self._converted is None:
            self._converted = self._convert()
        if isinstance(self._converted, NotBuiltError):
            raise self._converted
        return self._converted

    def _convert(self) -> "openvino.Model | NotBuiltError":
        if not find_spec("openvino"):
            return NotBuiltError("OpenVINO is only in the image for CPUs.")
        from app.engines.conversion import convert

        facts = self._source.facts
        try:
            return convert(self._source.module, facts.settings, facts.activation, facts.ranked)
        except NotBuiltError as error:
            return error


def load(settings: Settings, found: Derived | None, phases: dict[str, float]) -> ServedModel:
    """Load the model the settings name and make it fast, by the choice that was made before or a new one.

    Runs in a thread. `phases` has the seconds of what came before and gets those of each step here.
    """
    phase = Phases(phases)
    builder, source = prepare(settings)
    phase.ended("weights")
    if found:
        choice = found.choice
        engine = builder(choice.engine, choice.precision)
        selected = Selection(engine, choice.seconds, choice.trials, choice.reason)
    else:
        selected = choose(settings, builder, source)
    phase.ended("engine")
    selected.engine.prepare(selected.seconds)
    phase.ended("warm_up")
    return ServedModel(
        **vars(source.facts),
        engine=selected.engine,
        reason=selected.reason,
        trials=selected.trials,
        derived=found.folder if found else None,
        decoder=Decoder(source.facts.settings, settings.max_pixels, settings.decode, settings.orientation),
        workers=builder.threads,
        torch_version=torch.__version__,
        load_phases=phase.rounded(),
    )


def prepare(settings: Settings) -> tuple[Builder, Source]:
    """The model that the settings name, and what makes engines of it on the device that they want."""
    device = choose_device("cpu" if settings.engine == "openvino" else settings.device, settings.require_gpu)
    source = from_bundle(settings.bundle_path) if settings.bundle_path else _from_checkpoint(settings)
    # Each thread sets its own number; what is measured here is to run on one core of several that do the same.
    torch.set_num_threads(1)
    return Builder(source, device, settings), source


def choose(settings: Settings, builder: Builder, source: Source) -> Selection:
    """Try what the settings allow and take the best."""
    compared = samples(source.golden, Decoder(source.facts.settings, manifests.GOLDEN_PIXELS))
    referee = Referee(builder, compared, source.tolerance, builder.threads)
    return referee.choose(ways(settings.engine, settings.precision, builder.device))


def samples(golden: Sequence[Path], decoder: Decoder) -> list[Pixels]:
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


def from_bundle(directory: Path) -> Source:
    """The model of a bundle, verified."""
    verified = verify.verify(directory)
    manifest = verified.manifest
    return Source(
        facts=facts_of(directory, manifest, verified.sha256, verified.labels),
        module=verified.module,
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
    module = networks.load(checkpoint.design, inputs.size, checkpoint.state, str(path))
    networks.probe(module, checkpoint.design, inputs.size)
    return Source(
        facts=Facts(
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
        ),
        module=module,
        golden=tuple(_shipped_golden()),
        tolerance=manifests.TOLERANCE,
    )

"""Making a bundle from a training checkpoint."""

import math
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import safetensors.torch

from app.bundle import manifest as manifests
from app.bundle.check import check
from app.bundle.manifest import Activation, Golden, GoldenSample, HeadActivation, Manifest, Ranked, Source, describe
from app.engines.torch_engine import TorchEngine
from app.errors import BundleError, ServiceError
from app.images.decoder import Decoder
from app.images.pictures import pictures
from app.models import checkpoint, networks, pretrained
from app.models.checkpoint import Checkpoint, Wish
from app.models.recipe import Given, settle

DEFAULT_GOLDEN = manifests.DATA / "golden"
# How the notes begin that somebody should look into.
WARNING = "Warning: "


@dataclass(frozen=True)
class Order:
    """What to make a bundle from; `overrides` replaces parts of the preprocessing that the checkpoint implies."""

    checkpoint: Path | None
    architecture: str
    labels: Path | None
    name: str
    version: str
    output: Path
    image_size: int | None = None
    overrides: dict[str, object] = field(default_factory=dict)
    activation: Activation | None = None
    threshold: str | None = None
    golden: Path = DEFAULT_GOLDEN
    check: Path | None = None
    weights: str | None = None
    model_args: dict[str, Any] = field(default_factory=dict)
    head_activation: HeadActivation | None = None
    pretrained: str | None = None

    @property
    def wish(self) -> Wish:
        """What is said about the checkpoint."""
        return Wish(self.architecture, self.weights, self.model_args, self.head_activation, self.image_size)


def create(order: Order) -> tuple[Manifest, str, Path]:
    """Write the bundle and return its manifest, its sha256 and its directory; a failure leaves nothing behind."""
    for what, value in (("name", order.name), ("version", order.version)):
        if not manifests.is_plain_name(value):
            raise BundleError(
                "invalid_name", f"The {what} {value!r} is refused; use letters, digits and ._+- only, no slash."
            )
    target = order.output / order.name / order.version
    if target.exists():
        raise BundleError(
            "bundle_exists", f"{target} already exists and a version never changes; choose another --version."
        )
    read = _read(order)
    recipe = settle(
        read,
        Given(
            labels=order.labels,
            image_size=order.image_size,
            preprocessing=order.overrides,
            activation=order.activation,
            threshold=order.threshold,
        ),
    )
    labels, inputs = recipe.labels, recipe.inputs
    module = networks.load(read.design, inputs.size, read.state, _origin(order))
    networks.probe(module, read.design, inputs.size)
    notes = [*read.notes, *recipe.notes, *(f"{WARNING}{warning}" for warning in recipe.warnings)]
    if order.check:
        checked = check(module, inputs, recipe.activation, labels, order.check)
        notes += [checked.note, *([f"{WARNING}{checked.warning}"] if checked.warning else [])]
    with _staged(target) as directory:
        weights = directory / "model.safetensors"
        safetensors.torch.save_file({key: value.clone() for key, value in module.state_dict().items()}, weights)
        labels_file = directory / "labels.txt"
        labels_file.write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
        engine = TorchEngine(module, inputs, recipe.activation, "cpu", max_batch=1)
        decoder = Decoder(inputs, manifests.GOLDEN_PIXELS)
        samples = _golden(order.golden, directory, engine, decoder, labels, order.architecture)
        golden_file = directory / "golden" / "golden.json"
        golden_file.write_text(
            Golden(schema=1, top_k=manifests.TOP_K, tolerance=manifests.TOLERANCE, samples=samples).to_json(),
            encoding="utf-8",
        )
        manifest = Manifest(
            schema=1,
            name=order.name,
            version=order.version,
            **{name: value for name, value in read.design.model_dump().items() if value or name == "head"},
            activation=recipe.activation,
            threshold=recipe.threshold,
            input=inputs,
            weights=describe(weights, directory),
            labels=describe(labels_file, directory),
            golden=describe(golden_file, directory),
            golden_samples=tuple(describe(directory / sample.file, directory) for sample in samples),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            source=Source(checkpoint=Path(_origin(order)).name, sha256=read.sha256),
            metrics=read.metrics or None,
            notes=tuple(notes),
        )
        (directory / manifests.FILE_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return manifest, manifests.sha256_of(target / manifests.FILE_NAME), target


def _read(order: Order) -> Checkpoint:
    if order.checkpoint:
        return checkpoint.read(order.checkpoint, order.wish)
    with pretrained.located(order.architecture, order.pretrained or pretrained.HUB) as path:
        return checkpoint.read(path, replace(order.wish, architecture=pretrained.tagged(order.architecture)))


def _origin(order: Order) -> str:
    if order.pretrained == pretrained.HUB:
        return pretrained.tagged(order.architecture)
    return str(order.checkpoint or order.pretrained)


def _golden(
    source: Path, directory: Path, engine: TorchEngine, decoder: Decoder, labels: tuple[str, ...], architecture: str
) -> tuple[GoldenSample, ...]:
    paths = pictures(source)
    if not paths:
        raise BundleError("golden_missing", f"{source} holds no image; give --golden a directory of photographs.")
    samples: list[GoldenSample] = []
    for path in paths:
        try:
            content = path.read_bytes()
            pixels = decoder.decode(content).pixels
        except ServiceError as error:
            raise BundleError("golden_invalid", f"The golden image {path} is refused: {error.detail}") from None
        except OSError as error:
            raise BundleError(
                "golden_invalid", f"The golden image {path} cannot be read ({error.strerror}); remove it, or allow it."
            ) from None
        copy = directory / "golden" / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(content)
        ranking = engine.predict([pixels])[0]
        if not all(map(math.isfinite, ranking.probabilities)):
            raise networks.no_number(architecture)
        top = tuple(
            Ranked(class_id=class_id, class_name=labels[class_id], probability=probability)
            for class_id, probability in zip(ranking.class_ids, ranking.probabilities, strict=True)
        )
        samples.append(GoldenSample(file=copy.relative_to(directory).as_posix(), top=top))
    return tuple(samples)


@contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """A directory beside the target that becomes the target only when the block succeeds."""
    parent = target.parent
    created = [path for path in (parent, *parent.parents) if not path.exists()]
    try:
        parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=parent))
    except OSError as error:
        raise BundleError(
            "output_unwritable", f"{parent} cannot be written ({error.strerror}); give --output a writable directory."
        ) from None
    try:
        yield staging
        # Other users serve the bundle: the container's user, whoever made it.
        for path in (staging, *staging.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        try:
            staging.rename(target)
        except OSError as error:
            raise BundleError(
                "bundle_exists", f"{target} appeared meanwhile ({error.strerror}); choose another --version."
            ) from None
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        for path in created:
            path.rmdir()
        raise

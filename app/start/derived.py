"""Derived models: what was made of a bundle for a CPU and kept, so that a start converts and tries nothing."""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from app.bundle import manifest as manifests
from app.engines.engine import Precision, Runtime, is_large
from app.engines.selection import Trial
from app.errors import BundleError
from app.models.labels import check_count
from app.process import cpus
from app.process.timing import Phases
from app.settings import Settings
from app.start.served_model import Facts, ServedModel, cpu_batch, cpu_threads, facts_of

log = logging.getLogger(__name__)

FILE_NAME = "derived.json"
# What OpenVINO computes, and its weights.
MODEL, WEIGHTS = "model.xml", "model.bin"


class Choice(manifests.Strict):
    """The content of derived.json: the engine that was chosen, everything that was tried, and the files it needs."""

    schema_version: Literal[1] = 1
    bundle_sha256: str
    engine: Runtime
    precision: Precision
    seconds: float
    reason: str
    trials: tuple[Trial, ...]
    torch_version: str
    created: str
    files: tuple[manifests.File, ...]


@dataclass(frozen=True)
class Derived:
    """A derived model with the bundle that it was made of."""

    folder: Path
    choice: Choice
    facts: Facts


def place(root: Path, bundle_sha256: str, settings: Settings) -> Path:
    """Where the derived model of a bundle lies, for this CPU, as many threads, and what is asked of its engine."""
    device = [cpus.kind(), cpu_threads(settings), settings.engine, settings.precision, cpu_batch(settings)]
    return root / hashlib.sha256(json.dumps([bundle_sha256, *device]).encode()).hexdigest()[:16]


def read(folder: Path, bundle_sha256: str) -> Choice:
    """What is kept in a folder, every file of it proved; a ValueError or an OSError says what is wrong with it."""
    choice = _glance(folder, bundle_sha256)
    for entry in choice.files:
        if manifests.sha256_of(folder / entry.file) != entry.sha256:
            raise ValueError(f"{entry.file} does not have its checksum")
    return choice


def _glance(folder: Path, bundle_sha256: str) -> Choice:
    """The same with nothing but the sizes of its files looked at: who uses them proves them."""
    choice = Choice.model_validate_json((folder / FILE_NAME).read_bytes())
    if choice.bundle_sha256 != bundle_sha256:
        raise ValueError("it was made of another bundle")
    for entry in choice.files:
        if (folder / entry.file).stat().st_size != entry.bytes:
            raise ValueError(f"{entry.file} does not have its checksum")
    return choice


def _places(settings: Settings) -> tuple[Path, Path] | None:
    """Where derived models and the bundle are, where one is to be looked for."""
    root, directory = settings.derived_path, settings.bundle_path
    # Only where a CPU was asked for is it certain that none of its makers would have taken a GPU.
    if root is None or directory is None or settings.device != "cpu" or settings.require_gpu:
        return None
    return root, directory


def find(settings: Settings) -> Derived | None:
    """The derived model that belongs to the settings, or nothing, with a line that says why."""
    places = _places(settings)
    if places is None:
        return None
    root, directory = places
    manifest, sha256 = manifests.read(directory)
    folder = place(root, sha256, settings)
    try:
        if not folder.is_dir():
            _left_out("derived_missing", f"{root} has no {folder.name}, which this bundle, CPU and settings need")
            return None
        choice = read(folder, sha256)
    except ValidationError as error:
        _left_out("derived_refused", f"{folder / FILE_NAME} is not valid: {error.errors()[0]['msg']}")
        return None
    except (OSError, ValueError) as error:
        _left_out("derived_refused", f"{folder} is not usable: {error}")
        return None
    return Derived(folder, choice, _facts(directory, manifest, sha256))


def choice(settings: Settings, *, proved: bool = False) -> Choice | None:
    """What the derived model that belongs to the settings was made with, where there is one; whole, if `proved`."""
    places = _places(settings)
    if places is None:
        return None
    root, directory = places
    try:
        sha256 = manifests.read(directory)[1]
        return (read if proved else _glance)(place(root, sha256, settings), sha256)
    except (BundleError, OSError, ValueError):
        return None


def load(settings: Settings, found: Derived, phases: dict[str, float]) -> ServedModel | None:
    """What OpenVINO computes, without torch; nothing where the choice was torch."""
    if found.choice.engine != "openvino":
        return None
    phase = Phases(phases)
    import openvino

    from app.engines.openvino_engine import OpenVinoEngine
    from app.images.decoder import Decoder

    phase.ended("import")
    threads, choice = cpu_threads(settings), found.choice
    # Its weights are mapped: what other processes read too is there once.
    model = openvino.Core().read_model(found.folder / MODEL)
    phase.ended("weights")
    max_batch = 1 if is_large(choice.seconds, threads) else cpu_batch(settings)
    engine = OpenVinoEngine(model, max_batch, choice.precision, threads)
    phase.ended("engine")
    engine.prepare(choice.seconds)
    phase.ended("warm_up")
    return ServedModel(
        **vars(found.facts),
        engine=engine,
        reason=choice.reason,
        trials=choice.trials,
        derived=found.folder,
        decoder=Decoder(found.facts.settings, settings.max_pixels, settings.decode, settings.orientation),
        workers=threads,
        torch_version=choice.torch_version,
        load_phases=phase.rounded(),
    )


def _facts(directory: Path, manifest: manifests.Manifest, sha256: str) -> Facts:
    """What the bundle says; of its files only what is used is proved."""
    manifests.check_file(manifest.labels, directory)
    labels_path = directory / manifest.labels.file
    labels = manifests.read_labels(labels_path)
    check_count(len(labels), manifest.num_labels, str(labels_path))
    return facts_of(directory, manifest, sha256, labels)


def _left_out(code: str, why: str) -> None:
    detail = f"{why}; so the model is converted now. A deploy makes it again, and so does `python -m app.derive`."
    log.warning("The service starts without a derived model", extra={"code": code, "detail": detail})

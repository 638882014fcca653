"""Verifying a bundle: checksums, labels, and the weights against the architecture."""

from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import nn

from app.bundle.manifest import Manifest, check_files, read, read_labels
from app.errors import BundleError
from app.models import networks
from app.models.labels import check_count


@dataclass(frozen=True)
class VerifiedBundle:
    """A bundle whose every part was checked, with its model ready for use on the CPU."""

    manifest: Manifest
    sha256: str
    labels: tuple[str, ...]
    module: nn.Module


def verify(directory: Path) -> VerifiedBundle:
    """Check a bundle completely; a BundleError names the first thing that is wrong."""
    manifest, sha256 = read(directory)
    check_files(manifest, directory)
    labels_path = directory / manifest.labels.file
    labels = read_labels(labels_path)
    check_count(len(labels), manifest.num_labels, str(labels_path))
    weights_path = directory / manifest.weights.file
    try:
        state = safetensors.torch.load_file(weights_path)
    except SafetensorError as error:
        raise BundleError("weights_unreadable", f"{weights_path} is not a safetensors file: {error}.") from None
    module = networks.load(manifest.design, manifest.input.size, state, str(weights_path))
    return VerifiedBundle(manifest, sha256, labels, module)

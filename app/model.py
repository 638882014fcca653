"""Models: timm architectures built without weights, and weights checked against them."""

import difflib
import importlib
import math
from collections.abc import Mapping
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg
from torch import Tensor, nn

from app.bundle.manifest import Head, Input, make_input
from app.errors import BundleError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def check_architecture(architecture: str) -> None:
    """Refuse a name timm does not know, suggesting the nearest."""
    if not timm.is_model(architecture):
        nearest = difflib.get_close_matches(architecture, timm.list_models(), n=1, cutoff=0.0)[0]
        raise BundleError(
            "unknown_architecture", f"timm has no architecture named {architecture!r}; did you mean {nearest!r}?"
        )


def head_key(architecture: str) -> str:
    """The key of the last layer's weight in the architecture's own state dict."""
    classifier: object = _config(architecture).classifier
    return f"{classifier[0] if isinstance(classifier, tuple | list) else classifier}.weight"


def _config(architecture: str) -> PretrainedCfg:
    check_architecture(architecture)
    config = timm.get_pretrained_cfg(architecture)
    if config is None:
        raise BundleError(
            "unknown_architecture", f"timm knows no settings for {architecture!r}; use one of its listed architectures."
        )
    return config


def default_input(architecture: str, head: Head, image_size: int | None = None) -> Input:
    """The preprocessing a checkpoint was most likely trained with.

    A timm head takes the architecture's own settings. The sequential head comes from a trainer that resizes to a
    square (`Resize((s, s))`) and normalises with ImageNet's mean and standard deviation.
    """
    if head == "sequential":
        side = image_size or 224
        return make_input(
            {
                "size": (3, side, side),
                "mean": IMAGENET_MEAN,
                "std": IMAGENET_STD,
                "interpolation": "bilinear",
                "crop_pct": 1.0,
                "crop_mode": "squash",
            }
        )
    config = _config(architecture)
    _, height, width = config.input_size
    return make_input(
        {
            "size": (3, image_size or height, image_size or width),
            "mean": config.mean,
            "std": config.std,
            "interpolation": config.interpolation,
            "crop_pct": config.crop_pct,
            "crop_mode": config.crop_mode,
        }
    )


def build(
    architecture: str,
    head: Head,
    num_classes: int | None = None,
    size: tuple[int, int, int] | None = None,
    device: str = "meta",
) -> nn.Module:
    """Build an architecture with uninitialised weights, on the meta device unless told otherwise."""
    try:
        return _build(architecture, head, num_classes, size, device)
    except NotImplementedError:
        # Some constructors compute with operators that need what the start leaves out for all the others.
        importlib.import_module("torch._meta_registrations")
        return _build(architecture, head, num_classes, size, device)


def _build(
    architecture: str, head: Head, num_classes: int | None, size: tuple[int, int, int] | None, device: str
) -> nn.Module:
    options: dict[str, Any] = {}
    config = _config(architecture)
    if size and config.fixed_input_size and tuple(config.input_size) != size:
        options["img_size"] = size[1:]
    with torch.device(device):
        if head == "timm":
            if num_classes is not None:
                options["num_classes"] = num_classes
            module: nn.Module = timm.create_model(architecture, pretrained=False, **options)
            return module
        backbone = timm.create_model(architecture, pretrained=False, num_classes=0, **options)
        features: Any = getattr(backbone, "head_hidden_size", None) or backbone.num_features
        classifier = nn.Sequential(nn.Dropout(), nn.Linear(features, num_classes or 1))
        sequence = nn.Sequential()
        sequence.add_module("backbone", backbone)
        sequence.add_module("classifier", classifier)
        return sequence


def load(
    architecture: str,
    head: Head,
    num_classes: int,
    size: tuple[int, int, int],
    state: Mapping[str, Tensor],
    origin: str,
) -> nn.Module:
    """Build the architecture and give it the weights, refusing any that do not fit; `origin` names them in errors."""
    module = build(architecture, head, num_classes, size)
    weights = _fit(module.state_dict(), state, architecture, origin)
    module.load_state_dict(weights, assign=True)
    if any(tensor.is_meta for tensor in module.buffers()):
        # Buffers that are computed and not stored need a real construction.
        module = build(architecture, head, num_classes, size, device="cpu")
        module.load_state_dict(weights, assign=True)
    module.requires_grad_(requires_grad=False)
    return module.eval()


def _fit(
    wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], architecture: str, origin: str
) -> dict[str, Tensor]:
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    if missing:
        raise BundleError(
            "missing_key",
            f"{origin} lacks {_some(missing)}, which {architecture} needs; name the architecture it was trained with.",
        )
    unexpected = [key for key in state if key not in wanted]
    if unexpected:
        raise BundleError(
            "unexpected_key",
            f"{origin} has {_some(unexpected)}, which {architecture} does not have; name the architecture it was "
            "trained with.",
        )
    fitted: dict[str, Tensor] = {}
    for key, target in wanted.items():
        value = state.get(key)
        if value is None:
            value = torch.zeros(target.shape, dtype=target.dtype)
        if value.shape != target.shape:
            raise BundleError(
                "shape_mismatch",
                f"{key} in {origin} has shape {tuple(value.shape)} but {architecture} needs {tuple(target.shape)}; "
                "name the architecture, classes and image size it was trained with.",
            )
        if value.is_floating_point() and not math.isfinite(value.float().sum().item()) and not value.isfinite().all():
            raise BundleError(
                "nan_weights",
                f"{key} in {origin} contains NaN or infinite values, so the training diverged or the file is damaged; "
                "use an earlier checkpoint.",
            )
        fitted[key] = value.to(target.dtype).contiguous()
    return fitted


def _some(keys: list[str]) -> str:
    return keys[0] if len(keys) == 1 else f"{keys[0]} and {len(keys) - 1} more keys"

"""Models: timm architectures built without weights, and weights checked against them."""

import importlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from timm.layers import SelectAdaptivePool2d
from timm.utils import reparameterize_model
from torch import Tensor, nn

from app.models import architectures
from app.models import heads as classifiers
from app.bundle.manifest import Design, Head, Input, make_input
from app.errors import BundleError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
# What timm's factory would take, and who says it here.
_OWN = {
    "num_classes": "the checkpoint's last layer says it",
    "pretrained": "it is an option of its own",
    **dict.fromkeys(
        ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "features_only", "model_name"),
        "it is not about the network",
    ),
}
IMAGENET_STD = (0.229, 0.224, 0.225)


def default_input(design: Design, head: Head, image_size: int | None = None) -> Input:
    """The preprocessing a checkpoint was most likely trained with.

    A timm head takes the architecture's own settings. The sequential head comes from a trainer that resizes to a
    square (`Resize((s, s))`) and normalizes with ImageNet's mean and standard deviation.
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
    config = architectures.config(design.architecture)
    sides = image_sides(design, image_size)
    gray = channels(design) == 1
    return make_input(
        {
            "size": (channels(design), *sides),
            "mean": _of_gray(config.mean) if gray else config.mean,
            "std": _of_gray(config.std) if gray else config.std,
            "interpolation": config.interpolation,
            "crop_pct": config.crop_pct,
            "crop_mode": config.crop_mode,
        }
    )


def _of_gray(colors: Sequence[float]) -> tuple[float]:
    return (sum(colors) / len(colors),)


def image_sides(design: Design, image_size: int | None = None) -> tuple[int, int]:
    """Height and width of a network's images: as given, in `model_args` too, or the architecture's own."""
    given: Any = design.model_args.get("img_size")
    _, height, width = architectures.config(design.architecture).input_size
    if image_size:
        return image_size, image_size
    if isinstance(given, list) and len(given) == 2:
        return int(given[0]), int(given[1])
    return (int(given), int(given)) if isinstance(given, int) else (height, width)


def build(design: Design, size: tuple[int, int, int] | None = None, device: str = "meta") -> nn.Module:
    """Build a network with uninitialized weights, on the meta device unless told otherwise."""
    options = _options(design, size)
    try:
        try:
            return _build(design, options, device)
        except NotImplementedError:
            # Some constructors compute with operators that need what the start leaves out for all the others.
            importlib.import_module("torch._meta_registrations")
            return _build(design, options, device)
    except Exception as error:  # timm's constructors raise whatever they like
        raise _refused(design, size, error) from None


def _options(design: Design, size: tuple[int, int, int] | None) -> dict[str, Any]:
    config = architectures.config(design.architecture)
    own = next((name for name in _OWN if name in design.model_args), None)
    if own:
        raise BundleError("model_args_refused", f"model_args cannot have {own}: {_OWN[own]}.")
    options: dict[str, Any] = dict(design.model_args)
    # Networks that take images of any size are not told one; only the images are made so.
    if not config.fixed_input_size:
        options.pop("img_size", None)
    elif size and "img_size" not in options and tuple(config.input_size)[1:] != size[1:]:
        options["img_size"] = size[1:]
    return options


def _build(design: Design, options: dict[str, Any], device: str) -> nn.Module:
    with torch.device(device):
        classes = design.num_classes if design.head == "timm" else 0
        network: nn.Module = timm.create_model(
            architectures.resolve(design.architecture), pretrained=False, num_classes=classes, **options
        )
        if design.reparameterized:
            network = reparameterize_model(network)
        if design.head == "timm":
            return network
        classifier: nn.Module
        if design.head_layers:
            classifier = classifiers.build(design.head_layers)
        else:
            classifier = nn.Sequential(nn.Dropout(), nn.Linear(features_of(network), design.num_classes))
        sequence = nn.Sequential()
        sequence.add_module("backbone", network)
        if design.concat_pooling:
            # The head pools by itself what the network has before its own pooling.
            network.forward = network.forward_features
            sequence.add_module("pool", SelectAdaptivePool2d(pool_type="catavgmax", flatten=True))
        sequence.add_module("classifier", classifier)
        return sequence


def channels(design: Design) -> int:
    """How many channels the images of a network have."""
    given: Any = design.model_args.get("in_chans", architectures.config(design.architecture).input_size[0])
    return int(given)


def features_of(network: nn.Module) -> int:
    """How many features a network without a head gives for an image."""
    features: Any = getattr(network, "head_hidden_size", None) or network.num_features
    return int(features)


def _refused(design: Design, size: tuple[int, int, int] | None, error: Exception) -> BundleError:
    reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
    sides = architectures.config(design.architecture).input_size[1:]
    own = " by ".join(map(str, sides))
    # At its own size every network can be built, so it is the arguments then.
    if size and size[1:] != tuple(sides):
        return BundleError(
            "size_refused",
            f"{design.architecture} cannot be built for images of {size[1]} by {size[2]} pixels ({reason}); its own "
            f"size is {own}, and give image_size only as the model was trained.",
        )
    given = ", ".join(design.model_args)
    return BundleError(
        "model_args_refused",
        f"timm cannot build {design.architecture}" + (f" with model_args {given}" if given else "") + f": {reason}.",
    )


def probe(module: nn.Module, design: Design, size: tuple[int, int, int]) -> None:
    """Have a network answer an image, so that a size, a head or weights that cannot work are refused here."""
    try:
        with torch.inference_mode():
            answer = module(torch.linspace(-2, 2, math.prod(size)).view(1, *size))
    except Exception as error:  # whatever an operator says of shapes
        raise _refused(design, size, error) from None
    shape = tuple(answer.shape) if isinstance(answer, Tensor) else ()
    if shape != (1, design.num_classes):
        raise BundleError(
            "model_args_refused",
            f"{design.architecture} answers an image with {shape or 'several tensors'} instead of {design.num_classes} "
            "numbers; model_args must leave it a classifier.",
        )
    if not answer.isfinite().all():
        raise no_number(design.architecture)


def no_number(architecture: str) -> BundleError:
    """The error for a network that answers a picture with NaN or infinity."""
    return BundleError(
        "nan_weights",
        f"With these weights {architecture} answers a picture with NaN or infinity, so the training diverged or the "
        "file is damaged; use an earlier checkpoint, or copy it again.",
    )


def load(design: Design, size: tuple[int, int, int], state: Mapping[str, Tensor], origin: str) -> nn.Module:
    """Build a network and give it the weights, refusing any that do not fit; `origin` names them in errors."""
    module = build(design, size)
    weights = _fit(module.state_dict(), state, design.architecture, origin)
    module.load_state_dict(weights, assign=True)
    if any(tensor.is_meta for tensor in module.buffers()):
        # Buffers that are computed and not stored need a real construction.
        module = build(design, size, device="cpu")
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

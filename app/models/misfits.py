"""Why weights do not fit the architecture that was named, and what would."""

import difflib
import re
from collections.abc import Mapping, Sequence

import timm
import torch

from app.models import architectures

from app.models import networks

from app.models import weights
from app.bundle.manifest import Design
from app.errors import BundleError
from app.models.weights import State, Tensors

# Names that other libraries give to layers, and whose they are.
_OTHERS = (
    (r"(^|\.)(features\.\d+\.\d+(\.\d+)?\.(weight|bias)$|encoder\.layers\.encoder_layer_0\.|features\.\d+\.\d+\.block\.)",
     "torchvision"),
    (r"(^|\.)(embeddings\.(cls_token|patch_embeddings)|encoder\.layer\.0\.|embedder\.(embedder|convolution)|"
     r"encoder\.stages\.0\.layers\.)", "transformers"),
    (r"(^|\.)(trunk\.|visual\.|transformer\.resblocks\.0\.)", "open_clip"),
    (r"(^|\.)(model\.0\.conv\.|model\.22\.|backbone\.stages?\d\.0\.conv)", "a detection library"),
    (r"(^|\.)_(blocks\.0\._depthwise_conv|conv_stem)\.", "efficientnet_pytorch"),
)  # fmt: skip
_ADAPTER = re.compile(r"(^|\.)(lora_[AB]|lora_(up|down)|adapter_\w+|base_layer)\.")
_QUANTIZED = re.compile(r"(_packed_params|\.zero_point|\.weight_scale|\.SCB|\.quant_state|\.weight_format)")
_MOST_TRIED = 12
_HALF = 0.5


def check_numbers(state: State, origin: str) -> None:
    """Refuse weights that are no floating-point numbers: what they mean stands elsewhere."""
    for name, value in state.items():
        kind = value.dtype
        if value.is_quantized or not (kind.is_floating_point or _counts(name)) or kind.itemsize == 1:
            raise BundleError(
                "quantized_weights",
                f"{name} in {origin} is of type {str(kind).removeprefix('torch.')}, so these weights were quantized; "
                "give those from before, in float32, float16 or bfloat16 (the service reduces precision by itself).",
            )
        if value.layout is not torch.strided or value.is_meta:
            what = "has no numbers" if value.is_meta else "is sparse"
            raise BundleError(
                "checkpoint_unreadable", f"{name} in {origin} {what}; save model.state_dict() of the trained model."
            )


def _counts(name: str) -> bool:
    return weights.harmless(name) or name.rpartition(".")[2].endswith(("index", "idx", "idxs", "indices", "mask"))


def explain(found: Tensors, wanted: State, architecture: str, origin: str) -> BundleError:
    """The error for a checkpoint in which the architecture is not."""
    names = [name for name in found.values if not weights.of_no_network(name)]
    if not names:
        return BundleError(
            "not_a_state_dict",
            f"{origin} holds no state dict; save model.state_dict(), bare or under the key model_state_dict.",
        )
    if any(_ADAPTER.search(name) for name in names):
        return BundleError(
            "adapter_weights",
            f"{origin} holds an adapter ({_first(names, _ADAPTER)}); merge it into the network first (peft's "
            "merge_and_unload()), then save model.state_dict().",
        )
    if any(_QUANTIZED.search(name) for name in names):
        return BundleError(
            "quantized_weights",
            f"{origin} holds a quantized network ({_first(names, _QUANTIZED)}); give the weights from before, in "
            "float32, float16 or bfloat16.",
        )
    votes = weights.prefixes(names, wanted)
    prefix, count = next(iter(votes.items()), ("", 0))
    part = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    missing = [name for name in wanted if name not in part]
    if missing and all(name.rpartition(".")[2] in ("running_mean", "running_var") for name in missing):
        return BundleError(
            "missing_key",
            f"{origin} has the parameters of {architecture} and lacks its buffers ({_some(missing)}); save "
            "model.state_dict(), not model.parameters().",
        )
    where = f" under {prefix.rstrip('.')}" if prefix else ""
    has = (
        f"; {count} of its {len(wanted)} tensors are there{where}"
        if count
        else f"; its first are {', '.join(names[:3])}"
    )
    said = f"{origin} lacks {_some(missing)}, which {architecture} needs{has}."
    for pattern, library in _OTHERS:
        if any(re.search(pattern, name) for name in names) and count < _HALF * len(wanted):
            return BundleError(
                "foreign_layout",
                f"{said} Its layers are named as in {library}, not as in timm; train with timm, or rename the weights.",
            )
    if "fc_norm.weight" in part and count >= _HALF * len(wanted):
        return BundleError(
            "missing_key",
            f'{said} It has fc_norm, so it was built with model_args {{"global_pool": "avg"}}; give them.',
        )
    other = _fitting({name.removeprefix(prefix): found.values[name] for name in names if name.startswith(prefix)},
                     architecture)  # fmt: skip
    if other:
        return BundleError("missing_key", f"{said} They are the weights of {other}; name that architecture.")
    if count >= _HALF * len(wanted):
        advice = "It is a part of that network, or one of a similar architecture: name the one that was trained"
    else:
        advice = "They are the weights of another architecture: name the one that was trained"
    return BundleError("missing_key", f"{said} {advice}, with its model_args.")


def leftover(strange: Sequence[str], found: Tensors, prefix: str, architecture: str, origin: str) -> BundleError:
    """The error for a checkpoint that has more than the architecture."""
    said = f"{origin} has {_some(list(strange))}, which {architecture} does not have"
    part = {name.removeprefix(prefix): value for name, value in found.values.items() if name.startswith(prefix)}
    registers = part.get("reg_token")
    if (
        registers is not None
        and registers.dim() == 3
        and "reg_token" in {name.removeprefix(prefix) for name in strange}
    ):
        return BundleError(
            "unexpected_key",
            f'{said}; it was built with model_args {{"reg_tokens": {registers.shape[1]}}}, so give them.',
        )
    if all(re.search(r"(^|[._])(mean|std)$", name) for name in strange):
        return BundleError(
            "unexpected_key",
            f"{said}: they are a normalization of its own. Save without them, and give mean and std by their options.",
        )
    other = _fitting(part, architecture)
    if other:
        return BundleError("unexpected_key", f"{said}. They are the weights of {other}; name that architecture.")
    return BundleError(
        "unexpected_key", f"{said}; name the architecture that was trained, with its model_args, or save without them."
    )


def misshapen(wrong: Sequence[str], state: State, wanted: State, design: Design, origin: str) -> BundleError:
    """The error for weights with the right names and other shapes."""
    name = wrong[0]
    has, needs = tuple(state[name].shape), tuple(wanted[name].shape)
    said = f"{name} in {origin} has shape {has} but {design.architecture} needs {needs}"
    if len(wrong) <= 2 and len(has) == len(needs) == 4 and has[0] == needs[0] and has[2:] == needs[2:]:
        return BundleError(
            "shape_mismatch",
            f"{said}: it was trained on images of {has[1]} channels; give model_args {{in_chans: {has[1]}}}.",
        )
    if design.head == "timm":
        other = _fitting(state, design.architecture)
        if other:
            return BundleError("shape_mismatch", f"{said}. They are the weights of {other}; name that architecture.")
    return BundleError(
        "shape_mismatch", f"{said}; name the architecture, model_args and image size that it was trained with."
    )


def _fitting(part: Mapping[str, object], architecture: str) -> str | None:
    """Another architecture of the family that has exactly these tensors."""
    near = _siblings(architecture.partition(".")[0])
    shapes = {name: tuple(value.shape) for name, value in part.items() if hasattr(value, "shape")}
    shapes = {name: shape for name, shape in shapes.items() if not weights.harmless(name)}
    for name in near:
        try:
            layers = architectures.classifiers(name)
            rows = next((shapes[f"{layer}.weight"][0] for layer in layers if f"{layer}.weight" in shapes), None)
            if not rows:
                continue
            built = networks.build(Design(architecture=name, num_classes=rows)).state_dict()
        except (BundleError, IndexError):
            continue
        if {key: tuple(value.shape) for key, value in built.items() if not weights.harmless(key)} == shapes:
            return name
    return None


def _siblings(base: str) -> list[str]:
    """Architectures of names like this one: other numbers first, then longer and shorter names, then similar ones."""
    known = [name for name in timm.list_models() if name != base]
    pattern = re.sub(r"\d+", r"\\d+", re.escape(base))
    family = re.match(r"[a-z]+", base)
    near = [name for name in known if re.fullmatch(pattern, name)]
    near += [name for name in known if name in base or base in name]
    near += difflib.get_close_matches(base, [name for name in known if family and family[0] in name], n=_MOST_TRIED)
    return list(dict.fromkeys(near))[:_MOST_TRIED]


def _first(names: Sequence[str], pattern: re.Pattern[str]) -> str:
    return next(name for name in names if pattern.search(name))


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more keys"

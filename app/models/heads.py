"""Heads: the layers behind a network's features, recognized by their shapes and built again."""

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from torch import Tensor, nn

from app.bundle.manifest import HeadActivation, Layer
from app.errors import BundleError

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "leaky_relu": nn.LeakyReLU,
    "hardswish": nn.Hardswish, "elu": nn.ELU, "selu": nn.SELU, "mish": nn.Mish, "tanh": nn.Tanh, "relu6": nn.ReLU6,
}  # fmt: skip
# Losses that hold the weights of their classes.
_ANGULAR = re.compile(r"metric|arc_?(face|margin)|cos_?face|margin|sphere", re.IGNORECASE)
_PARAMETER = re.compile(r"(?:(.*)\.)?(weight|bias|running_mean|running_var)")


@dataclass(frozen=True)
class Recognized:
    """The layers of a head in order, its tensors under their names, and whether max and mean features go in."""

    layers: tuple[Layer, ...]
    state: dict[str, Tensor]
    concat: bool
    described: str


@dataclass(frozen=True)
class _Part:
    name: str
    layer: Layer
    tensors: dict[str, Tensor]

    @property
    def place(self) -> tuple[str, int | None]:
        parent, _, last = self.name.rpartition(".")
        return (parent, int(last)) if last.isdecimal() else (self.name, None)


def build(layers: tuple[Layer, ...]) -> nn.Sequential:
    """A head of these layers."""
    return nn.Sequential(*(_module(layer) for layer in layers))


def _module(layer: Layer) -> nn.Module:
    if layer.kind == "linear":
        return nn.Linear(layer.inputs, layer.outputs, bias=layer.bias)
    if layer.kind == "batch_norm":
        return nn.BatchNorm1d(layer.inputs, affine=layer.bias)
    if layer.kind == "layer_norm":
        return nn.LayerNorm(layer.inputs)
    return ACTIVATIONS[layer.kind]()


def recognize(
    tensors: Mapping[str, Tensor], features: int, channels: int, activation: str | None, origin: str
) -> Recognized:
    """The head that these tensors are, behind so many features, or so many channels before the network's pooling."""
    parts = _parts(tensors, origin)
    linear = [part for part in parts if part.layer.kind == "linear"]
    if not linear:
        raise BundleError(
            "head_missing",
            f"{origin} has no layer with an output a class beside the network's own ({_names(list(tensors))}); save "
            "the whole model, its last layer included.",
        )
    if not linear[-1].layer.bias and _ANGULAR.search(linear[-1].name):
        raise BundleError(
            "head_mismatch",
            f"{linear[-1].name} in {origin} has no bias and the name of a metric loss (ArcFace, CosFace), which "
            "answers with an angle, not the output of a layer; it cannot be served, so train a linear one instead.",
        )
    wide = parts[0].layer.inputs
    concat = wide == 2 * channels and wide != features
    if wide != features and not concat:
        raise BundleError(
            "head_mismatch",
            f"{parts[0].name} in {origin} takes {wide} features, and the architecture gives {features}; it is the head "
            "of another network, or there are layers between that were not saved.",
        )
    for one, other in itertools.pairwise(parts):
        if one.layer.outputs != other.layer.inputs:
            raise BundleError(
                "unexpected_key",
                f"{other.name} in {origin} takes {other.layer.inputs} numbers and {one.name} before it gives "
                f"{one.layer.outputs}, so they are not one head; a model with several heads cannot be served.",
            )
    if parts[-1] is not linear[-1]:
        raise BundleError(
            "unexpected_key", f"{parts[-1].name} in {origin} comes after the last layer, so its outputs are no classes."
        )
    fastai = concat and parts[0].layer.kind == "batch_norm"
    layers, state = _in_order(parts, activation or ("relu" if fastai else None), origin)
    if concat:
        state |= _mean_first(layers, state, channels)
    return Recognized(layers, state, concat, _described(parts, layers, concat))


def _mean_first(layers: tuple[Layer, ...], state: dict[str, Tensor], channels: int) -> dict[str, Tensor]:
    """The first layers for the mean features before the largest, as timm pools; fastai has them the other way round."""
    first = next(index for index, layer in enumerate(layers) if layer.kind == "linear")
    return {
        key: value.roll(channels, -1)
        for key, value in state.items()
        if int(key.partition(".")[0]) < first or key == f"{first}.weight"
    }


def _parts(tensors: Mapping[str, Tensor], origin: str) -> list[_Part]:
    grouped: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        found = _PARAMETER.fullmatch(name)
        if not found:
            raise _leftover([name], origin)
        grouped.setdefault(found[1] or "", {})[found[2]] = value
    parts = [_Part(name, _layer(name, content, origin), content) for name, content in grouped.items()]
    parents = {part.place[0] for part in parts if part.place[1] is not None}
    # A Sequential counts its layers; its order in the file is the same unless somebody sorted the names as texts.
    return (
        sorted(parts, key=lambda part: part.place[1] or 0)
        if len(parents) == 1 and len(parts) > 1 and all(part.place[1] is not None for part in parts)
        else parts
    )


def _layer(name: str, content: Mapping[str, Tensor], origin: str) -> Layer:
    weight = content.get("weight")
    if "running_mean" in content and "running_var" in content:
        size = int(content["running_mean"].shape[0])
        return Layer(kind="batch_norm", inputs=size, outputs=size, bias=weight is not None)
    if weight is not None and (weight.dim() == 2 or (weight.dim() == 4 and tuple(weight.shape[2:]) == (1, 1))):
        return Layer(kind="linear", inputs=int(weight.shape[1]), outputs=int(weight.shape[0]), bias="bias" in content)
    if weight is not None and weight.dim() == 1 and "bias" in content and content["bias"].shape == weight.shape:
        size = int(weight.shape[0])
        return Layer(kind="layer_norm", inputs=size, outputs=size)
    raise _leftover([f"{name}.{key}" if name else key for key in content], origin)


def _in_order(parts: list[_Part], activation: str | None, origin: str) -> tuple[tuple[Layer, ...], dict[str, Tensor]]:
    layers: list[Layer] = []
    state: dict[str, Tensor] = {}
    owed = False
    last = max(index for index, part in enumerate(parts) if part.layer.kind == "linear")
    for index, part in enumerate(parts):
        for key, value in part.tensors.items():
            state[f"{len(layers)}.{key}"] = value.flatten(1) if value.dim() == 4 else value
        layers.append(part.layer)
        owed = owed or part.layer.kind == "linear"
        if not owed or index >= last:
            continue
        following = parts[index + 1]
        gap = _gap(part, following)
        # A layer without weights leaves a gap in a Sequential's count; the first one behind a linear layer is taken to
        # be the activation, a second one a dropout. Layers with names of their own say nothing: there it comes last.
        if gap or (gap is None and following.layer.kind == "linear"):
            if activation is None:
                raise BundleError(
                    "head_activation_unknown",
                    f"The head in {origin} has several layers ({', '.join(each.name for each in parts)}), and no file "
                    "of weights says what is computed between them; give head_activation "
                    f"({', '.join(get_args(HeadActivation))}).",
                )
            if activation != "none":
                size = part.layer.outputs
                layers.append(Layer.model_validate({"kind": activation, "inputs": size, "outputs": size}))
            owed = False
    return tuple(layers), state


def _gap(one: _Part, other: _Part) -> bool | None:
    """Whether layers without weights stand between two, None when their names do not tell."""
    (parent, place), (other_parent, other_place) = one.place, other.place
    if place is None or other_place is None or parent != other_parent:
        return None
    return other_place - place > 1


def _described(parts: list[_Part], layers: tuple[Layer, ...], concat: bool) -> str:
    outputs = parts[-1].layer.outputs
    source = "the mean and the largest features" if concat else "the pooled features"
    if len(parts) == 1:
        bias = "" if parts[0].layer.bias else ", without a bias"
        return f"one linear layer ({parts[0].name or 'weight'}) with {outputs} outputs on {source}{bias}"
    return f"{len(layers)} layers on {source}: " + ", ".join(
        f"{layer.kind} {layer.inputs}→{layer.outputs}" if layer.kind == "linear" else layer.kind for layer in layers
    )


def _leftover(names: list[str], origin: str) -> BundleError:
    return BundleError(
        "unexpected_key",
        f"{origin} has {_names(names)}, which is no part of the architecture and of no head that can be built; "
        "name the architecture and the model_args that it was trained with.",
    )


def _names(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"

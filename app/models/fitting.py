"""Fitting weights to the architecture that was named: it says which layers it has, and everything else is explained."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import timm
import timm.models._builder as timm_builder
import torch
from torch import Tensor, nn

from app.models import architectures

from app.models import heads

from app.models import misfits

from app.models import networks

from app.models import weights
from app.bundle.manifest import Design
from app.errors import BundleError
from app.models.options import size_fault
from app.models.weights import State, Tensors

# Where a design is only asked for the names of its layers.
_ANY_CLASSES = 2
_COUNTER = "num_batches_tracked"
_SIZES = (96, 112, 128, 160, 192, 196, 224, 240, 256, 288, 320, 336, 384, 392, 448, 512, 518, 560, 640)
_TRAINERS_SIZE = 224


@dataclass(frozen=True)
class Wish:
    """What the person who has the checkpoint says about it."""

    architecture: str
    weights: str | None = None
    model_args: Mapping[str, Any] | None = None
    head_activation: str | None = None
    image_size: int | None = None


@dataclass(frozen=True)
class Fitted:
    """Weights under the names of a design, with what was found and assumed."""

    design: Design
    state: State
    # Whether this is the form of the reference project's trainer, which says how images were prepared.
    trainers: bool
    image_size: int | None
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Set:
    """One set of weights: its tensors, their prefix, and whether the architecture's own last layer is there."""

    tensors: Tensors
    prefix: str
    complete: bool


class _Reference:
    """The names and shapes of an architecture's tensors, with its own last layer and without."""

    def __init__(self, design: Design) -> None:
        self.design = design
        self.whole = _shapes(networks.build(design))

    @cached_property
    def network(self) -> nn.Module:
        """The architecture without its last layer."""
        return networks.build(self.design.model_copy(update={"head": "sequential"})).get_submodule("backbone")

    @cached_property
    def body(self) -> State:
        """What is left of the names without the last layer."""
        return _shapes(self.network)

    @cached_property
    def heads(self) -> tuple[str, ...]:
        """The layers with an output a class; merging may have made one layer of a norm and the layer behind it."""
        found = []
        for layer in architectures.classifiers(self.design.architecture):
            name = layer
            while f"{name}.weight" not in self.whole and "." in name:
                name = name.rpartition(".")[0]
            found.append(name)
        return tuple(found)

    def misshapen(self, fitted: Fitted) -> list[str]:
        """The weights that have another shape than the architecture's, at its own image size."""
        start = "backbone." if fitted.design.head == "sequential" else ""
        wanted = self.body if start else self.whole
        heads = tuple(f"{layer}." for layer in self.heads)
        return [
            f"{start}{name}"
            for name, value in wanted.items()
            if not name.startswith(heads) and fitted.state[f"{start}{name}"].shape != value.shape
        ]


def _shapes(network: nn.Module) -> State:
    return {name: value for name, value in network.state_dict().items() if not name.endswith(_COUNTER)}


def fit(found: Tensors, wish: Wish, origin: str) -> Fitted:
    """Find the weights of the named architecture among the tensors; a BundleError says what is there instead."""
    name = architectures.resolve(wish.architecture)
    notes = [f"Architecture: timm calls {wish.architecture} {name} today."] if name != wish.architecture else []
    args = dict(wish.model_args or {})
    reference = _Reference(Design(architecture=name, num_classes=_ANY_CLASSES, model_args=args))
    sets = _sets(found, reference)
    if not sets and (merged := _merged(reference)):
        sets = _sets(found, merged)
        if sets:
            reference = merged
            notes.append("Branches: merged after training, so the network is built with merged ones.")
    if not sets:
        sets = _converted(found, reference)
        if not sets:
            raise misfits.explain(found, reference.whole, name, origin)
        notes.append("Names: an older layout, renamed as timm does it for its own files.")
    taken = _choose(sets, wish.weights, reference, origin)
    notes.append(_says(taken, sets))
    others = [each.prefix for each in sets if each is not taken]
    if taken.complete:
        fitted = _own_head(taken, others, reference, origin)
    else:
        fitted = _other_head(taken, others, reference, wish, origin)
    misfits.check_numbers(fitted.state, origin)
    left = [name for name in fitted.left_out if not name.endswith(_COUNTER)]
    if left:
        notes.append(f"Left out: {', '.join(left[:4])}{f' and {len(left) - 4} more' if len(left) > 4 else ''}.")
    size = _size(fitted, reference, wish, origin)
    if size != wish.image_size and size is not None and not fitted.trainers:
        notes.append(f"Image size: {size}, which the weights were made for.")
    return replace(fitted, image_size=size, notes=(*notes, *fitted.notes))


def _merged(reference: _Reference) -> _Reference | None:
    """The architecture with its branches merged, where it has such."""
    try:
        merged = _Reference(reference.design.model_copy(update={"reparameterized": True}))
    except BundleError:
        return None
    return merged if merged.whole.keys() != reference.whole.keys() else None


def _sets(found: Tensors, reference: _Reference) -> list[_Set]:
    names = reference.whole
    whole = [prefix for prefix, count in weights.prefixes(found.values, names).items() if count == len(names)]
    if whole:
        return [_Set(found, prefix, complete=True) for prefix in whole]
    names = reference.body
    bare = [prefix for prefix, count in weights.prefixes(found.values, names).items() if count == len(names)]
    return [_Set(found, prefix, complete=False) for prefix in bare]


def _converted(found: Tensors, reference: _Reference) -> list[_Set]:
    """The sets that timm's own filter for older files, or our renaming, makes fit."""
    least = len(reference.body) // 3
    under: dict[str, int] = {}
    for name in found.values:
        parts = name.split(".")
        for length in range(min(len(parts), 5)):
            start = "".join(f"{part}." for part in parts[:length])
            under[start] = under.get(start, 0) + 1
    starts = sorted((start for start, count in under.items() if count >= least), key=len, reverse=True)
    convert = _filter(reference.design)
    sets: list[_Set] = []
    for start in starts[:12]:
        if any(each.prefix.startswith(start) for each in sets):
            continue
        part = {name[len(start) :]: value for name, value in found.values.items() if name.startswith(start)}
        changed = convert(part)
        if changed is None:
            continue
        renamed = Tensors(
            {start + name: value for name, value in changed.items()},
            dict.fromkeys((start + name for name in changed), start),
        )
        sets += [each for each in _sets(renamed, reference) if each.prefix == start]
    return sets


def _filter(design: Design) -> Any:
    """timm's own conversion of files with other names, as a function; it gives None when it cannot do it."""
    network = networks.build(design)
    with _caught_filter() as caught:
        timm.create_model(design.architecture, pretrained=True, num_classes=design.num_classes, **design.model_args)

    def convert(part: State) -> State | None:
        if "_conv_stem.weight" in part:
            return rename_efficientnet_lite(part, list(network.state_dict()))
        if not caught:
            return None
        try:
            with torch.no_grad():
                changed = caught[0](dict(part), network)
        except Exception:  # a filter expects the one layout that it was written for
            return None
        # A filter also resizes what was trained for images of another size, and that is not asked for.
        same = all(name not in part or part[name].shape == value.shape for name, value in changed.items())
        return dict(changed) if same else None

    return convert


@contextmanager
def _caught_filter() -> Iterator[list[Any]]:
    """Have timm hand over its filter for an architecture instead of loading weights with it."""
    caught: list[Any] = []

    def catch(*_: object, filter_fn: Any = None, **__: object) -> None:
        if filter_fn is not None:
            caught.append(filter_fn)

    load = timm_builder.load_pretrained
    timm_builder.load_pretrained = catch
    try:
        with torch.device("meta"):
            yield caught
    finally:
        timm_builder.load_pretrained = load


def _choose(sets: Sequence[_Set], wanted: str | None, reference: _Reference, origin: str) -> _Set:
    prefixes = [each.prefix for each in sets]
    tensors = {name: value for each in sets for name, value in each.tensors.values.items()}
    prefix = weights.choose(prefixes, wanted, tensors, reference.body, origin)
    return next(each for each in sets if each.prefix == prefix)


def _says(taken: _Set, sets: Sequence[_Set]) -> str:
    where = f"under {taken.prefix.rstrip('.')}" if taken.prefix else "without a prefix"
    kind = ", an average over the training" if weights.is_averaged(taken.prefix) else ""
    others = [weights.shown(each.prefix) for each in sets if each is not taken]
    return f"Weights: found {where}{kind}" + (f"; not taken: {', '.join(others)}." if others else ".")


def _own_head(taken: _Set, others: list[str], reference: _Reference, origin: str) -> Fitted:
    tensors = taken.tensors.values
    state = {name: tensors[taken.prefix + name] for name in reference.whole}
    rows = {}
    for layer in reference.heads:
        weight = state.get(f"{layer}.weight")
        if weight is not None:
            rows[layer] = int(weight.shape[0]) if weight.dim() > 1 else 0
    if not all(rows.values()):
        raise BundleError(
            "head_mismatch",
            f"The last layer in {origin} ({', '.join(rows)}) has no outputs; it is damaged, so save it again.",
        )
    if not rows or len(set(rows.values())) > 1:
        raise BundleError("head_mismatch", f"The last layers in {origin} have different numbers of classes: {rows}.")
    left = _rest(taken, others, reference.whole)
    strange = [name for name in left if not weights.harmless(name)]
    if strange:
        raise misfits.leftover(strange, taken.tensors, taken.prefix, reference.design.architecture, origin)
    classes = next(iter(rows.values()))
    design = reference.design.model_copy(update={"num_classes": classes})
    note = f"Head: timm's own ({', '.join(rows)}) with {classes} outputs."
    return Fitted(design, state, trainers=False, image_size=None, left_out=tuple(left), notes=(note,))


def _other_head(taken: _Set, others: list[str], reference: _Reference, wish: Wish, origin: str) -> Fitted:
    tensors = taken.tensors.values
    rest = _rest(taken, others, reference.body)
    head = {name: tensors[name] for name in rest if not weights.harmless(name)}
    if not head:
        of_loss = next((name for name in rest if name.endswith(".weight") and tensors[name].dim() == 2), "")
        raise BundleError(
            "head_missing",
            f"{origin} has the layers of {reference.design.architecture} but none with an output a class; save the "
            "whole model, its last layer included"
            + (f", and not under the name of a loss, as {of_loss}." if of_loss else "."),
        )
    network = reference.network
    found = heads.recognize(
        head, networks.features_of(network), int(network.num_features), wish.head_activation, origin
    )
    start = taken.prefix.removesuffix("backbone.")
    trainers = start != taken.prefix and set(head) == {f"{start}classifier.1.{kind}" for kind in ("weight", "bias")}
    plain = len(found.layers) == 1 and found.layers[0].bias and not found.concat
    design = reference.design.model_copy(
        update={
            "num_classes": found.layers[-1].outputs,
            "head": "sequential",
            "head_layers": () if plain else found.layers,
            "concat_pooling": found.concat,
        }
    )
    state = {f"backbone.{name}": tensors[taken.prefix + name] for name in reference.body}
    # Plain heads have a dropout before the linear layer.
    state |= {f"classifier.{f'1.{name[2:]}' if plain else name}": value for name, value in found.state.items()}
    left = [name for name in rest if name not in head]
    return Fitted(design, state, trainers, None, tuple(left), (f"Head: {found.described}.",))


def _rest(taken: _Set, others: list[str], body: Mapping[str, Tensor]) -> list[str]:
    """What else belongs to a set: the tensors in its dictionary, or around it where it has a dictionary of its own."""
    names, folders = taken.tensors.values, taken.tensors.folder
    own = {taken.prefix + name for name in body}
    own |= {f"{name.rpartition('.')[0]}.{_COUNTER}" for name in own}
    start = weights.root(taken.prefix, others)
    foreign = [weights.root(other, [taken.prefix, *others]) for other in others]
    folder = folders[taken.prefix + next(iter(body))]
    scope = max(start, folder, key=len)
    while True:
        rest = [
            name
            for name in names
            if name.startswith(scope) and name not in own and not any(name.startswith(each) for each in foreign if each)
        ]
        wanted = [name for name in rest if not weights.harmless(name)]
        if wanted or taken.complete or not scope:
            break
        scope = scope.rstrip(".").rpartition(".")[0]
        scope += "." if scope else ""
    if scope != max(start, folder, key=len):
        rest = [name for name in rest if not weights.of_no_network(name.removeprefix(scope))]
    return rest


def _size(fitted: Fitted, reference: _Reference, wish: Wish, origin: str) -> int | None:
    """The image size that fits the weights: the one that was given, or the one that they were made for."""
    if wish.image_size is not None and size_fault(wish.image_size, ""):
        # It is refused with the other options, by the name that it was given under.
        return None
    design = fitted.design
    height = architectures.config(design.architecture).input_size[1]
    channels = networks.channels(design)
    said = "img_size" in design.model_args
    side = wish.image_size or (_TRAINERS_SIZE if fitted.trainers and not said else height)
    wrong = reference.misshapen(fitted) if side == height else _misshapen(design, fitted.state, channels, side)
    if not wrong and said:
        return wish.image_size
    if not wrong:
        return wish.image_size or (side if side != height else None)
    for other in () if said else sorted(_SIZES, key=lambda each: abs(each - side)):
        try:
            fits = not _misshapen(design, fitted.state, channels, other)
        except BundleError:
            continue
        if fits and wish.image_size:
            raise BundleError(
                "wrong_size",
                f"{wrong[0]} in {origin} belongs to images of {other} pixels, and image_size is {wish.image_size}; "
                f"give image_size {other}.",
            )
        if fits:
            return other
    raise misfits.misshapen(
        wrong, fitted.state, networks.build(design, (channels, side, side)).state_dict(), design, origin
    )


def _misshapen(design: Design, state: State, channels: int, side: int) -> list[str]:
    wanted = networks.build(design, (channels, side, side)).state_dict()
    return [name for name, value in state.items() if name in wanted and wanted[name].shape != value.shape]


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

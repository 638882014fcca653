"""How a checkpoint's model answers: labels, preprocessing, activation and threshold; given, recorded or asked for."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from app.models import labels

from app.models import networks

from app.models import recorded
from app.bundle.manifest import Activation, Input, Threshold, make_input
from app.models.checkpoint import Checkpoint
from app.errors import BundleError
from app.models.options import normalization_fault, size_fault

DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True)
class Given:
    """What somebody says about a checkpoint; `option` renders the name of a setting as it is given there."""

    labels: Path | None = None
    image_size: int | None = None
    preprocessing: Mapping[str, object] = field(default_factory=dict)
    activation: Activation | None = None
    threshold: str | None = None
    prefix: str = "--"

    def option(self, name: str) -> str:
        """The name of a setting where this was given: `--crop-mode`, or API_CROP_MODE."""
        return f"--{name.replace('_', '-')}" if self.prefix == "--" else f"{self.prefix}{name.upper()}"


@dataclass(frozen=True)
class Recipe:
    """How the model answers; `notes` say what was understood, `warnings` what is doubtful."""

    labels: tuple[str, ...]
    inputs: Input
    activation: Activation
    threshold: Threshold
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def settle(read: Checkpoint, given: Given) -> Recipe:
    """Decide how a checkpoint's model answers; a BundleError asks for what cannot be known."""
    notes: list[str] = []
    warnings: list[str] = []
    check_activation(read, given)
    named = labels.choose(
        given.labels,
        read.recorded,
        read.num_classes,
        trainers_head=read.head == "sequential",
        option=given.option("labels" if given.prefix == "--" else "labels_path"),
    )
    (warnings if named.assumed else notes).append(f"Labels: {named.understood}.")
    inputs = _inputs(read, given, notes, warnings)
    activation: Activation = given.activation or "softmax"
    if activation == "sigmoid" and read.num_classes == 1 and len(named.names) == 2:
        activation = "binary"
        notes.append(f"Activation: the sigmoid of the one output is the probability of {named.names[1]!r}.")
    threshold = _threshold(given, activation, named.names)
    return Recipe(named.names, inputs, activation, threshold, tuple(notes), tuple(warnings))


def check_activation(read: Checkpoint, given: Given) -> None:
    """Refuse a softmax over one output, and ask where the checkpoint speaks of a sigmoid."""
    option = given.option("activation")
    if given.activation == "binary" and read.num_classes != 1:
        raise BundleError(
            "invalid_option", f"{option} binary is for one output and the head has {read.num_classes}; give sigmoid."
        )
    if read.num_classes == 1 and given.activation in (None, "softmax"):
        raise BundleError(
            "activation_needed",
            f"The head has one output, of which a softmax makes 1.0 for every picture; give {option} sigmoid, and one "
            "label, or two: the one for an output of 0 first.",
        )
    sign = "" if given.activation else recorded.signs_of_sigmoid(read.recorded, (*read.state, *read.left_out))
    if sign:
        raise BundleError(
            "activation_needed",
            f"The checkpoint records {sign[:80]!r}, as trainers do whose classes do not exclude each other; give "
            f"{option} sigmoid when a picture may have several classes or none, {option} softmax when it has just one.",
        )


def _inputs(read: Checkpoint, given: Given, notes: list[str], warnings: list[str]) -> Input:
    if given.image_size is not None:
        refuse(size_fault(given.image_size, given.option("image_size")))
    found = recorded.preprocessing(read.recorded)
    # What the weights themselves demand is no matter of opinion.
    size = found.pop("size", None) if read.image_size is None or given.image_size is not None else None
    found.pop("size", None)
    asked = (given.image_size, given.image_size) if given.image_size is not None else None
    if size and asked and size.value != asked:
        warnings.append(_differs("image_size", asked[0], _side(size.value), size.where))
    sides = asked or (size.value if size else None)
    values = networks.default_input(read.design, read.head, read.image_size).model_dump()
    if sides:
        values["size"] = (networks.channels(read.design), *cast("tuple[int, int]", sides))
    for name in ("mean", "std"):
        # Trainers often record the colors of a network that sees gray.
        if name in found and isinstance(found[name].value, tuple) and len(values[name]) == 1:
            found.pop(name)
    for name, (value, where) in found.items():
        if name not in given.preprocessing:
            values[name] = value
        elif _plain(given.preprocessing[name]) != _plain(value):
            warnings.append(_differs(name, given.preprocessing[name], value, where))
    values.update(given.preprocessing)
    for name in ("mean", "std"):
        refuse(normalization_fault(name, values[name], given.option(name)))
    used = [name for name in found if name not in given.preprocessing]
    if size and not asked:
        used.append("size")
    source = f", {', '.join(sorted(used))} as the checkpoint records" if used else ""
    inputs = make_input(values)
    notes.append(f"Preprocessing: {describe(inputs)}{source}.")
    return inputs


def refuse(fault: str) -> None:
    """Raise what is wrong with an option, if anything is."""
    if fault:
        raise BundleError("invalid_option", fault)


def describe(inputs: Input) -> str:
    """The preprocessing in words."""
    way = {"center": "short side scaled", "squash": "both sides scaled", "border": "long side scaled, rest filled"}
    _, height, width = inputs.size
    mean, std = ("/".join(f"{number:g}" for number in values) for values in (inputs.mean, inputs.std))
    return (
        f"{width}x{height} pixels, {inputs.crop_mode} ({way[inputs.crop_mode]}, {inputs.crop_pct:g} of it kept), "
        f"{inputs.interpolation}, mean {mean}, std {std}"
    )


def _differs(name: str, given: object, found: object, where: str) -> str:
    return (
        f"Preprocessing: {name} {_plain(given)} was given and is used, but the checkpoint was trained with "
        f"{_plain(found)} (its {where})."
    )


def _side(size: object) -> object:
    return size[0] if isinstance(size, tuple) and size[0] == size[-1] else size


def _plain(value: object) -> object:
    if isinstance(value, tuple | list):
        return "/".join(f"{number:g}" for number in value)
    return f"{value:g}" if isinstance(value, float) else value


def _threshold(given: Given, activation: Activation, names: tuple[str, ...]) -> Threshold:
    option = given.option("threshold")
    if activation != "sigmoid":
        if given.threshold is not None:
            raise BundleError(
                "invalid_option",
                f"{option} is for models whose classes do not exclude each other; give {given.option('activation')} "
                "sigmoid, or leave it out.",
            )
        return None
    if given.threshold is None:
        return DEFAULT_THRESHOLD
    try:
        wanted = json.loads(given.threshold)
    except (ValueError, RecursionError):
        wanted = given.threshold.split(",")
    if isinstance(wanted, dict):
        unknown = [name for name in wanted if name not in names]
        if unknown:
            raise BundleError("invalid_option", f"{option} names {unknown[0]!r}, which is no class of the model.")
        return tuple(_share(wanted.get(name, DEFAULT_THRESHOLD), option) for name in names)
    values = wanted if isinstance(wanted, list) else [wanted]
    if len(values) == 1:
        return _share(values[0], option)
    if len(values) != len(names):
        raise BundleError(
            "invalid_option",
            f"{option} has {len(values)} numbers and the model {len(names)} classes; give one for all, one a class, or "
            '{"class": number}.',
        )
    return tuple(_share(value, option) for value in values)


def _share(value: object, option: str) -> float:
    try:
        number = float(str(value))
    except (TypeError, ValueError):
        number = -1.0
    if isinstance(value, bool) or not 0 < number < 1:
        raise BundleError("invalid_option", f"{option} {str(value)[:40]!r} is no number between 0 and 1.")
    return number

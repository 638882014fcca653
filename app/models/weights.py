"""The sets of weights in a checkpoint: where in it the layers of a network stand, and under which prefix."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from app.errors import BundleError

State = dict[str, Tensor]

# What wrappers of torch put in the middle of a name.
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
_AVERAGED = re.compile(r"(^|[._])(\w*ema|ema\w*|swa\w*|averaged?\w*|avg_model|shadow\w*)(?=[._]|$)", re.IGNORECASE)
# Dictionaries beside the weights whose tensors belong to no network.
_NO_NETWORK = re.compile(r"(optim|sched|scaler|amp|rng|loss|criterion|callback|loop)", re.IGNORECASE)
# Tensors that tell nothing of the answer: counters, losses, metrics, and what architectures compute anew.
_HARMLESS = re.compile(
    r"(.*\.)?(num_batches_tracked|n_averaged|num_updates|decay|initted|step|total_ops|total_params|"
    r"relative_position_index|relative_coords_table|attn_mask|class_weights?|pos_weight)"
    r"|(.*\.)?\w*(criterion|loss)\w*(\..*)?"
    # What torchmetrics counts; a head may be called so, and its tensors are called otherwise.
    r"|(.*\.)?\w*(metric|accuracy|confmat)\w*(\.(?!(.*\.)?(weight|bias)$).*)?"
    r"|(.*\.)?(train|val|valid|test)_(acc|f1|auroc|precision|recall)\w*\..*",
    re.IGNORECASE,
)
_MOST_SETS = 6


@dataclass(frozen=True)
class Tensors:
    """Every tensor of a checkpoint by its dotted path, and the dictionary that each one lies in."""

    values: State
    folder: Mapping[str, str]


def find(content: object) -> Tensors:
    """Collect the tensors of a checkpoint, however deep its dictionaries are."""
    values: State = {}
    folder: dict[str, str] = {}

    def walk(part: object, path: str) -> None:
        items: Iterable[tuple[object, object]] = ()
        if isinstance(part, dict):
            items = part.items()
        elif isinstance(part, list):
            items = enumerate(part)
        for key, value in items:
            name = f"{path}{key}"
            if isinstance(value, Tensor):
                values[name] = value.detach()
                folder[name] = path
            else:
                walk(value, f"{name}.")

    walk(content, "")
    return _without_wrappers(Tensors(values, folder))


def _without_wrappers(found: Tensors) -> Tensors:
    names = {name: ".".join(part for part in name.split(".") if part not in _WRAPPERS) for name in found.values}
    if len(set(names.values())) < len(names):
        return found
    return Tensors(
        {names[name]: value for name, value in found.values.items()},
        {names[name]: folder for name, folder in found.folder.items()},
    )


def harmless(name: str) -> bool:
    """Whether a tensor may be left out: it is no part of a network's answer."""
    return _HARMLESS.fullmatch(name) is not None


def of_no_network(name: str) -> bool:
    """Whether a tensor belongs to an optimizer or the like."""
    return _NO_NETWORK.search(name.partition(".")[0]) is not None


def prefixes(names: Iterable[str], wanted: Collection[str]) -> Counter[str]:
    """How many of the wanted names stand under each prefix, the most first."""
    votes: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in wanted:
                votes[".".join(parts[:start]) + ("." if start else "")] += 1
    return Counter(dict(votes.most_common()))


def is_averaged(prefix: str) -> bool:
    """Whether a set is an average over the training, by its name."""
    return _AVERAGED.search(prefix.rstrip(".")) is not None


def shown(prefix: str) -> str:
    """A prefix as messages call the set under it."""
    return prefix.rstrip(".") or "the rest"


def choose(sets: Sequence[str], wanted: str | None, tensors: State, names: Collection[str], origin: str) -> str:
    """The prefix of the set to take: of several different ones the one that `wanted` names, never one by chance."""
    if wanted:
        return _wanted(sets, wanted, origin)
    first = min(sets, key=lambda prefix: (is_averaged(prefix), sets.index(prefix)))
    others = [prefix for prefix in sets if prefix != first]
    if all(_equal(tensors, first, other, names) for other in others):
        return first
    averaged = next((prefix for prefix in sets if is_averaged(prefix)), None)
    if averaged is not None and not is_averaged(first):
        choice = (
            f"weights: ema for {shown(averaged)}, the average over the training, which is most often what was "
            f"validated, or weights: model for {shown(first)}"
        )
    else:
        choice = "weights: " + " or ".join(shown(prefix) for prefix in sets[:_MOST_SETS])
    have = ", ".join(shown(prefix) for prefix in sets[:_MOST_SETS])
    raise BundleError(
        "several_weights",
        f"{origin} holds {len(sets)} different sets of weights: {have}; say which one to serve ({choice}).",
    )


def _wanted(sets: Sequence[str], wanted: str, origin: str) -> str:
    if wanted in ("ema", "model"):
        found = [prefix for prefix in sets if is_averaged(prefix) == (wanted == "ema")]
    else:
        found = [prefix for prefix in sets if shown(prefix) == wanted or prefix.endswith(f"{wanted}.")]
    if len(found) == 1:
        return found[0]
    if len(sets) == 1:
        raise BundleError(
            "weights_unknown",
            f"weights: {wanted} is not in {origin}, which holds one set of weights; leave weights out.",
        )
    have = ", ".join(shown(prefix) for prefix in sets[:_MOST_SETS])
    raise BundleError(
        "weights_unknown",
        f"weights: {wanted} names {'none' if not found else 'several'} of the sets of weights in {origin}, which are "
        f"{have}; give the name of one of them.",
    )


def _equal(tensors: State, one: str, other: str, names: Collection[str]) -> bool:
    return all(
        one + name in tensors and other + name in tensors and torch.equal(tensors[one + name], tensors[other + name])
        for name in names
    )


def root(prefix: str, others: Iterable[str]) -> str:
    """The shortest part of a prefix that no other set's prefix has: what lies below it belongs to this set."""
    parts = prefix.rstrip(".").split(".") if prefix else []
    other = [each for each in others if each != prefix]
    for length in range(len(parts) + 1):
        start = "".join(f"{part}." for part in parts[:length])
        if not any(each.startswith(start) for each in other):
            return start
    return prefix

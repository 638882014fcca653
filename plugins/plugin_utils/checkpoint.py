"""What can be said about a training checkpoint and its labels without torch, before anything is copied for them."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from ansible_collections.gpu_hosts.timm.app.errors import BundleError
from ansible_collections.gpu_hosts.timm.app.models import labels

Shapes = dict[str, tuple[int, ...]]

# What wraps every name when a model was trained on several GPUs, compiled, or as a part of a larger module.
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "timm_model.")
# Trainers nest no deeper.
DEPTH = 5
# Where architectures keep the layer with one output a class.
HEADS = ("classifier.1.weight", "classifier.weight", "fc.weight", "head.fc.weight", "head.weight", "_fc.weight")
GIT_LFS = b"version https://git-lfs"


class SourceError(Exception):
    """A file that no bundle can be made of; the message says why and what to do."""


class _Inert:
    """Stands for every class that a checkpoint names, so that reading it runs no code of anybody."""

    def __init__(self, *_: object, **__: object) -> None:
        """Take what the class would take."""

    def __setstate__(self, _: object) -> None:
        """Take what the class would be filled with."""

    def __setitem__(self, _: object, __: object) -> None:
        """Take an entry."""

    def append(self, _: object) -> None:
        """Take an element."""


class _Tensor:
    """Stands for a tensor: its shape."""

    def __init__(self, _storage: object, _offset: object, size: tuple[int, ...], *_: object) -> None:
        self.shape = tuple(size)

    def __setstate__(self, _: object) -> None:
        """Take the hooks of a tensor."""


def _parameter(data: object, *_: object) -> object:
    return data


class _Reader(pickle.Unpickler):
    """Reads the structure of a pickle: dictionaries, numbers, texts, and of tensors their shapes."""

    def find_class(self, module: str, name: str) -> Any:
        if name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            return _Tensor
        if name == "_rebuild_parameter":
            return _parameter
        return OrderedDict if (module, name) == ("collections", "OrderedDict") else _Inert

    def persistent_load(self, _: object) -> None:
        """Leave a tensor's numbers where they are."""


def read_shapes(path: Path) -> Shapes:
    """Return the shapes of a checkpoint's tensors by name, none when only torch can tell; raise SourceError."""
    try:
        with path.open("rb") as file:
            return _shapes(path, file)
    except OSError as error:
        raise SourceError(f"The checkpoint {path} cannot be read here ({error.strerror}); correct the path.") from None


def _shapes(path: Path, file: BinaryIO) -> Shapes:
    head = file.read(256)
    file.seek(0)
    if head.startswith(GIT_LFS):
        raise SourceError(f"{path} is only a pointer of Git LFS; run `git lfs pull` where it lies.")
    if not head or head.lstrip()[:1] == b"<":
        raise SourceError(f"{path} is {'empty' if not head else 'a web page'}, not a checkpoint; copy it again.")
    if path.suffix == ".safetensors":
        return _safetensors(path, file)
    return _state(_content(path, file))


def _content(path: Path, file: BinaryIO) -> object:
    """Return what was saved, without running anything of it; None for what only torch may understand."""
    head = file.read(2)
    file.seek(0)
    if head == b"PK":
        if not zipfile.is_zipfile(file):
            raise SourceError(f"The checkpoint {path} is cut off; copy it again.")
        with zipfile.ZipFile(file) as archive:
            if any(name.rpartition("/")[2] == "constants.pkl" for name in archive.namelist()):
                raise SourceError(
                    f"{path} is a TorchScript program; save only its weights: torch.jit.load(FILE).state_dict()."
                )
            data = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
            return _unpickle(BytesIO(archive.read(data[0])), 1) if data else None
    # What torch wrote before version 1.6: a magic number, a version, the machine, and then the object.
    return _unpickle(file, 4) if head.startswith(b"\x80") else None


def _safetensors(path: Path, file: BinaryIO) -> Shapes:
    size = int.from_bytes(file.read(8), "little")
    try:
        if size > path.stat().st_size:
            raise ValueError
        header = json.loads(file.read(size))
        return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    except (ValueError, AttributeError, KeyError, TypeError):
        raise SourceError(f"{path} is no safetensors file, or cut off; copy it again.") from None


def _unpickle(file: BinaryIO, count: int) -> object:
    """Return the last of that many objects; None for what this reader does not understand, which torch may."""
    try:
        return [_Reader(file).load() for _ in range(count)][-1]
    except Exception:  # A pickle can fail in any way.
        return None


def _state(content: object) -> Shapes:
    """Return the shapes of all tensors; those of the largest dictionary have their names without what wraps them."""
    parts = list(_dictionaries(content, "", DEPTH))
    if not parts:
        return {}
    largest = max(parts, key=lambda part: len(part[1]))
    shapes = {f"{path}{name}": shape for path, part in parts if part is not largest[1] for name, shape in part.items()}
    state = largest[1]
    while wrapper := next((each for each in WRAPPERS if all(name.startswith(each) for name in state)), ""):
        state = {name.removeprefix(wrapper): shape for name, shape in state.items()}
    return {**shapes, **state}


def _dictionaries(content: object, path: str, depth: int) -> Iterator[tuple[str, Shapes]]:
    if isinstance(content, dict) and depth:
        shapes = {str(name): value.shape for name, value in content.items() if isinstance(value, _Tensor)}
        if shapes:
            yield path, shapes
        for name, value in content.items():
            yield from _dictionaries(value, f"{path}{name}.", depth - 1)


def read_labels(path: Path) -> list[str]:
    """Return the labels of a file or of a folder of class folders, as the image reads them; raise SourceError."""
    try:
        return list(labels.read(path).names)
    except BundleError as error:
        raise SourceError(error.detail) from None


def check_named(checkpoint: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise SourceError when nobody names the classes of a checkpoint, and their number tells nothing."""
    head = next((name for name in HEADS if name in shapes), None)
    count = shapes[head][0] if head else 0
    trainers_head = head == "classifier.1.weight" and any(name.startswith("backbone.") for name in shapes)
    if count and not labels.well_known(count, trainers_head=trainers_head) and not _records_names(checkpoint):
        raise SourceError(
            f"model_bundle_create lacks labels: the checkpoint {checkpoint} has {count} classes and does not say their "
            "names."
        )


def _records_names(path: Path) -> bool:
    """Return whether a checkpoint has an entry beside the weights that may name the classes."""
    with path.open("rb") as file:
        content = _content(path, file)
    return isinstance(content, dict) and any(content.get(entry) for entry in labels.ENTRIES)


def check_together(checkpoint: Path, shapes: Mapping[str, tuple[int, ...]], origin: Path, count: int) -> None:
    """Raise SourceError when no layer of the checkpoint can have an output for each of the labels."""
    rows = {name: shape[0] for name, shape in shapes.items() if shape}
    # One output can tell two classes apart.
    if not rows or count in rows.values() or (count == 2 and any(rows.get(name) == 1 for name in HEADS)):
        return
    head = next((name for name in HEADS if name in rows), None)
    has = f"its {head} has {rows[head]}" if head else "no layer of it has as many outputs"
    raise SourceError(
        f"The labels {origin} name {count} classes, and the checkpoint {checkpoint} was trained for others: {has}. "
        "Give the labels that it was trained with."
    )

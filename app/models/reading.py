"""Reading a checkpoint's file without running anything of it: tensors and plain data come back, all else is refused."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError

from app.errors import BundleError

# What a file begins with that is something else than a checkpoint of torch, and what to do about it.
_OTHER_KINDS = (
    (b"version https://git-lfs", "git_lfs_pointer", "is only a pointer of Git LFS; run `git lfs pull` where it lies"),
    (b"\x89HDF", "other_format", "is an HDF5 file, as Keras writes it; only weights of torch can be taken"),
    (b"GGUF", "other_format", "is a GGUF file; only weights of torch can be taken"),
    (b"\x93NUMPY", "other_format", "is an array of NumPy; save the weights by torch.save(model.state_dict(), FILE)"),
    (b"\x1f\x8b", "other_format", "is compressed (gzip); unpack it first"),
    (b"\x28\xb5\x2f\xfd", "other_format", "is compressed (zstd); unpack it first"),
    (b"7z\xbc\xaf", "other_format", "is an archive (7z); unpack it first"),
    (b"Rar!", "other_format", "is an archive (rar); unpack it first"),
)
# Deeper than anything that a trainer writes.
_MAX_DEPTH = 50
_MAX_HEADER = 100_000_000
# What NumPy's pickles hold by value, numbers and texts; objects are not among them.
_PLAIN = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248]|c8|c16|[US]\d{1,5})")


class _Record(SimpleNamespace):
    """Stands for an object that only holds named values."""

    def __init__(self, *_: object, **values: object) -> None:
        super().__init__(**values)


class _Mapping(dict[Any, Any]):
    """Stands for a dictionary with more behavior, which nothing here needs."""

    def __init__(self, *content: object) -> None:
        super().__init__(*(part for part in content if isinstance(part, dict | list | tuple)))


class _NumberType:
    """Stands for numpy.dtype: the name of a type of numbers, never an object that NumPy fills from the file."""

    def __init__(self, code: str = "", *_: object) -> None:
        self.code = code if isinstance(code, str) else ""
        self.order = "="

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "="):
            self.order = str(state[1])

    def numpy(self) -> "np.dtype[Any]":
        """The type, when it is one of numbers."""
        if not _PLAIN.fullmatch(self.code):
            raise pickle.UnpicklingError(f"an array of type {self.code!r}, not of numbers")
        return np.dtype(self.code).newbyteorder(self.order)


class _Array:
    """Stands for numpy.ndarray; `value` is the array, built here from its bytes."""

    value: "np.ndarray[Any, Any] | list[object] | None" = None

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or not isinstance(state[2], _NumberType):
            raise pickle.UnpicklingError("an array without its type")
        _, shape, kind, columns_first, content = state[:5]
        if isinstance(content, list):
            self.value = content
        elif isinstance(content, bytes):
            values = np.frombuffer(content, kind.numpy()) if content else np.zeros(0, kind.numpy())
            self.value = values.reshape(shape, order="F" if columns_first else "C")


def _scalar(kind: object = None, content: object = b"") -> object:
    """A number of NumPy, from its bytes."""
    if not isinstance(kind, _NumberType) or not isinstance(content, bytes):
        raise pickle.UnpicklingError("a scalar that is no number")
    return np.frombuffer(content, kind.numpy(), count=1)[0]


def _path(*parts: object) -> str:
    """A path is kept as text: nobody opens it."""
    return str(PurePosixPath(*(str(part) for part in parts)))


def _no_bytes(*_: object) -> bytes:
    """How pickles of the second protocol write bytes of no length; with a number it would take that much memory."""
    return b""


# Types that only hold data, by the name that a pickle calls them, and what stands for each.
SAFE: dict[str, Any] = {
    "argparse.Namespace": _Record,
    "types.SimpleNamespace": _Record,
    "collections.defaultdict": _Mapping,
    "lightning.fabric.utilities.data.AttributeDict": _Mapping,
    "lightning_fabric.utilities.data.AttributeDict": _Mapping,
    "pytorch_lightning.utilities.parsing.AttributeDict": _Mapping,
    **{f"{module}.{name}": _path for module in ("pathlib", "pathlib._local")
       for name in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")},
    **{f"builtins.{kind.__name__}": kind for kind in (list, dict, tuple, set, frozenset, int, float, str, bool)},
    "builtins.bytes": _no_bytes,
    **{f"datetime.{name}": _Record for name in ("datetime", "date", "timedelta", "timezone")},
    "torch.torch_version.TorchVersion": str,
    "numpy.dtype": _NumberType,
    "numpy.ndarray": _Array,
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray._reconstruct": _Array for core in ("core", "_core")},
}  # fmt: skip


def read(path: Path) -> object:
    """The content of a checkpoint's file; a BundleError says what it is when it is none."""
    if path.is_dir():
        raise BundleError("checkpoint_missing", f"The checkpoint {path} is a folder; name the file of weights in it.")
    if not path.is_file():
        raise BundleError("checkpoint_missing", f"The checkpoint {path} is not a file; check the path.")
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise BundleError(
            "checkpoint_unreadable", f"{path} cannot be read ({error.strerror}); correct its permissions."
        ) from None
    _refuse_other_kinds(path, head)
    # By its content, not by its name: people rename files.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < _MAX_HEADER:
        return _safetensors(path)
    return _pickle(path)


def _refuse_other_kinds(path: Path, head: bytes) -> None:
    for magic, code, what in _OTHER_KINDS:
        if head.startswith(magic):
            raise BundleError(code, f"{path} {what}.")
    if not head:
        raise BundleError("checkpoint_unreadable", f"{path} is empty; copy it again.")
    if head.lstrip()[:1] == b"<":
        raise BundleError("other_format", f"{path} is a web page, not a checkpoint; download the file itself.")
    if path.suffix == ".onnx":
        raise BundleError("other_format", f"{path} is an ONNX model; only weights of torch can be taken.")
    if head.startswith(b"PK") and zipfile.is_zipfile(path):
        _refuse_other_archives(path)


def _refuse_other_archives(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    inside = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inside or any(name.startswith("code/") for name in inside):
        raise BundleError(
            "torchscript",
            f"{path} is a TorchScript program, which would run; where you trust it, save only its weights: "
            "torch.save(torch.jit.load(FILE).state_dict(), NEW).",
        )
    if "data.pkl" in inside:
        return
    if any(name.endswith(".npy") for name in names):
        raise BundleError(
            "other_format", f"{path} holds arrays of NumPy; save the weights by torch.save(model.state_dict(), FILE)."
        )
    member = next((name for name in names if name.endswith((".pth", ".pt", ".ckpt", ".bin", ".safetensors"))), "")
    what = f"unpack it and name {member}" if member else "and none of its files is one"
    raise BundleError("other_format", f"{path} is a zip archive, not a checkpoint; {what}.")


def _safetensors(path: Path) -> object:
    try:
        return safetensors.torch.load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(
            "checkpoint_unreadable", f"{path} is a safetensors file that is damaged ({error}); copy it again."
        ) from None


def _pickle(path: Path) -> object:
    allowed = [(stand_in, name) for name, stand_in in SAFE.items()]
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _plain(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch, pickle and zip readers each raise their own kinds
        reason = str(error)
    wanted = _wanted(reason)
    if wanted:
        whole = wanted.startswith(("timm.models", "torch.nn.modules", "torchvision.models", "__main__"))
        raise BundleError(
            "unsafe_pickle",
            f"{path} is a pickle that would run {wanted} when loaded, so it was not loaded"
            + (" (a whole model was saved)" if whole else "")
            + "; save only the weights: torch.save(model.state_dict(), FILE).",
        )
    protocol = re.search(r"Unsupported operand (\d+)", reason)
    if protocol and int(protocol[1]) >= 0x80:
        raise BundleError(
            "pickle_protocol",
            f"{path} was written with another pickle protocol than torch's own, which safe loading does not read; "
            "write it again by torch.save(state_dict, FILE).",
        )
    why = re.search(r"an? (?:array|scalar) (?:of|without|that)[^\n]*", reason)
    raise BundleError(
        "checkpoint_unreadable",
        f"{path} cannot be read as a checkpoint ({why[0] if why else _short(reason)}); it is damaged or not a torch "
        "file, so copy or save it again.",
    )


def _plain(content: object, depth: int = 0) -> object:
    """The content without the stand-ins: dictionaries, lists, tensors, texts and numbers."""
    if depth > _MAX_DEPTH:
        return None
    if isinstance(content, _Array):
        content = content.value if isinstance(content.value, list) else getattr(content.value, "tolist", lambda: None)()
    if isinstance(content, _Record):
        content = vars(content)
    if isinstance(content, dict):
        return {key: _plain(value, depth + 1) for key, value in content.items()}
    if isinstance(content, list | tuple) and not isinstance(content, torch.Size):
        return [_plain(value, depth + 1) for value in content]
    return content.item() if isinstance(content, np.generic) else content


def _wanted(reason: str) -> str:
    # Newer versions of torch name a builtin without its module.
    found = re.search(r"GLOBAL ([\w.]+)|function <(?:class|function) '?([\w.]+)|class '?([\w.]+\.\w+)", reason)
    return next((group for group in found.groups() if group), "") if found else ""


def _short(reason: str) -> str:
    lines: Iterable[str] = (line.strip() for line in reason.splitlines())
    first = next((line for line in lines if line and "weights_only" not in line and "Please file" not in line), "")
    return first[:100].rstrip(". ") or "no torch file"

"""What a trainer stored beside the weights: how it prepared images, and whether its classes exclude each other."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

# Deeper than this no trainer keeps its arguments.
_DEPTH = 5
# What timm, Lightning modules, hubs and scripts call the parts of the preprocessing.
_NAMES = {
    "size": ("img_size", "image_size", "input_size", "imgsz", "img_sz", "im_size", "resolution"),
    "mean": ("mean", "img_mean", "image_mean", "norm_mean", "normalize_mean", "dataset_mean"),
    "std": ("std", "img_std", "image_std", "norm_std", "normalize_std", "dataset_std"),
    "interpolation": ("interpolation",),
    "crop_pct": ("crop_pct",),
    "crop_mode": ("crop_mode",),
}
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
_CROP_MODES = ("center", "squash", "border")
# Losses of classes that do not exclude each other, or of one output.
_SIGMOID = re.compile(r"bce|binary.?cross.?entropy|multi.?label|asymmetric.?loss|sigmoid", re.IGNORECASE)
_NUMBER = r"[-+0-9.eE]+"
_TRIPLE = rf"[\[(]\s*({_NUMBER}),\s*({_NUMBER}),\s*({_NUMBER})\s*[\])]"


class Found(NamedTuple):
    """A value and where it stands."""

    value: object
    where: str


def preprocessing(recorded: Mapping[str, object]) -> dict[str, Found]:
    """The parts of the preprocessing that are recorded, by timm's names; `size` is height and width.

    The first one counts. A list of transforms counts before single numbers, since it says everything.
    """
    found: dict[str, Found] = {}
    entries = list(_walk(recorded, "", _DEPTH))
    for where, _, value in entries:
        if isinstance(value, str):
            for part, part_value in _transforms(value).items():
                found.setdefault(part, Found(part_value, where))
    for where, name, value in entries:
        for part, names in _NAMES.items():
            understood = _value(part, value) if name in names else None
            if understood is not None:
                found.setdefault(part, Found(understood, where))
    return found


def signs_of_sigmoid(recorded: Mapping[str, object], keys: Iterator[str] | tuple[str, ...] = ()) -> str:
    """The entry that says that the model was trained with a sigmoid, '' when none does; `keys` are the weights'."""
    for where, name, value in _walk(recorded, "", _DEPTH):
        about = f"{name} {value}" if isinstance(value, str) else name
        # A number beside such a name only sets the loss up, and so does a switch that is off.
        if (isinstance(value, str) or value is True) and _SIGMOID.search(about):
            return f"{where}: {value}"
    return next((key for key in keys if key.rpartition(".")[2] == "pos_weight"), "")


def _walk(content: object, where: str, depth: int) -> Iterator[tuple[str, str, object]]:
    entries = content if isinstance(content, Mapping) else getattr(content, "__dict__", None)
    if not isinstance(entries, Mapping) or depth == 0:
        return
    for key, value in entries.items():
        name = str(key).lower().replace("-", "_")
        path = f"{where}.{key}" if where else str(key)
        if isinstance(value, Mapping) or hasattr(value, "__dict__"):
            yield from _walk(value, path, depth - 1)
        else:
            yield path, name, value


def _value(part: str, value: object) -> object:
    if part in ("interpolation", "crop_mode"):
        known = _INTERPOLATIONS if part == "interpolation" else _CROP_MODES
        return value if value in known else None
    numbers = _numbers(value)
    if part == "size":
        whole = [int(number) for number in numbers if number == int(number) and number > 0]
        if len(whole) != len(numbers) or len(whole) not in (1, 2, 3):
            return None
        return (whole[-2], whole[-1]) if len(whole) > 1 else (whole[0], whole[0])
    if part == "crop_pct":
        return numbers[0] if len(numbers) == 1 and 0 < numbers[0] <= 1 else None
    if len(numbers) != 3 or not all(0 <= number <= 255 for number in numbers):
        return None
    # Some count pixels from 0 to 255.
    return tuple(number / 255 if max(numbers) > 1 else number for number in numbers)


def _numbers(value: object) -> list[float]:
    plain: Any = value.tolist() if hasattr(value, "tolist") else value
    values = plain if isinstance(plain, list | tuple) else [plain]
    if not all(isinstance(item, int | float) and not isinstance(item, bool) and abs(item) < 1e9 for item in values):
        return []
    return [float(item) for item in values]


def _transforms(text: str) -> dict[str, object]:
    """What torchvision's transforms do, from their names; nothing when they are those of training."""
    if not re.search(r"(Resize|CenterCrop|Normalize)\(", text) or re.search(r"Random|AutoAugment|TrivialAug", text):
        return {}
    found: dict[str, object] = {}
    normalize = re.search(rf"Normalize\(\s*(?:mean=)?{_TRIPLE},\s*(?:std=)?{_TRIPLE}", text)
    if normalize:
        numbers = [float(number) for number in normalize.groups()]
        found["mean"], found["std"] = tuple(numbers[:3]), tuple(numbers[3:])
    elif re.search(r"ToTensor|ToDtype|ConvertImageDtype", text):
        found["mean"], found["std"] = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    resize, crop = (_sides(name, text) for name in ("Resize", "CenterCrop"))
    kept = crop or resize
    if kept:
        found["size"] = (kept[0], kept[-1])
    if resize:
        # One number scales the short side, two scale each side by itself.
        found["crop_mode"] = "squash" if len(resize) == 2 else "center"
        found["crop_pct"] = min(1.0, round(kept[0] / resize[0], 4)) if kept else 1.0
        way = re.search(r"Resize\([^)]*?(nearest|bilinear|bicubic|box|hamming|lanczos)", text, re.IGNORECASE)
        found["interpolation"] = way[1].lower() if way else "bilinear"
    return found


def _sides(name: str, text: str) -> list[int]:
    found = re.search(rf"{name}\(\s*(?:size=)?[\[(]?\s*(\d{{1,5}})(?:,\s*(\d{{1,5}}))?", text)
    return [int(side) for side in found.groups() if side] if found else []

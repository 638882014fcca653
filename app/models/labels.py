"""Class names as people have them: text, JSON, CSV, or the class folders that a model was trained on.

Needs nothing but Python, so that a controller without torch reads them exactly as the image does.
"""

import codecs
import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import BundleError

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig", "UTF-8 with a byte order mark"),
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
)
# Deeper than this no trainer keeps its arguments.
_DEPTH = 3
# What trainers and hubs call the entry of a JSON file that has the classes.
ENTRIES = ("class_to_idx", "idx_to_class", "id2label", "label2id", "class_names", "classes", "labels", "names",
            "categories")  # fmt: skip
_NAME_COLUMNS = ("name", "class_name", "classname", "label_name", "label", "labels", "class", "classes", "names",
                 "category", "breed", "species", "title")  # fmt: skip
_NUMBER_COLUMNS = ("id", "idx", "index", "class_id", "classid", "class_idx", "class_index", "label_id", "label_idx",
                   "category_id", "number", "target", "class", "label", "")  # fmt: skip
# `0: cat`, `0,cat`, and the like; a blank alone counts too, but only when the numbers leave no doubt.
_NUMBERED = re.compile(r"\s*(\d{1,9})\s*[:;,=|\t]\s*(.*\S)\s*|\s*(\d{1,9})\.?\s+(.*\S)\s*")
_NUMBER_LAST = re.compile(r"\s*(.*\S)\s*[:;,=|\t]\s*(\d{1,9})\s*")
# Parts of a data set, whose folders hold the class folders.
_PARTS = ("train", "training", "val", "valid", "validation", "test")
# Lists that are shipped, by their number of classes.
_SHIPPED = Path(__file__).resolve().parents[1] / "data" / "labels"
WELL_KNOWN = {67: _SHIPPED / "cat_breeds.txt", 1000: _SHIPPED / "imagenet_1k.txt"}
# ImageNet has two classes of each of these names.
_IMAGENET = 1000
_IMAGENET_TWICE = ("crane", "maillot")
# The longest name of a class, and how much of a text a message shows.
_LONGEST, _SHOWN = 500, 80
_BIDIRECTIONAL = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")


@dataclass(frozen=True)
class Labels:
    """Class names in class order, and how they were understood, in words; `assumed` when nobody gave them."""

    names: tuple[str, ...]
    understood: str
    assumed: bool = False


@dataclass(frozen=True)
class _Entry:
    """A name and where it stands."""

    where: str
    name: str


def read(path: Path, expected: int | None = None) -> Labels:
    """Read the labels of a file or a folder; a BundleError names the line that is wrong.

    `expected` is the number of classes of the model, where it is known: it tells a header from a class.
    """
    if path.is_dir():
        return _folders(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(
            "labels_missing", f"The labels {path} cannot be read here ({error.strerror}); correct the path."
        ) from None
    return parse(content, str(path), expected)


def parse(content: bytes, origin: str, expected: int | None = None) -> Labels:
    """Understand the content of a labels file; `origin` names it in errors."""
    text, encoding = _decode(content, origin)
    lines = re.split(r"\r\n|\r|\n", text)
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise _invalid(origin, "the file is empty; name every class")
    if text.lstrip()[0] in "[{":
        entries, understood = _json(text, origin)
    else:
        try:
            table = _table(lines, origin, expected)
        except csv.Error as error:
            raise _invalid(origin, f"its lines cannot be read ({error}); write a name a line") from None
        entries, understood = table or _lines(lines, origin)
    _check(entries, origin)
    names = tuple(entry.name for entry in entries)
    return Labels(names, f"{len(names)} names from {understood}{encoding}")


def well_known(num_classes: int, *, trainers_head: bool) -> Path | None:
    """The list that a model is taken to have been trained for when nobody names its classes."""
    return WELL_KNOWN.get(num_classes) if num_classes == _IMAGENET or trainers_head else None


def choose(
    given: Path | None, recorded: Mapping[str, object], num_classes: int, *, trainers_head: bool, option: str
) -> Labels:
    """The labels of a model: those given, those recorded beside its weights, or a well-known list, which is said.

    `option` is how labels are given where this is asked for; `trainers_head` says that the checkpoint has the form that
    the cat breeds are trained in.
    """
    if given:
        labels = read(given, num_classes)
        # One output can tell two classes apart.
        if (num_classes, len(labels.names)) != (1, 2):
            check_count(len(labels.names), num_classes, str(given))
        return labels
    for entry, content in _entries(recorded):
        found = _recorded(content, entry)
        if found and (len(found.names) == num_classes or (num_classes, len(found.names)) == (1, 2)):
            return found
    known = well_known(num_classes, trainers_head=trainers_head)
    if known is None:
        classes = f"{num_classes} classes" if num_classes > 1 else "one output"
        shipped = f" Those of the cat breeds are in {WELL_KNOWN[67]}." if num_classes in WELL_KNOWN else ""
        raise BundleError(
            "labels_missing",
            f"The checkpoint has {classes} and does not say the names; give {option}.{shipped}",
        )
    labels = read(known, num_classes)
    return Labels(
        labels.names,
        f"{num_classes} names from {known.name}, taken from the number of classes alone; give {option} if the model "
        "was trained for others",
        assumed=True,
    )


def check_count(names: int, num_classes: int, origin: str) -> None:
    """Refuse labels that do not name every class of the model."""
    if names != num_classes:
        raise BundleError(
            "class_count_mismatch",
            f"{origin} names {names} classes but the model's head has {num_classes}; use the labels the model was "
            "trained with.",
        )


def _entries(recorded: Mapping[str, object], where: str = "", depth: int = _DEPTH) -> Iterator[tuple[str, object]]:
    """What may be names: entries beside the weights first, then those among a trainer's arguments."""
    yield from ((where + entry, recorded[entry]) for entry in ENTRIES if entry in recorded)
    for name, part in recorded.items():
        if depth and isinstance(part, dict) and name not in ENTRIES:
            yield from _entries(part, f"{where}{name}.", depth - 1)


def _recorded(content: object, entry: str) -> Labels | None:
    """The names in a list or mapping beside the weights; None when it holds none."""
    if not isinstance(content, dict | list | tuple):
        return None
    try:
        entries, understood = _structure(list(content) if isinstance(content, tuple) else content, entry)
        _check(entries, entry)
    except BundleError:
        return None
    return Labels(
        tuple(item.name for item in entries), f"{len(entries)} names from the {understood} {entry!r} in the checkpoint"
    )


def _decode(content: bytes, origin: str) -> tuple[str, str]:
    for mark, encoding, name in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            try:
                return content.decode(encoding), f", {name}"
            except UnicodeDecodeError:
                raise _invalid(origin, f"it begins as {name} and goes on otherwise; save it as UTF-8") from None
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n")
        shown = content.split(b"\n")[line].decode("cp1252", errors="replace").strip()
        raise _invalid(
            origin,
            f"line {line + 1} is not UTF-8 text (as Windows-1252 it would be {_shown(shown)}); save it as UTF-8, or "
            "convert it with iconv",
        ) from None
    if "\0" in text:
        raise _invalid(origin, "it holds zero bytes, as UTF-16 without a byte order mark does; save it as UTF-8")
    return text, ""


def _lines(lines: Sequence[str], origin: str) -> tuple[list[_Entry], str]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            raise _invalid(origin, f"line {number} is empty; name every class")
    entries = [_Entry(f"line {number}", line.strip()) for number, line in enumerate(lines, start=1)]
    matches = [_NUMBERED.fullmatch(line) for line in lines]
    first = [match for match in matches if match]
    if len(first) == len(lines):
        numbers = [int(match[1] or match[3]) for match in first]
        named = [_Entry(entry.where, match[2] or match[4]) for entry, match in zip(entries, first, strict=True)]
        certain = all(match[1] for match in first)
        if certain or _offset(numbers) is not None:
            return _in_order(numbers, named, origin, "lines with a number before the name")
    last = [match for match in map(_NUMBER_LAST.fullmatch, lines) if match]
    if len(last) == len(lines):
        numbers = [int(match[2]) for match in last]
        if _offset(numbers) is not None:
            named = [_Entry(entry.where, match[1]) for entry, match in zip(entries, last, strict=True)]
            return _in_order(numbers, named, origin, "lines with a number after the name")
    if all(len(entry.name) > 1 and entry.name[0] == entry.name[-1] == '"' for entry in entries):
        entries = [_Entry(entry.where, entry.name[1:-1].replace('""', '"').strip()) for entry in entries]
        return entries, "text, a quoted name a line"
    return entries, "text, a name a line"


def _table(lines: Sequence[str], origin: str, expected: int | None) -> tuple[list[_Entry], str] | None:
    """Understand lines as CSV when the first one is a header; None when it is none."""
    separator = next((sign for sign in ("\t", ";", ",") if sign in lines[0]), ",")
    reader = csv.reader(io.StringIO("\n".join(lines)), delimiter=separator)
    header = [cell.strip().lower().replace(" ", "_").replace("-", "_") for cell in next(reader)]
    if len(header) == 1 and len(lines) == expected:
        return None
    known = [cell in _NAME_COLUMNS or (cell in _NUMBER_COLUMNS and len(header) > 1) for cell in header]
    if not any(known) or (len(header) == 1 and len(lines) == 1) or any(cell.isdigit() for cell in header):
        return None
    rows: list[tuple[int, list[str]]] = []
    for row in reader:
        if not any(cell.strip() for cell in row):
            raise _invalid(origin, f"line {reader.line_num} is empty; name every class")
        if len(row) != len(header):
            # A text file whose first class has a comma in its name looks like a header only so far.
            if sum(known) < len(header):
                return None
            raise _invalid(
                origin,
                f"line {reader.line_num} has {len(row)} columns and the header has {len(header)}; quote a name that "
                f"holds {separator!r}",
            )
        rows.append((reader.line_num, [cell.strip() for cell in row]))
    if not rows:
        raise _invalid(origin, "it has a header and no class; name every class")
    number = next((header.index(name) for name in _NUMBER_COLUMNS if name in header and _whole(rows, header, name)), -1)
    name = next((header.index(name) for name in _NAME_COLUMNS if name in header and header.index(name) != number), -1)
    if name < 0 and len(header) == 2 and number >= 0:
        name = 1 - number
    if name < 0:
        raise _invalid(
            origin,
            f"none of the columns {', '.join(header)[:_SHOWN]} is known to hold the names; call one of them `name`",
        )
    entries = [_Entry(f"line {line}", row[name]) for line, row in rows]
    column = f"the column {header[name]!r} of a CSV file with a header"
    if number < 0:
        return entries, f"{column}, in the order of its lines"
    return _in_order(
        [int(row[number]) for _, row in rows], entries, origin, f"{column}, numbered by {header[number]!r}"
    )


def _whole(rows: Sequence[tuple[int, list[str]]], header: Sequence[str], name: str) -> bool:
    column = header.index(name)
    return bool(rows) and all(re.fullmatch(r"[0-9]{1,9}", row[column]) for _, row in rows)


def _json(text: str, origin: str) -> tuple[list[_Entry], str]:
    def mapping(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) != len(pairs):
            twice = next(key for number, (key, _) in enumerate(pairs) if key in dict(pairs[:number]))
            raise _invalid(origin, f"{_shown(twice)} is in it twice; every class has one name and one number")
        return found

    try:
        content = json.loads(text, object_pairs_hook=mapping)
    except json.JSONDecodeError as error:
        raise _invalid(
            origin,
            f"it begins like JSON, and line {error.lineno} is none ({error.msg}); correct it, or write a name a line",
        ) from None
    except (ValueError, RecursionError):
        raise _invalid(origin, "its JSON is too deep or its numbers too long; a list of names is enough") from None
    entries, understood = _structure(content, origin)
    return entries, f"a JSON {understood}"


def _structure(content: object, origin: str) -> tuple[list[_Entry], str]:
    if isinstance(content, dict):
        inner = next((key for key in ENTRIES if isinstance(content.get(key), dict | list) and content[key]), None)
        if inner:
            entries, understood = _structure(content[inner], origin)
            return entries, f"{understood} under {inner!r}"
        return _mapping(content, origin)
    if not isinstance(content, list) or not content:
        raise _invalid(origin, "its JSON holds no names; write a list of them, or a mapping of names and numbers")
    if all(isinstance(item, dict) for item in content):
        return _objects(content, origin)
    entries = []
    for number, item in enumerate(content):
        if not isinstance(item, str):
            raise _invalid(origin, f"entry {number} is {str(item)[:40]}, not a name in quotes")
        entries.append(_Entry(f"entry {number}", item.strip()))
    return entries, "list"


def _objects(content: Sequence[dict[str, object]], origin: str) -> tuple[list[_Entry], str]:
    keys = [str(key) for key in content[0]]
    name = next((key for key in _NAME_COLUMNS if isinstance(content[0].get(key), str)), None)
    number = next((key for key in _NUMBER_COLUMNS if _is_whole(content[0].get(key))), None)
    if name is None:
        raise _invalid(
            origin, f"its entries have {', '.join(keys)[:_SHOWN]}, and none of these is known to be the name"
        )
    entries, numbers = [], []
    for position, item in enumerate(content):
        if not isinstance(item.get(name), str) or (number is not None and not _is_whole(item.get(number))):
            raise _invalid(origin, f"entry {position} has not the {name} and number that the first one has")
        entries.append(_Entry(f"entry {position}", str(item[name]).strip()))
        numbers.append(int(str(item[number])) if number else position)
    return _in_order(numbers, entries, origin, f"list of {name!r}")


def _mapping(content: dict[object, object], origin: str) -> tuple[list[_Entry], str]:
    if not content:
        raise _invalid(origin, "its JSON is empty; name every class")
    pairs = [(str(key).strip(), value) for key, value in content.items()]
    if all(_is_whole(value) for _, value in pairs):
        entries = [_Entry(f"entry {_shown(key)}", key) for key, _ in pairs]
        return _in_order([int(str(value)) for _, value in pairs], entries, origin, "mapping of names to numbers")
    if all(_is_whole(key) for key, _ in pairs):
        entries = []
        for key, value in pairs:
            # Keras writes ImageNet's classes as [synset, name].
            name = value[-1] if isinstance(value, list) and value else value
            if not isinstance(name, str):
                raise _invalid(origin, f"entry {_shown(key)} is {str(value)[:40]}, not a name in quotes")
            entries.append(_Entry(f"entry {_shown(key)}", name.strip()))
        return _in_order([int(key) for key, _ in pairs], entries, origin, "mapping of numbers to names")
    key, value = next((key, value) for key, value in pairs if not _is_whole(value))
    raise _invalid(
        origin,
        f"its JSON maps {_shown(key)} to {str(value)[:40]!r}; write a list of names, or a mapping of names and numbers",
    )


def _is_whole(value: object) -> bool:
    if isinstance(value, str):
        return re.fullmatch(r"\s*[0-9]{1,9}\s*", value) is not None
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _offset(numbers: Sequence[int]) -> int | None:
    """The number that the classes are counted from when each has its own and none is left out."""
    first = min(numbers)
    return first if first in (0, 1) and sorted(numbers) == list(range(first, first + len(numbers))) else None


def _in_order(numbers: Sequence[int], entries: Sequence[_Entry], origin: str, what: str) -> tuple[list[_Entry], str]:
    first = _offset(numbers)
    if first is None:
        seen: dict[int, _Entry] = {}
        for number, entry in zip(numbers, entries, strict=True):
            if number in seen:
                raise _invalid(
                    origin,
                    f"{entry.where} has the number {number}, as {seen[number].where} has; give each class its own",
                )
            seen[number] = entry
        gap = next(number for number in range(len(numbers) + 1) if number not in seen and (number or 1 not in seen))
        raise _invalid(
            origin,
            f"its numbers run from {min(numbers)} to {max(numbers)}, and {gap} has no name; number the {len(numbers)} "
            f"classes from 0 to {len(numbers) - 1}",
        )
    placed = sorted(zip(numbers, range(len(entries)), strict=True))
    return [entries[position] for _, position in placed], f"{what}, counted from {first}"


def _check(entries: Sequence[_Entry], origin: str) -> None:
    seen: dict[str, _Entry] = {}
    twice: list[tuple[_Entry, _Entry]] = []
    for entry in entries:
        if not entry.name:
            raise _invalid(origin, f"{entry.where} is empty; name every class")
        if len(entry.name) > _LONGEST:
            raise _invalid(origin, f"{entry.where} has {len(entry.name)} letters; a name has {_LONGEST} at most")
        for letter in entry.name:
            if unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") or letter in _BIDIRECTIONAL:
                raise _invalid(origin, f"{entry.where} holds the control character U+{ord(letter):04X}; remove it")
        same = unicodedata.normalize("NFC", entry.name)
        if same in seen:
            twice.append((entry, seen[same]))
        seen.setdefault(same, entry)
    for entry, first in twice:
        if len(entries) != _IMAGENET or entry.name not in _IMAGENET_TWICE:
            raise _invalid(
                origin,
                f"{entry.where} and {first.where} both name {_shown(entry.name)}; every class has a name of its own"
                + (", so give a list of the classes, not of the pictures" if len(twice) > len(seen) else ""),
            )


def _folders(path: Path) -> Labels:
    """The class folders that torchvision's and timm's readers number in the order of their names."""
    folders = _visible_folders(path)
    part = next((folder for name in _PARTS for folder in folders if folder.name.lower() == name), None)
    if part and all(folder.name.lower() in _PARTS for folder in folders):
        path, folders = part, _visible_folders(part)
    names = sorted(folder.name for folder in folders)
    if not names:
        raise _invalid(str(path), "the folder holds no class folders; give a file with a name a line")
    natural = sorted(
        names, key=lambda name: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name.lower())]
    )
    if natural != names:
        one, other = next(pair for pair in zip(names, natural, strict=True) if pair[0] != pair[1])
        raise _invalid(
            str(path),
            f"torchvision and timm number these folders differently ({one!r} or {other!r} comes first); give the "
            "trainer's class_to_idx as JSON",
        )
    _check([_Entry(f"folder {name!r}", name) for name in names], str(path))
    return Labels(tuple(names), f"{len(names)} names from the class folders in {path.name}, in alphabetical order")


def _visible_folders(path: Path) -> list[Path]:
    try:
        return [item for item in path.iterdir() if item.is_dir() and not item.name.startswith((".", "__"))]
    except OSError as error:
        raise BundleError(
            "labels_missing", f"The labels {path} cannot be read here ({error.strerror}); correct the path."
        ) from None


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")


def _invalid(origin: str, reason: str) -> BundleError:
    return BundleError("labels_invalid", f"The labels {origin} are refused: {reason}.")

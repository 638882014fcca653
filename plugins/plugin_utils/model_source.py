"""Whether the model that a deploy asks for can be had: a bundle in good order, a URL, or what a bundle is made of."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ansible_collections.gpu_hosts.timm.app.images.pictures import pictures
from ansible_collections.gpu_hosts.timm.app.models.options import normalization_fault, size_fault
from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.checkpoint import (
    SourceError,
    check_named,
    check_together,
    read_labels,
    read_shapes,
)

NEEDED = ("checkpoint", "architecture")
# What pretrained is when timm's own weights come from a model hub; else it is a file of them.
HUB = "hub"


def bundle_faults(folder: Path, name: str, version: str) -> Iterator[str]:
    """Say what is wrong with a bundle that is there."""
    try:
        manifest = json.loads((folder / "bundle.json").read_bytes())
        entries = [manifest[key] for key in ("weights", "labels", "golden")] + manifest["golden_samples"]
        if (manifest["name"], manifest["version"]) != (name, version):
            yield f"it says that it is {manifest['name']} {manifest['version']}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield f"its bundle.json cannot be read ({error})"
        return
    for entry in entries:
        file = folder / entry["file"]
        if not file.is_file():
            yield f"{entry['file']} is missing"
        elif file.stat().st_size != entry["bytes"] or sha256_of(file) != entry["sha256"]:
            yield f"{entry['file']} is not what its manifest says"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def recipe_faults(recipe: Mapping[str, Any]) -> Iterator[str]:
    """Say why no bundle can be made by model_bundle_create."""
    missing = [key for key in NEEDED if not recipe.get(key) and not (key == "checkpoint" and recipe.get("pretrained"))]
    if missing:
        yield f"model_bundle_create lacks {', '.join(missing)}; it needs {', '.join(NEEDED)}."
        return
    if recipe.get("checkpoint") and recipe.get("pretrained"):
        yield "model_bundle_create has both checkpoint and pretrained; keep the one to serve."
        return
    for key in ("mean", "std"):
        numbers = recipe.get(key)
        parts = numbers if isinstance(numbers, list) else str(numbers).strip("[] ").split(",")
        if numbers and (fault := normalization_fault(key, parts, f"model_bundle_create.{key}")):
            yield fault
    if "image_size" in recipe and (fault := size_fault(recipe["image_size"], "model_bundle_create.image_size")):
        yield fault
    if recipe.get("pretrained") == HUB:
        return
    checkpoint = Path(str(recipe.get("checkpoint") or recipe["pretrained"])).expanduser()
    shapes = {}
    try:
        shapes = read_shapes(checkpoint)
    except SourceError as error:
        hint = " The demo's own is fetched by `make demo-checkpoint`." if ".cache/demo/" in str(checkpoint) else ""
        yield f"{error}{hint}"
    try:
        if recipe.get("labels"):
            labels = Path(str(recipe["labels"])).expanduser()
            check_together(checkpoint, shapes, labels, len(read_labels(labels)))
        else:
            check_named(checkpoint, shapes)
    except SourceError as error:
        yield str(error)
    for key in ("golden", "check"):
        folder = recipe.get(key)
        if folder and not pictures(Path(str(folder)).expanduser()):
            yield f"There is no picture in {folder}, the folder of model_bundle_create.{key}."


@cache
def model_faults(name: str, version: str, source: str, checksum: str, recipe: str) -> tuple[str, ...]:
    """Return why the model cannot be brought to a host; hosts with the same one (the recipe is JSON) ask once."""
    if re.match("https?://", source):
        wrong = not re.fullmatch("sha256:[0-9a-f]{64}", checksum)
        return (f"model_bundle_source is a URL; set model_bundle_checksum to sha256:HEX of {source}.",) if wrong else ()
    folder = Path(source).expanduser() / name / version
    if (folder / "bundle.json").exists():
        faults = "; ".join(bundle_faults(folder, name, version))
        remedy = "Copy it from its origin again, or make it again with `bundle create`."
        return (f"The bundle {folder} is damaged: {faults}. {remedy}",) if faults else ()
    wanted = json.loads(recipe)
    if not wanted:
        there = (
            sorted(path.parent.name for path in folder.parent.glob("*/bundle.json")) if folder.parent.is_dir() else []
        )
        return (
            f"There is no bundle at {folder}, and model_bundle_create does not say how to make it. "
            f"Versions of {name} in {source}: {', '.join(there) or 'none'}.",
        )
    return tuple(recipe_faults(wanted))


def model_bytes(name: str, version: str, source: str, recipe: str) -> int:
    """Return about how much room a host needs for the model, 0 when that is not known here."""
    folder = Path(source).expanduser() / name / version
    if folder.is_dir():
        return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    wanted = json.loads(recipe)
    checkpoint = Path(str(wanted.get("checkpoint") or wanted.get("pretrained", ""))).expanduser()
    return checkpoint.stat().st_size if checkpoint.is_file() else 0

"""`python -m app.bundle create|verify|show`: make, check and describe bundles."""

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from app.bundle import manifest as manifests
from app.errors import BundleError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its result is JSON on stdout, a failure one `error[CODE]: …` line on stderr and exit 1."""
    # A stopped container must clean up what it had begun to write.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = _parser().parse_args(arguments)
    try:
        result: dict[str, object] = {"create": _create, "verify": _verify, "show": _show}[options.command](options)
    except BundleError as error:
        sys.stderr.write(f"error[{error.code}]: {error.detail}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"error[storage]: {error.strerror or error}: {error.filename or options.command}.\n")
        return 1
    except Exception as error:  # a defect, which helps nobody as a page of Python
        said = " ".join(str(error).split())[:300]
        sys.stderr.write(
            f"error[unexpected]: {type(error).__name__}: {said}. Nothing was written; this is a "
            "defect of the service, so report it with the command.\n"
        )
        return 1
    sys.stdout.write(json.dumps(result, ensure_ascii=False) + "\n")
    return 0


# create and verify import torch, which takes seconds that show and a usage message need not wait for.


def _create(options: argparse.Namespace) -> dict[str, object]:
    if options.pretrained == "hub":
        # The image forbids it to all that do not ask for it; its client reads this when it is imported.
        os.environ["HF_HUB_OFFLINE"] = "0"
    from app.bundle.create import DEFAULT_GOLDEN, WARNING, Order, create

    chosen = {
        "mean": options.mean,
        "std": options.std,
        "interpolation": options.interpolation,
        "crop_pct": options.crop_pct,
        "crop_mode": options.crop_mode,
    }
    manifest, sha256, path = create(
        Order(
            checkpoint=options.checkpoint,
            architecture=options.architecture,
            labels=options.labels,
            name=options.name,
            version=options.version,
            output=options.output,
            image_size=options.image_size,
            overrides={key: value for key, value in chosen.items() if value is not None},
            activation=options.activation,
            threshold=options.threshold,
            weights=options.weights,
            model_args=options.model_args or {},
            head_activation=options.head_activation,
            pretrained=options.pretrained,
            golden=options.golden or DEFAULT_GOLDEN,
            check=options.check,
        )
    )
    for note in manifest.notes or ():
        if note.startswith(WARNING):
            sys.stderr.write(f"{note}\n")
    return _summary(manifest, sha256, path)


def _verify(options: argparse.Namespace) -> dict[str, object]:
    from app.bundle.verify import verify

    verified = verify(options.directory)
    return _summary(verified.manifest, verified.sha256, options.directory)


def _show(options: argparse.Namespace) -> dict[str, object]:
    manifest, sha256 = manifests.read(options.directory)
    if options.picture:
        from app.bundle.look import draw

        return {"picture": str(options.picture), "seen": str(draw(manifest.input, options.picture, options.output))}
    return {**manifest.model_dump(mode="json", by_alias=True, exclude_none=True), "sha256": sha256}


def _summary(manifest: manifests.Manifest, sha256: str, path: Path) -> dict[str, object]:
    return {
        "name": manifest.name,
        "version": manifest.version,
        "sha256": sha256,
        "architecture": manifest.architecture,
        "head": manifest.head,
        "num_classes": manifest.num_classes,
        "bytes": sum(entry.bytes for entry in manifest.files()),
        "path": str(path),
        "notes": list(manifest.notes or ()),
    }


def _triple(text: str) -> tuple[float, ...]:
    values = tuple(float(part) for part in text.split(","))
    if len(values) not in (1, 3):
        raise argparse.ArgumentTypeError("three comma-separated numbers are needed, or one for gray images")
    return values


def _json_object(text: str) -> dict[str, object]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise argparse.ArgumentTypeError("a JSON object is needed")
    return content


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m app.bundle", description="Make, check and describe bundles.")
    commands = parser.add_subparsers(dest="command", required=True)
    create = commands.add_parser("create", help="make a bundle from a training checkpoint")
    source = create.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", type=Path, metavar="FILE", help="the trainer's checkpoint")
    source.add_argument(
        "--pretrained",
        metavar="hub|FILE",
        help="timm's own weights of the architecture and tag: from the hub, or a file or folder brought from there",
    )
    create.add_argument(
        "--architecture", required=True, metavar="NAME", help="timm architecture, with or without a tag"
    )
    create.add_argument(
        "--weights",
        metavar="ema|model|NAME",
        help="which one of several sets of weights in the checkpoint: the average, the plain one, or its name",
    )
    create.add_argument(
        "--model-args",
        type=_json_object,
        metavar="JSON",
        help='what timm builds the architecture with beside its name, e.g. {"in_chans": 1, "global_pool": "max"}',
    )
    create.add_argument(
        "--head-activation",
        choices=get_args(manifests.HeadActivation),
        help="what is computed between the layers of a head that has several",
    )
    create.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help="class names: text with a name a line, JSON, CSV, or the folder of class folders; default: what the "
        "checkpoint records, and ImageNet's for 1000 classes",
    )
    create.add_argument("--name", required=True, help="name of the bundle")
    create.add_argument("--version", required=True, help="version of the bundle; a version never changes")
    create.add_argument("--output", type=Path, required=True, metavar="DIR", help="writes DIR/NAME/VERSION/")
    create.add_argument("--image-size", type=int, metavar="N", help="input side in pixels")
    create.add_argument("--mean", type=_triple, metavar="R,G,B", help="mean of the normalization")
    create.add_argument("--std", type=_triple, metavar="R,G,B", help="standard deviation of the normalization")
    create.add_argument("--interpolation", choices=get_args(manifests.Interpolation), help="how images are resized")
    create.add_argument("--crop-pct", type=float, metavar="F", help="part of the resized image that is kept")
    create.add_argument(
        "--crop-mode",
        choices=get_args(manifests.CropMode),
        help="how it becomes a square: the middle cut out, both sides scaled, or the rest filled",
    )
    create.add_argument(
        "--activation",
        choices=get_args(manifests.Activation),
        help="softmax (default) when a picture has one class, sigmoid when it may have several or none",
    )
    create.add_argument(
        "--threshold",
        metavar="F",
        help='what a class must reach with sigmoid: a number for all, one a class, or {"class": number}',
    )
    create.add_argument("--golden", type=Path, metavar="DIR", help="photographs whose answers a deploy compares")
    create.add_argument(
        "--check",
        type=Path,
        metavar="DIR",
        help="labeled pictures in class folders: warns when another preprocessing gives better answers",
    )
    for name, text in (
        ("verify", "check every part of a bundle"),
        ("show", "print a bundle's manifest, or draw what its model sees"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("directory", type=Path, metavar="DIR", help="directory of the bundle")
    command.add_argument("--picture", type=Path, metavar="FILE", help="draw what the model sees of this picture")
    command.add_argument(
        "--output", type=Path, metavar="PNG", default=Path("seen.png"), help="where to draw it; default: seen.png"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""What the dearest uploads cost, inside the image: the figures that app/images/appraisal.py reckons with."""

import io
import os
import struct
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from app.bundle.manifest import Input
from app.errors import ServiceError
from app.images.appraisal import largest
from app.images.decoder import Decoder
from bench import figures

HALF = (0.5, 0.5, 0.5)
SETTINGS = Input(size=(3, 224, 224), mean=HALF, std=HALF, interpolation="bicubic", crop_pct=0.875, crop_mode="center")


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    target = io.BytesIO()
    image.save(target, kind, **options)
    return target.getvalue()


def _scans(image: Image.Image, decoder: Decoder) -> bytes:
    """A progressive JPEG that repeats its last scan as often as it is let in."""
    content = _saved(image.convert("L"), "JPEG", progressive=True)[:-2]
    last = content[content.rfind(b"\xff\xda") :]
    for count in range(256, 0, -8):
        repeated = content + last * count + b"\xff\xd9"
        try:
            decoder.appraise(repeated)
        except ServiceError:
            continue
        return repeated
    return content


def _run_lengths(side: int, size: int) -> bytes:
    """A BMP of runs of one pixel each, in so many bytes."""
    runs = b"\1\7" * (size // 2)
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 1078) + header + bytes(1024) + runs


def uploads(side: int, decoder: Decoder) -> Iterator[tuple[str, bytes]]:
    """The largest picture in every ordinary way, and what costs most of what nobody means well with."""
    photograph = Image.open(Path("/app/app/data/golden/coffee.jpg")).convert("RGB").resize((side, side))
    blank = Image.new("RGB", (side, side), (200, 10, 10))
    yield "JPEG", _saved(photograph, "JPEG", quality=80)
    yield "JPEG, progressive, 4:4:4", _saved(photograph, "JPEG", quality=80, progressive=True, subsampling=0)
    yield "JPEG, progressive, CMYK", _saved(photograph.convert("CMYK"), "JPEG", quality=60, progressive=True)
    yield "WebP", _saved(photograph, "WEBP", quality=60, method=0)
    yield "GIF", _saved(photograph.quantize(16), "GIF")
    yield "PNG, blank", _saved(blank, "PNG")
    yield "PNG, blank, alpha", _saved(blank.convert("RGBA"), "PNG")
    yield "WebP, blank", _saved(blank, "WEBP", lossless=True, method=0)
    yield "JPEG, as many scans as are let in", _scans(blank, decoder)
    yield "BMP, runs of one pixel", _run_lengths(3_000, 10_000_000)


def measure(decode: Callable[[], object]) -> tuple[float, float, str]:
    """CPU seconds, MiB beyond what was there before, and the refusal, of work in a process of its own."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        Path("/proc/self/clear_refs").write_text("5")
        before, began, refused = _memory("VmRSS"), time.thread_time(), ""
        try:
            decode()
        except ServiceError as error:
            refused = error.code
        os.write(writing, f"{time.thread_time() - began} {_memory('VmHWM') - before} {refused}".encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as said:
        seconds, mebibytes, refused = said.read().split(" ", 2)
    os.waitpid(child, 0)
    return float(seconds), float(mebibytes), refused


def _memory(name: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def main() -> None:
    """Print the table for pictures of about so many pixels."""
    pixels = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000_000
    torch.set_num_threads(1)
    decoder = Decoder(SETTINGS, pixels, "fast")
    decoder.decode(Path("/app/app/data/golden/cat.jpg").read_bytes())
    rows = []
    for name, content in uploads(int(pixels**0.5), decoder):
        seconds, mebibytes, refused = measure(partial(decoder.decode, content))
        try:
            cost = decoder.appraise(content).cost
            reckoned = f"{cost.work / 1e9:.2f} s, {cost.memory >> 20} MiB"
        except ServiceError as error:
            reckoned = error.code
        rows.append([name, str(len(content)), f"{seconds:.2f} s, {mebibytes:.0f} MiB", reckoned, refused or "let in"])
    print(figures.table(["upload", "bytes", "measured", "reckoned", "answer"], rows))
    most = largest(pixels)
    print(f"\nReckoned for the largest honest one: {most.work / 1e9:.2f} s, {most.memory >> 20} MiB, {pixels} pixels.")


if __name__ == "__main__":
    main()

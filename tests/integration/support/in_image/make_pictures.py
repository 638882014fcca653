"""Write pictures that a client should not send, and some unusual ones that it may: GOOD_PHOTOGRAPH FOLDER."""

import struct
import sys
import zlib
from pathlib import Path

from PIL import Image


def huge_png(side: int) -> bytes:
    """Return a black picture of side x side pixels in a few kilobytes: what decodes it needs gigabytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer = zlib.compressobj(9)
    row = b"\0" * (1 + side // 8)
    pixels = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def main(photograph: str, folder: str) -> None:
    """Write them all."""
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    original = Path(photograph).read_bytes()
    with Image.open(photograph) as opened:
        picture = opened.convert("RGB")
    (out / "text.jpg").write_text("This is a letter, not a photograph.\n" * 20)
    (out / "truncated.jpg").write_bytes(original[: len(original) // 2])
    (out / "empty.jpg").write_bytes(b"")
    (out / "eleven-megabytes.jpg").write_bytes(original + b"\0" * (11_000_000 - len(original)))
    (out / "bomb.png").write_bytes(huge_png(20_000))
    picture.resize((1, 1)).save(out / "one-pixel.png")
    picture.convert("CMYK").save(out / "cmyk.jpg")
    picture.convert("I;16").save(out / "sixteen-bit.png")
    frames = [picture, picture.rotate(90), picture.rotate(180)]
    frames[0].save(out / "animated.webp", save_all=True, append_images=frames[1:], duration=100)


if __name__ == "__main__":
    main(*sys.argv[1:])

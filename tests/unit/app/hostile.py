"""Uploads that nobody means well with: images and forms whose structure is changed where it hurts decoders most."""

import io
import random
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence

from PIL import Image

from tests.unit.app.support import CAT, chunk, picture, scans, segment

# What length and size fields are set to.
EDGES = (0, 1, 7, 8, 255, 256, 16_383, 32_767, 65_500, 65_535, 2**24 - 1, 2**31 - 1, 2**32 - 1)

BATCH_TYPE = "multipart/form-data; boundary=B"
Kind = tuple[str, bytes, Callable[[bytes], list[bytes]], Callable[[list[bytes]], bytes]]


class Dice(random.Random):
    """Chance that is the same for the same number."""


def _saved(kind: str, mode: str = "RGB", **options: object) -> bytes:
    target = io.BytesIO()
    Image.open(CAT).convert(mode).resize((240, 160)).save(target, kind, **options)
    return target.getvalue()


def _animated(kind: str) -> bytes:
    frames = [Image.open(CAT).convert("RGB").resize((120, 80)).rotate(angle) for angle in (0, 90, 180)]
    target = io.BytesIO()
    frames[0].save(target, kind, save_all=True, append_images=frames[1:], duration=50)
    return target.getvalue()


def _segments(content: bytes) -> list[bytes]:
    """A JPEG at its markers, those in the coded data left out."""
    return re.split(rb"(?=\xff[\xc0-\xcf\xd8-\xfe])", content)


def _chunks(content: bytes) -> list[bytes]:
    pieces, position = [content[:8]], 8
    while position < len(content):
        end = position + 12 + int.from_bytes(content[position : position + 4])
        pieces.append(content[position:end])
        position = end
    return pieces


def _sound_png(pieces: list[bytes]) -> bytes:
    """With checksums that are right, so that what was changed is read."""
    head, *chunks = pieces
    return head + b"".join(piece[:-4] + struct.pack(">I", zlib.crc32(piece[4:-4])) for piece in chunks)


def _riff(content: bytes) -> list[bytes]:
    pieces, position = [content[:12]], 12
    while position < len(content):
        size = int.from_bytes(content[position + 4 : position + 8], "little")
        end = position + 8 + size + size % 2
        pieces.append(content[position:end])
        position = end
    return pieces


def _sound_riff(pieces: list[bytes]) -> bytes:
    body = b"".join(pieces)
    return body[:4] + struct.pack("<I", max(0, len(body) - 8)) + body[8:]


def _blocks(content: bytes) -> list[bytes]:
    """A GIF at what begins its blocks, and any other file in sixteen."""
    if content.startswith(b"GIF"):
        return re.split(rb"(?=!\xf9\x04|!\xff\x0b|!\xfe|,\0\0\0\0)", content)
    size = max(1, len(content) // 16)
    head = 64
    return [content[:head], *(content[at : at + size] for at in range(head, len(content), size))]


def _run_lengths() -> bytes:
    side, palette = 64, bytes(range(256)) * 4
    runs = (bytes([side, 7]) + b"\0\0") * side + b"\0\1"
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + 40 + 1024) + header + palette + runs


def kinds() -> list[Kind]:
    """Every accepted format in its ways, with how it comes apart and together."""
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100_000)))
    png = _saved("PNG")
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "x" * 500
    jpegs = {
        "JPEG": _saved("JPEG"),
        "JPEG gray": _saved("JPEG", "L"),
        "JPEG CMYK": _saved("JPEG", "CMYK"),
        "JPEG progressive": _saved("JPEG", progressive=True),
        "JPEG with EXIF": _saved("JPEG", exif=exif),
        "JPEG with restarts": _saved("JPEG", restart_marker_blocks=4),
        "JPEG refined": scans(200, 8),
        "JPEG arithmetic": _saved("JPEG").replace(b"\xff\xc0", b"\xff\xc9", 1),
        "JPEG with a profile": png[:0] + _saved("JPEG")[:2] + segment(0xE2, b"ICC_PROFILE\0\1\1x") + _saved("JPEG")[2:],
    }
    pngs = {
        "PNG": png,
        "PNG palette": _saved("PNG", "P"),
        "PNG alpha": _saved("PNG", "RGBA"),
        "PNG bits": _saved("PNG", "1"),
        "PNG of 16 bits": _saved("PNG", "I;16"),
        "PNG with text": png[:33] + text * 3 + png[33:],
        "PNG animated": _animated("PNG"),
    }
    webps = {
        "WebP": _saved("WEBP"),
        "WebP lossless": _saved("WEBP", lossless=True),
        "WebP alpha": _saved("WEBP", "RGBA", exif=exif),
        "WebP animated": _animated("WEBP"),
    }
    others = {
        "GIF": _saved("GIF", "P"),
        "GIF animated": _animated("GIF"),
        "GIF with comment": _saved("GIF", "P", comment=b"x" * 2000),
        "BMP": _saved("BMP"),
        "BMP palette": _saved("BMP", "P"),
        "BMP run lengths": _run_lengths(),
    }
    return [
        *((name, content, _segments, b"".join) for name, content in jpegs.items()),
        *((name, content, _chunks, _sound_png) for name, content in pngs.items()),
        *((name, content, _riff, _sound_riff) for name, content in webps.items()),
        *((name, content, _blocks, b"".join) for name, content in others.items()),
    ]


def _changed(dice: Dice, piece: bytes) -> bytes:
    """A piece with a field at an edge, bits flipped, bytes of one kind, or its end missing."""
    data = bytearray(piece)
    at = dice.randrange(max(1, min(len(data), 40)))
    ways = dice.randrange(5)
    if ways == 0:
        order = dice.choice((">", "<"))
        size = dice.choice("HI")
        width = struct.calcsize(size)
        data[at : at + width] = struct.pack(order + size, dice.choice(EDGES) & (2 ** (8 * width) - 1))
    elif ways == 1:
        for _ in range(dice.randrange(1, 9)):
            if data:
                data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    elif ways == 2:
        data[at + 12 :] = bytes([dice.choice((0, 0x55, 0xAA, 0xFF))]) * max(0, len(data) - at - 12)
    elif ways == 3:
        del data[dice.randrange(len(data) + 1) :]
    else:
        data[at:at] = dice.randbytes(dice.randrange(1, 64))
    return bytes(data)


def _resized(dice: Dice, content: bytes) -> bytes:
    """A file that promises other sides than it has the pixels for: those of a trial's largest picture, and beyond."""
    width, height = dice.choice(((2_236, 2_236), (1_500, 3_000), (22_000, 220), (10, 1_000), (65_535, 65_535), (9, 9)))
    data = bytearray(content)
    if content.startswith(b"\x89PNG"):
        data[16:24] = struct.pack(">II", width, height)
    elif content.startswith(b"GIF"):
        frame = content.find(b",\0\0\0\0")
        data[frame + 5 : frame + 9] = struct.pack("<HH", width, height)
    elif content.startswith(b"BM"):
        data[18:26] = struct.pack("<ii", width, -height if dice.randrange(2) else height)
    elif content[12:16] == b"VP8X":
        data[24:30] = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    elif content[12:16] == b"VP8L":
        data[21:25] = struct.pack("<I", (width - 1 & 0x3FFF) | (height - 1 & 0x3FFF) << 14 | (content[24] & 0xF0) << 24)
    elif content[12:16] == b"VP8 ":
        data[26:30] = struct.pack("<HH", width & 0x3FFF, height & 0x3FFF)
    elif found := re.search(rb"\xff[\xc0-\xc2\xc9]\0.\x08", content, re.DOTALL):
        data[found.end() : found.end() + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def image(number: int, most: int, made: Sequence[Kind]) -> tuple[str, bytes]:
    """The hostile image of a number, always the same; not longer than so many bytes."""
    dice = Dice(number)
    name, content, apart, together = made[number % len(made)]
    resized = dice.randrange(3) == 0
    pieces = apart(_resized(dice, content) if resized else content)
    # Often nothing else, so that what it promises is believed.
    for _ in range(dice.choice((0, 0, 1, 2)) if resized else dice.randrange(1, 5)):
        at = dice.randrange(len(pieces))
        way = dice.randrange(7)
        if way == 0:
            del pieces[at]
        elif way == 1:
            room = max(1, (most - len(content)) // max(1, len(pieces[at])))
            pieces[at:at] = [pieces[at]] * min(room, dice.choice((1, 2, 30, 300, 3_000, 20_000)))
        elif way == 2:
            other = dice.randrange(len(pieces))
            pieces[at], pieces[other] = pieces[other], pieces[at]
        elif way == 3:
            _, foreign, cut, _ = dice.choice([kind for kind in made if kind[2] is apart])
            pieces[at : at + 1] = dice.sample(cut(foreign), 1)
        else:
            pieces[at] = _changed(dice, pieces[at])
        pieces = pieces or [b""]
    return name, together(pieces)[:most]


def batch(parts: Iterable[bytes]) -> bytes:
    """A sound form of several pictures, whatever those are; its content type is BATCH_TYPE."""
    head = b'--B\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n'
    return b"".join(head + part + b"\r\n" for part in parts) + b"--B--\r\n"


def form(number: int) -> tuple[str, bytes]:
    """The hostile form of a number: its content type and its body."""
    dice = Dice(number)
    content = picture(size=(32, 32))
    boundary = dice.choice(("B", "--", "a b", "'", "x" * 70, "x" * 71, "\xe9", ""))
    line = f"--{boundary}".encode("latin-1")
    parameters = (
        *("name=file", 'name="file"', "name*=utf-8''file", "filename=a.jpg", 'filename="a\\".jpg"', 'filename="', ";"),
        *("filename*=x''%", "filename*=undefined''a", "filename*=utf-16''%ff", "filename*=unicode_escape''%5Cud800"),
        *("filename*0=a", "x=" + "y" * 3_000, 'filename="\xff\xfe"', "a=b" * 40),
    )
    ends = ("\r\n", "\r\n", "\r\n", "\n", "\r", "\r\n ")
    body = bytearray(dice.choice((b"", b"preamble\r\n", b"\r\n", line[:1])))
    for _ in range(dice.choice((0, 1, 1, 1, 2, 3, 90))):
        chosen = dice.sample(parameters, dice.randrange(1, 6))
        head = "Content-Disposition: " + "; ".join([dice.choice(("form-data", "form-data", "attachment", "")), *chosen])
        for extra in (
            "Content-Type: image/jpeg",
            "Content-Transfer-Encoding: base64",
            "X: " + "z" * 5_000,
            ": :",
            "\0",
        ):
            if not dice.randrange(6):
                head += dice.choice(ends) + extra
        end = dice.choice(ends)
        part = line + b"\r\n" + head.encode("utf-8", "replace") + (end * 2).encode() + content + b"\r\n"
        body += part if dice.randrange(5) else part[: dice.randrange(len(part))]
    body += dice.choice((line + b"--\r\n", line + b"--", line, b"", line + b"x--"))
    kind = dice.choice(
        ("boundary={}", 'boundary="{}"', "boundary*=undefined''{}", "boundary={}; boundary=B", "charset=x")
    )
    return "multipart/form-data; " + kind.format(boundary), bytes(body)

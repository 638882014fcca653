import io
import struct
import zlib

import pytest
from PIL import Image

from app.images import anatomy
from app.images.anatomy import MAX_CHUNKS, MAX_SCANS, MAX_SEGMENTS, UnsoundError
from tests.unit.app.support import CAT, chunk, picture, scans, segment

# What libjpeg's own script makes of a color picture, and of a gray one.
SCANS = {"RGB": 10, "L": 6}


def samples(content: bytes) -> int:
    found = anatomy.examine(content)
    assert found
    return found.samples


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (picture("L"), 64 * 48),
        (picture("RGB", subsampling=0), 64 * 48 * 3),
        (picture("RGB", subsampling=2), 64 * 48 * 3 // 2),
        (picture("CMYK", subsampling=0), 64 * 48 * 4),
        (picture("L", progressive=True), 64 * 48 * SCANS["L"]),
        (scans(64, 10), 64 * 64 * 13),
    ],
    ids=["gray", "4:4:4", "4:2:0", "cmyk", "progressive gray", "refined"],
)
def test_the_samples_of_a_jpeg_are_those_of_every_component_in_every_scan(content: bytes, expected: int) -> None:
    assert samples(content) == expected


def test_an_ordinary_progressive_photograph_stays_far_below_the_limit() -> None:
    target = io.BytesIO()
    Image.open(CAT).convert("RGB").save(target, "JPEG", progressive=True, subsampling=0)
    assert target.getvalue().count(b"\xff\xda") == SCANS["RGB"]
    assert samples(target.getvalue()) == 451 * 300 * 14


def test_what_lies_in_a_segment_of_the_header_is_no_scan() -> None:
    thumbnail = segment(0xE1, b"Exif\0\0" + scans(16, 100))
    content = picture("L")
    assert samples(content[:2] + thumbnail + content[2:]) == 64 * 48


def test_a_scan_across_two_windows_of_the_search_is_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    content = scans(16, 50)
    for window in range(2, 20):
        monkeypatch.setattr(anatomy, "_WINDOW", window)
        assert samples(content) == 16 * 16 * 53


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (scans(16, MAX_SCANS), f"more than {MAX_SCANS} times"),
        (b"\xff\xd8" + segment(0xFE, b"") * (MAX_SEGMENTS + 1) + picture()[2:], f"more than {MAX_SEGMENTS} segments"),
        (b"\xff\xd8" + segment(0xC0, struct.pack(">BHHB", 8, 16, 16, 1) + b"\1\x11\0") + picture()[2:], "twice"),
        (b"\xff\xd8" + segment(0xC0, b"\x08\0"), "cut off"),
        (b"\xff\xd8\xff\xd9" + picture()[2:], "before its pixels"),
        (b"\xff\xd8\xff", "before its pixels"),
        (picture()[:2] + segment(0xDA, b"\1\1\0\0\0\0") + picture()[2:], "before its pixels"),
    ],
    ids=["scans", "segments", "two frames", "short frame", "ended", "nothing", "scan first"],
)
def test_what_no_encoder_writes_is_unsound(content: bytes, why: str) -> None:
    with pytest.raises(UnsoundError, match=why):
        anatomy.examine(content)


def gif(screen: int, frame: int, blocks: int = 0) -> bytes:
    """A GIF with a comment of so many blocks, up to its first frame's pixels."""
    comment = b"!\xfe" + b"\1x" * blocks + b"\0" if blocks else b""
    head = b"GIF89a" + struct.pack("<HHBBB", screen, screen, 0x80, 0, 0) + bytes(6)
    return head + comment + b"," + struct.pack("<HHHHB", 5, 0, frame, frame, 0) + b"\2\0;"


def webp(kind: bytes, data: bytes) -> bytes:
    body = b"WEBP" + kind + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def bmp(header: bytes) -> bytes:
    return b"BM" + bytes(12) + header


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (picture(kind="PNG"), ("PNG", 64, 48)),
        (picture("P", kind="GIF"), ("GIF", 64, 48)),
        (picture(kind="WEBP"), ("WEBP", 64, 48)),
        (picture("RGBA", kind="WEBP", exif=b"x"), ("WEBP", 64, 48)),
        (picture(kind="WEBP", lossless=True), ("WEBP", 64, 48)),
        (picture(kind="BMP"), ("BMP", 64, 48)),
        (gif(10, 60_000), ("GIF", 60_005, 60_000)),
        (webp(b"VP8X", bytes(4) + b"\xff\xff\xff\xff\xff\xff"), ("WEBP", 1 << 24, 1 << 24)),
        (webp(b"VP8L", b"\x2f" + b"\xff" * 9), ("WEBP", 1 << 14, 1 << 14)),
        (bmp(struct.pack("<IHH", 12, 700, 900) + bytes(8)), ("BMP", 700, 900)),
        (bmp(struct.pack("<Iii", 40, 700, -900) + bytes(28)), ("BMP", 700, 900)),
    ],
)
def test_every_accepted_format_says_how_many_pixels_it_has(content: bytes, expected: tuple[str, int, int]) -> None:
    found = anatomy.examine(content)
    assert found
    assert (found.format, found.width, found.height) == expected


def test_a_bmp_of_run_lengths_and_arithmetic_coding_are_dear() -> None:
    packed = bmp(struct.pack("<IiiHHI", 40, 64, 48, 1, 8, 1) + bytes(20))
    arithmetic = picture().replace(b"\xff\xc0", b"\xff\xc9", 1)
    for content in (packed, arithmetic):
        found = anatomy.examine(content)
        assert found
        assert found.dear


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (picture(kind="PNG")[:32], "cut off"),
        (b"\x89PNG and text", "cut off"),
        (picture(kind="PNG")[:33] + chunk(b"IHDR", bytes(13)), "twice"),
        (picture(kind="PNG")[:33] + chunk(b"IDAT", b"x") * (MAX_CHUNKS + 1), f"more than {MAX_CHUNKS} chunks"),
        (b"GIF89a", "cut off"),
        (gif(10, 10)[:25], "before its pixels"),
        (gif(10, 10, MAX_CHUNKS + 1), f"more than {MAX_CHUNKS} blocks"),
        (gif(10, 10)[:19] + b"!\xfe\0" * (MAX_CHUNKS + 2), f"more than {MAX_CHUNKS} blocks"),
        (gif(10, 10)[:19] + b"!\xfe\xff", "before its pixels"),
        (webp(b"VP8 ", bytes(10)), "cut off"),
        (webp(b"ALPH", bytes(10)), "cut off"),
        (b"RIFF\0\0\0\0WEBP", "cut off"),
        (bmp(b"\x28\0\0\0"), "cut off"),
    ],
)
def test_a_structure_that_is_damaged_or_endless_is_unsound(content: bytes, why: str) -> None:
    with pytest.raises(UnsoundError, match=why):
        anatomy.examine(content)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", "AVIF"),
        (b"\0\0\0\x18ftypmp42", "an MP4 video"),
        (b"II*\0" + bytes(20), "TIFF"),
        (b"%PDF-1.7", "PDF"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"<?xml version='1.0'?>\n<svg/>", "SVG"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b'{"image": "..."}', "JSON"),
        (b"data:image/png;base64,iVBOR", "a data URL; send the bytes themselves"),
        (b"BMW is no bitmap, whatever it begins with", "text"),
        (b"\x01\x02\x03\x04", None),
    ],
)
def test_what_is_sent_instead_of_an_image_is_named(content: bytes, name: str | None) -> None:
    assert anatomy.examine(content) is None
    assert anatomy.name_of(content) == name


def test_a_png_is_read_without_its_compressed_texts() -> None:
    plain = picture(kind="PNG")
    compressed = zlib.compress(bytes(2_000_000))
    texts = (
        chunk(b"iCCP", b"profile\0\0" + compressed),
        chunk(b"zTXt", b"Comment\0\0" + compressed),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + compressed),
    )
    kept = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x/>") + chunk(b"tEXt", b"Comment\0hello")
    end = plain[-12:]
    assert anatomy.without_compressed_texts(plain) is plain
    dressed = plain[:33] + b"".join(texts) + kept + plain[33:-12] + texts[1] + end
    assert anatomy.without_compressed_texts(dressed) == plain[:33] + kept + plain[33:]
    # What is cut off stays cut off: its decoder has the say.
    assert anatomy.without_compressed_texts(dressed[:-20]) == plain[:33] + kept + plain[33:-12]

import io
import struct

import pytest
from PIL import Image

from app import anatomy
from app.anatomy import MAX_SCANS, MAX_SEGMENTS, UnsoundError
from tests.unit.app.support import CAT, picture, scans, segment

# What libjpeg's own script makes of a colour picture, and of a grey one.
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
    ids=["grey", "4:4:4", "4:2:0", "cmyk", "progressive grey", "refined"],
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


def test_other_formats_have_no_scans() -> None:
    assert anatomy.examine(picture(kind="PNG")) is None

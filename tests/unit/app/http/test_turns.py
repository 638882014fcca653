"""What the event loop does in one turn is bounded, whatever is sent: counted in lines of Python, on any machine."""

import contextlib
import struct
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from app.http.multipart import MAX_FIELDS, Form, MalformedError
from app.images import anatomy
from app.images.anatomy import UnsoundError
from tests.unit.app.support import chunk, picture, segment

# Above it a file is looked through in a thread.
INLINE = (2 << 20) - 100
# A line takes 50 ns to 100 ns: this many are the 20 ms that a request may hold the loop.
MOST_LINES = 200_000


def lines(work: Callable[[], object]) -> int:
    """How many lines of Python some work takes."""
    count = 0

    def trace(_: FrameType, event: str, __: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with contextlib.suppress(UnsoundError, MalformedError):
            work()
    finally:
        sys.settrace(before)
    return count


PNG = picture(kind="PNG")
GIF = b"GIF89a" + struct.pack("<HHBBB", 64, 64, 0, 0, 0)
PROGRESSIVE = b"\xff\xd8" + segment(0xC2, struct.pack(">BHHB", 8, 64, 64, 1) + b"\1\x11\0")
SCAN = segment(0xDA, b"\1\1\0\0\x3f\0")


@pytest.mark.parametrize(
    "content",
    [
        PNG[:33] + chunk(b"teXt", b"") * (INLINE // 12),
        GIF + b"!\xfe" + b"\1x" * (INLINE // 2),
        GIF + b"!\xfe\0" * (INLINE // 3),
        b"\xff\xd8" + b"\xff" * INLINE,
        b"\xff\xd8\xff" + b"\xff\0" * (INLINE // 2),
        b"\xff\xd8" + segment(0xE1, b"Exif\0\0") * (INLINE // 10),
        PROGRESSIVE + SCAN * (INLINE // len(SCAN)),
        PROGRESSIVE + SCAN + b"\xff" * INLINE,
    ],
    ids=["chunks", "blocks", "extensions", "fill", "stuffing", "segments", "scans", "bytes of a scan"],
)
def test_a_file_is_judged_in_bounded_work(content: bytes) -> None:
    assert lines(lambda: anatomy.examine(content)) < MOST_LINES


@pytest.mark.parametrize(
    "head",
    [b"".join(b";%x=b" % number for number in range(256, 900)), b";" * 4_000, b"\r\nX: y" * 500],
    ids=["parameters", "semicolons", "headers"],
)
def test_a_form_is_read_in_bounded_work(head: bytes) -> None:
    part = b"--B\r\nContent-Disposition: form-data; name=a" + head[:4_000] + b"\r\n\r\nx\r\n"
    most = 16 + MAX_FIELDS
    assert lines(lambda: Form(b"B", most).feed(part * most + b"--B--\r\n")) < MOST_LINES

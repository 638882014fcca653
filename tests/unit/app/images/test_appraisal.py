import struct
from typing import Any

import pytest

from app.errors import ServiceError
from app.images import appraisal
from app.images.anatomy import Anatomy
from app.images.appraisal import Limits
from tests.unit.app.support import picture, scans

LIMITS = Limits(max_pixels=50_000_000, memory=4 << 30)
JPEG = Anatomy("JPEG", 7000, 7000)
# Ten scans of 4:4:4, as libjpeg's own script makes them.
PROGRESSIVE = Anatomy("JPEG", 7000, 7000, scans=10, samples=14 * 49_000_000, kept=3 * 49_000_000)


def refusal(found: Anatomy, size: int = 1_000_000, divisor: int = 0, limits: Limits = LIMITS) -> str | None:
    try:
        appraisal.check_cost(found, appraisal.cost(found, size, divisor), limits)
    except ServiceError as error:
        return error.code
    return None


@pytest.mark.parametrize("divisor", [0, 1, 8])
@pytest.mark.parametrize("found", [JPEG, PROGRESSIVE, *(Anatomy(kind, 7000, 7000) for kind in appraisal.FORMATS)])
def test_an_honest_picture_of_the_most_pixels_is_let_in(found: Anatomy, divisor: int) -> None:
    assert refusal(found, 10_000_000, divisor if found.format == "JPEG" else 0) is None


@pytest.mark.parametrize(
    ("found", "size"),
    [
        (Anatomy("JPEG", 7000, 7000, 1, 50, 50 * 49_000_000, 49_000_000), 150_000),
        (Anatomy("JPEG", 3000, 3000, 1, 250, 250 * 9_000_000, 9_000_000, dear=True), 150_000),
        (Anatomy("JPEG", 7000, 7000, samples=150_000_000, dear=True), 150_000),
        (Anatomy("BMP", 7000, 7000, dear=True), 12_000_000),
    ],
    ids=["scans", "arithmetic scans", "arithmetic", "run lengths"],
)
def test_what_costs_more_than_twice_the_largest_honest_picture_is_refused(found: Anatomy, size: int) -> None:
    assert refusal(found, size) == "image_too_complex"


@pytest.mark.parametrize("sides", [(8000, 6000), (16000, 3000)], ids=["camera", "panorama"])
@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {"subsampling": 0}),
        ("RGB", {"subsampling": "4:1:1", "restart_marker_blocks": 2}),
        ("L", {}),
        ("CMYK", {}),
    ],
    ids=["4:4:4", "4:1:1 with restarts", "gray", "CMYK"],
)
def test_a_progressive_picture_of_48_megapixels_is_let_in(
    mode: str, options: dict[str, Any], sides: tuple[int, int]
) -> None:
    content = bytearray(picture(mode, progressive=True, **options))
    struct.pack_into(">HH", content, content.index(b"\xff\xc2") + 5, sides[1], sides[0])
    found = appraisal.examine(bytes(content))
    assert (found.pixels, found.scans >= 6) == (48_000_000, True)
    # libjpeg-turbo does not make RGB of four components, so Pillow decodes them, once.
    assert refusal(found, 12_000_000, 0 if found.components == 4 else 1) is None


def test_a_small_picture_may_have_many_scans() -> None:
    content = scans(1000, 200)
    assert refusal(appraisal.examine(content), len(content), 1) is None


def test_what_does_not_fit_into_the_memory_is_refused() -> None:
    small = Limits(max_pixels=50_000_000, memory=100 << 20)
    assert refusal(Anatomy("WEBP", 3000, 3000), limits=small) == "image_too_large"
    assert refusal(Anatomy("JPEG", 3000, 3000), divisor=4, limits=small) is None


def test_an_ordinary_image_takes_milliseconds_and_a_large_one_seconds() -> None:
    content = picture(size=(500, 375))
    assert 0.001 < appraisal.cost(appraisal.examine(content), len(content)).seconds < 0.01
    assert appraisal.cost(Anatomy("WEBP", 7000, 7000), 46).seconds > 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\0\0\0\x18ftypheic", "the content is HEIC; this service reads JPEG, PNG"),
        (b"\1\2\3", "the content is no image; this service"),
    ],
)
def test_a_refused_type_is_told_what_was_found(content: bytes, said: str) -> None:
    with pytest.raises(ServiceError) as caught:
        appraisal.examine(content)
    assert caught.value.code == "invalid_file_type"
    assert said in caught.value.detail

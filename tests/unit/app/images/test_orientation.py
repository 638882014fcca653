"""Pictures that are stored turned, as phones store them."""

import io
import json
import struct

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from app.bundle.manifest import Input
from app.images import orientation
from app.images.decoder import Decoder, Mode, Orientation
from tests.unit.app.support import CAT, fresh, segment

HALF = (0.5, 0.5, 0.5)
MODES: tuple[Mode, ...] = ("fast", "exact")
INPUTS = [
    Input(size=(3, 64, 64), mean=HALF, std=HALF, interpolation="bicubic", crop_pct=0.875, crop_mode="center"),
    Input(size=(3, 64, 96), mean=HALF, std=HALF, interpolation="bilinear", crop_pct=0.9, crop_mode="center"),
    Input(size=(3, 96, 64), mean=HALF, std=HALF, interpolation="bicubic", crop_pct=1.0, crop_mode="squash"),
    Input(size=(3, 64, 64), mean=HALF, std=HALF, interpolation="bicubic", crop_pct=1.0, crop_mode="border"),
]
# How a camera that was held so stores an upright picture: the inverse of what the tag asks for.
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def stored(image: Image.Image, tag: int, kind: str = "PNG") -> bytes:
    """The upright picture as it is stored with a tag."""
    exif = Image.Exif()
    exif[0x0112] = tag
    target = io.BytesIO()
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    (image.transpose(STORED[tag]) if tag in STORED else image).save(target, kind, exif=exif, **options)
    return target.getvalue()


def decoder(
    settings: Input = INPUTS[0],
    mode: Mode = "exact",
    wanted: Orientation = "apply",
) -> Decoder:
    return Decoder(settings, 50_000_000, mode, wanted)


@pytest.fixture(scope="module")
def cat() -> Image.Image:
    return Image.open(CAT).convert("RGB")


@pytest.fixture(scope="module")
def album(cat: Image.Image) -> dict[int, bytes]:
    """The cat in every way to store it, without a loss."""
    return {tag: stored(cat, tag) for tag in (1, *STORED)}


@pytest.mark.parametrize("settings", INPUTS, ids=lambda one: f"{one.crop_mode}-{one.size[1]}x{one.size[2]}")
@pytest.mark.parametrize("mode", MODES)
def test_every_way_to_store_a_picture_gives_the_upright_one(
    album: dict[int, bytes], settings: Input, mode: Mode
) -> None:
    decode = decoder(settings, mode).decode
    upright = decode(album[1])
    assert (upright.orientation, upright.orientation_applied) == (1, False)
    for tag in STORED:
        image = decode(album[tag])
        assert (image.orientation, image.orientation_applied) == (tag, True)
        assert image.pixels.shape == (*settings.size[1:], 3)
        # A resize first along the other axis rounds otherwise, and no more.
        difference = np.abs(image.pixels.astype(int) - upright.pixels)
        assert difference.max() <= 2, tag
        assert difference.mean() < 0.3, tag


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("mode", MODES)
def test_every_format_with_a_tag_is_turned_and_a_large_one_too(cat: Image.Image, kind: str, mode: Mode) -> None:
    # Large enough to be decoded at half of its size.
    image = cat.resize((cat.width * 2, cat.height * 2), Image.Resampling.BICUBIC) if kind == "JPEG" else cat
    decode = decoder(mode=mode).decode
    upright, turned = decode(stored(image, 1, kind)), decode(stored(image, 6, kind))
    assert (turned.width, turned.height) == (upright.height, upright.width)
    assert np.abs(turned.pixels.astype(int) - upright.pixels).mean() < 2


def test_a_tag_behind_the_pixels_of_a_png_counts(cat: Image.Image) -> None:
    content = stored(cat, 6)
    start = content.index(b"eXIf") - 4
    end = start + 12 + struct.unpack(">I", content[start : start + 4])[0]
    late = content[:start] + content[end:-12] + content[start:end] + content[-12:]
    assert late.index(b"eXIf") > late.index(b"IDAT")
    assert np.array_equal(decoder().decode(late).pixels, decoder().decode(content).pixels)


@pytest.mark.parametrize("mode", MODES)
def test_what_a_camera_says_may_go_on_in_the_next_segment(cat: Image.Image, mode: Mode) -> None:
    content = stored(cat, 6, "JPEG")
    start = content.index(b"Exif\0\0") - 4
    end = start + 2 + int.from_bytes(content[start + 2 : start + 4])
    said = content[start + 10 : end]
    apart = segment(0xE1, b"Exif\0\0" + said[:9]) + segment(0xE1, b"Exif\0\0" + said[9:])
    found = decoder(mode=mode).decode(content[:start] + apart + content[end:])
    assert (found.orientation, found.orientation_applied) == (6, True)


@pytest.mark.parametrize("mode", MODES)
def test_a_tag_may_be_ignored_and_a_picture_without_one_is_as_it_was(cat: Image.Image, mode: Mode) -> None:
    content = stored(cat, 6, "JPEG")
    start = content.index(b"\xff\xe1")
    bare = content[:start] + content[start + 2 + int.from_bytes(content[start + 2 : start + 4]) :]
    apply, ignore = decoder(mode=mode), decoder(mode=mode, wanted="ignore")
    ignored = ignore.decode(content)
    assert (ignored.orientation, ignored.orientation_applied) == (6, False)
    expected = ignore.decode(CAT.read_bytes()).pixels
    assert np.array_equal(apply.decode(CAT.read_bytes()).pixels, expected)
    assert np.array_equal(ignored.pixels, apply.decode(bare).pixels)


def exif(order: str, kind: int, value: bytes, count: int = 1, before: int = 0, start: int = 8) -> bytes:
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start)
    entries = b"".join(struct.pack(f"{order}HHI4s", 0x0100, 4, 1, b"") for _ in range(before))
    entries += struct.pack(f"{order}HHI4s", 0x0112, kind, count, value)
    return b"Exif\0\0" + head + struct.pack(f"{order}H", before + 1) + entries


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (exif("<", 3, b"\x06\0"), 6),
        (exif(">", 3, b"\0\x08"), 8),
        (exif(">", 3, b"\0\x08").removeprefix(b"Exif\0\0"), 8),
        (exif("<", 4, b"\x03\0\0\0", before=20), 3),
        (exif(">", 1, b"\x05"), 5),
        (exif("<", 3, b"\0\0"), 1),
        (exif("<", 3, b"\x09\0"), 1),
        (exif("<", 3, b"\x06\0", count=0), 1),
        (exif("<", 2, b"6\0"), 1),
        (exif("<", 3, b"\x06\0")[:-9], 1),
        (exif("<", 3, b"\x06\0", start=0xFFFFFFFF), 1),
        (exif("<", 3, b"\x06\0", start=9000), 1),
        (exif("<", 3, b"\x06\0", before=600), 1),
        (b"Exif\0\0", 1),
        (b"", 1),
        (b"no exif at all", 1),
        ("text", 1),
        (None, 1),
    ],
)
def test_what_is_no_tag_says_nothing(content: object, expected: int) -> None:
    image = Image.new("RGB", (10, 10))
    image.info["exif"] = content
    assert orientation.read(image) == expected


def test_no_directory_whose_entries_may_all_name_the_same_megabytes_is_followed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    followed: list[object] = []
    monkeypatch.setattr(TiffImagePlugin.ImageFileDirectory_v2, "load", lambda *_: followed.append(_))
    target = io.BytesIO()
    Image.new("RGB", (64, 64)).save(target, "JPEG")
    plain = target.getvalue()
    # Without the segment that has the dots per inch, for which Pillow would look into EXIF.
    body = plain[4 + int.from_bytes(plain[4:6]) :]
    for marker, data in ((0xE1, exif("<", 3, b"\x06\0")), (0xE2, b"MPF\0" + exif("<", 3, b"\x06\0")[6:])):
        content = plain[:2] + struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data + body
        assert (decoder().decode(content).orientation, followed) == (6 if marker == 0xE1 else 1, [])


def test_turning_takes_no_second_full_size_copy() -> None:
    grown = fresh(
        "import io, json, resource\n"
        "from PIL import Image\n"
        "from tests.unit.app.images.test_orientation import decoder, stored\n"
        "image = Image.new('RGB', (4000, 3000))\n"
        "contents = [stored(image, tag, 'JPEG') for tag in (1, 6)]\n"
        "used, decoders = [], [decoder(mode=mode) for mode in ('fast', 'exact')]\n"
        "for content in contents:\n"
        "    for one in decoders:\n"
        "        one.decode(content)\n"
        "    used.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
        "print(json.dumps(used[1] - used[0]))\n"
    )
    # A copy of it has 36 MB.
    assert json.loads(grown.stdout) < 15_000

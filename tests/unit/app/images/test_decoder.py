import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from timm.data.transforms_factory import create_transform
from torchvision import transforms

from app.bundle.manifest import Input, Interpolation, make_input
from app.engines.engine import Pixels
from app.engines.torch_engine import TorchEngine
from app.errors import ServiceError
from app.images import decoder
from app.images.decoder import DecodedImage, Decoder, Mode
from app.images.geometry import Window
from app.images.resizing import Picture as Decoded
from app.images.resizing import by_pillow, by_vectors
from app.models.networks import IMAGENET_MEAN, IMAGENET_STD
from tests.unit.app.support import CAT, GOLDEN, chunk, fresh, picture

HALF = (0.5, 0.5, 0.5)
SQUARE = Input(
    size=(3, 64, 64), mean=IMAGENET_MEAN, std=IMAGENET_STD, interpolation="bilinear", crop_pct=1.0, crop_mode="squash"
)
# Pillow resizes it in both modes.
LANCZOS = SQUARE.model_copy(update={"interpolation": "lanczos"})


def decode(content: bytes, settings: Input = SQUARE, max_pixels: int = 1_000_000) -> DecodedImage:
    return Decoder(settings, max_pixels).decode(content)


def normalized(pixels: Pixels, settings: Input) -> torch.Tensor:
    """What the engine feeds its model: an identity model shows it."""
    seen: list[torch.Tensor] = []
    module = torch.nn.Flatten()
    module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    TorchEngine(module, settings, "softmax", "cpu", 1).predict([pixels])
    return seen[0][0]


def header_only_png(width: int, height: int) -> bytes:
    """A PNG that promises many pixels in a few bytes."""

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 4096))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("name", sorted(path.name for path in GOLDEN.glob("*.jpg")))
@pytest.mark.parametrize(
    "settings",
    [
        Input(size=(3, 224, 224), mean=HALF, std=HALF, interpolation="bicubic", crop_pct=0.875, crop_mode="center"),
        Input(
            size=(3, 288, 288),
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            interpolation="bicubic",
            crop_pct=0.95,
            crop_mode="center",
        ),
        Input(size=(3, 224, 192), mean=HALF, std=HALF, interpolation="bilinear", crop_pct=0.9, crop_mode="center"),
        Input(size=(3, 224, 224), mean=HALF, std=HALF, interpolation="lanczos", crop_pct=0.9, crop_mode="squash"),
        Input(size=(3, 224, 224), mean=HALF, std=HALF, interpolation="bicubic", crop_pct=1.0, crop_mode="border"),
        SQUARE,
    ],
    ids=lambda settings: f"{settings.crop_mode}-{settings.interpolation}-{settings.size[1]}x{settings.size[2]}",
)
def test_the_model_gets_what_timms_own_pipeline_makes(settings: Input, name: str) -> None:
    path = GOLDEN / name
    transform = create_transform(
        settings.size,
        is_training=False,
        mean=settings.mean,
        std=settings.std,
        interpolation=settings.interpolation,
        crop_pct=settings.crop_pct,
        crop_mode=settings.crop_mode,
    )
    expected = transform(Image.open(path).convert("RGB"))
    actual = normalized(decode(path.read_bytes(), settings).pixels, settings)
    assert torch.equal(actual, expected)


def test_the_square_setting_is_the_reference_projects_transform() -> None:
    reference = transforms.Compose(
        [transforms.Resize((64, 64)), transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    )
    expected = reference(Image.open(CAT).convert("RGB"))
    assert torch.equal(normalized(decode(CAT.read_bytes()).pixels, SQUARE), expected)


@pytest.mark.parametrize(
    ("content", "kind", "mode"),
    [
        (picture("RGB"), "JPEG", "RGB"),
        (picture("L"), "JPEG", "L"),
        (picture("CMYK"), "JPEG", "CMYK"),
        (picture("P", kind="PNG"), "PNG", "P"),
        (picture("RGBA", kind="PNG"), "PNG", "RGBA"),
        (picture("1", kind="PNG"), "PNG", "1"),
        (picture("RGB", kind="WEBP"), "WEBP", "RGB"),
        (picture("RGB", kind="BMP"), "BMP", "RGB"),
        (picture("P", kind="GIF"), "GIF", "P"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_accepted_formats_and_modes_become_rgb(content: bytes, kind: str, mode: str) -> None:
    image = decode(content)
    assert (image.format, image.mode, image.width, image.height) == (kind, mode, 64, 48)
    assert image.pixels.shape == (64, 64, 3)
    assert image.pixels.dtype == np.uint8
    assert image.pixels.mean() == pytest.approx(127.5, abs=6)


def test_sixteen_bit_grey_is_scaled_and_not_clipped() -> None:
    target = io.BytesIO()
    Image.fromarray(torch.arange(0, 65536, dtype=torch.int32).reshape(256, 256).to(torch.uint16).numpy()).save(
        target, "PNG"
    )
    pixels = decode(target.getvalue()).pixels
    assert pixels.mean() == pytest.approx(127.5, abs=1)
    assert (int(pixels.min()), int(pixels.max())) == (2, 253)


def test_a_color_stays_that_color_through_cmyk_and_palette() -> None:
    for mode, kind in (("CMYK", "JPEG"), ("P", "PNG")):
        target = io.BytesIO()
        Image.new("RGB", (32, 32), (200, 40, 40)).convert(mode).save(target, kind)
        red, green, blue = decode(target.getvalue()).pixels.mean((0, 1)).tolist()
        assert red > 150 > 90 > green
        assert blue < 90


@pytest.mark.parametrize("kind", ["WEBP", "GIF", "PNG"])
def test_an_animation_answers_for_its_first_frame(kind: str) -> None:
    target = io.BytesIO()
    frames = [Image.new("RGB", (32, 32), color) for color in ("white", "black", "black")]
    frames[0].save(target, kind, save_all=True, append_images=frames[1:], duration=50)
    assert decode(target.getvalue()).pixels.min() > 240


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        (b"", "empty_file", "empty"),
        (b"just some text, sent as a picture", "invalid_file_type", "Invalid file type"),
        (b"%PDF-1.7 and so on", "invalid_file_type", "Invalid file type"),
        (CAT.read_bytes()[:9000], "corrupted_image", "corrupted"),
        (CAT.read_bytes()[:40], "corrupted_image", "corrupted"),
        (picture(kind="PNG")[:-30], "corrupted_image", "corrupted"),
        (picture(kind="WEBP")[:-20], "corrupted_image", "corrupted"),
        (picture(size=(1, 1), kind="PNG"), "image_too_small", "too small"),
        (picture(size=(500, 9), kind="PNG"), "image_too_small", "too small"),
        (header_only_png(20_000, 20_000), "image_too_large", "too large"),
        (picture(size=(1001, 1000), kind="PNG"), "image_too_large", "more than 1000000 pixels"),
        (picture(size=(5000, 40), kind="PNG"), "image_too_large", "100 times"),
        (header_only_png(500, 500), "corrupted_image", "corrupted"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_a_usable_image_is_refused_with_its_own_code(content: bytes, code: str, said: str) -> None:
    with pytest.raises(ServiceError) as caught:
        decode(content)
    assert (caught.value.code, caught.value.status) == (code, 400)
    assert said in caught.value.detail


def test_a_phones_jpeg_with_a_second_picture_inside_is_a_jpeg() -> None:
    target = io.BytesIO()
    Image.new("RGB", (64, 48)).save(target, "MPO", save_all=True, append_images=[Image.new("RGB", (16, 12))])
    assert decode(target.getvalue()).format == "JPEG"


MODES: tuple[Mode, ...] = ("fast", "exact")
LARGE = Input(size=(3, 64, 64), mean=HALF, std=HALF, interpolation="bicubic", crop_pct=0.875, crop_mode="center")


def difference(one: DecodedImage, other: DecodedImage) -> NDArray[np.int16]:
    """How much the pixels of two images differ."""
    return np.abs(one.pixels.astype(np.int16) - other.pixels)


def photograph(side: int = 4) -> bytes:
    """The cat, enlarged."""
    target = io.BytesIO()
    image = Image.open(CAT).convert("RGB")
    image.resize((image.width * side, image.height * side), Image.Resampling.BICUBIC).save(target, "JPEG", quality=90)
    return target.getvalue()


def test_fast_decodes_a_large_jpeg_smaller_and_nearly_as_exact_does() -> None:
    content = photograph()
    decoded: list[tuple[int, int]] = []
    fast = Decoder(LARGE, 50_000_000, "fast")
    resize = fast._resize

    def noting(picture: Decoded, sides: tuple[int, int], window: Window) -> Pixels:
        assert isinstance(picture, np.ndarray)
        decoded.append((picture.shape[1], picture.shape[0]))
        return resize(picture, sides, window)

    fast._resize = noting
    small, full = fast.decode(content), decode(content, LARGE, 50_000_000)
    width, height = Image.open(io.BytesIO(content)).size
    assert decoded[0][0] <= width // 4
    # Never below what the resize needs.
    assert min(decoded[0]) >= decoder.FAST_MARGIN * 64
    assert (small.width, small.height) == (full.width, full.height) == (width, height)
    assert difference(small, full).mean() < 2


def test_a_damaged_large_jpeg_is_decoded_smaller_too() -> None:
    content = photograph()
    seen: list[object] = []
    fast = Decoder(LARGE, 50_000_000, "fast")
    resize = fast._resize

    def noting(picture: Decoded, sides: tuple[int, int], window: Window) -> Pixels:
        seen.append(picture.size if isinstance(picture, Image.Image) else None)
        return resize(picture, sides, window)

    fast._resize = noting
    # libjpeg-turbo's own interface refuses what Pillow passes over.
    damaged = fast.decode(content[:-2] + bytes(10) + content[-2:])
    width, height = Image.open(io.BytesIO(content)).size
    assert seen == [(width // 4, height // 4)]
    assert (damaged.width, damaged.height) == (width, height)
    assert difference(damaged, fast.decode(content)).mean() < 2


def mpo() -> bytes:
    """What a phone writes: a JPEG with a second picture inside."""
    target = io.BytesIO()
    first, second = Image.open(CAT).convert("RGB"), Image.new("RGB", (16, 12))
    first.save(target, "MPO", save_all=True, append_images=[second])
    return target.getvalue()


@pytest.mark.parametrize(
    "content",
    [picture("L"), picture("CMYK"), picture(progressive=True), picture(size=(63, 41), subsampling=0), mpo()],
    ids=["gray", "cmyk", "progressive", "odd", "mpo"],
)
def test_fast_takes_every_kind_of_jpeg_as_exact_does(content: bytes) -> None:
    fast, exact = Decoder(LANCZOS, 1_000_000, "fast").decode(content), decode(content, LANCZOS)
    assert np.array_equal(fast.pixels, exact.pixels)
    assert (fast.width, fast.height, fast.format, fast.mode) == (exact.width, exact.height, exact.format, exact.mode)


def test_fast_reads_the_header_of_a_sound_jpeg_without_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    target = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(CAT).convert("RGB").save(target, "JPEG", exif=exif)
    fast, content = Decoder(LANCZOS, 1_000_000, "fast"), target.getvalue()
    exact = decode(content, LANCZOS)

    def refuse(*_: object) -> None:
        raise AssertionError("opened by Pillow")

    monkeypatch.setattr(JpegImageFile, "_open", refuse)
    decoded = fast.decode(content)
    assert (decoded.width, decoded.height, decoded.mode) == (exact.width, exact.height, exact.mode)
    assert (decoded.orientation, decoded.orientation_applied) == (6, True)
    assert np.array_equal(decoded.pixels, exact.pixels)


@pytest.mark.parametrize("mode", MODES)
def test_pixels_that_were_not_reckoned_with_are_not_decoded(mode: Mode) -> None:
    decoder = Decoder(SQUARE, 1_000_000, mode)
    seen = decoder.appraise(CAT.read_bytes())
    with pytest.raises(ServiceError, match="its header contradicts itself"):
        decoder.decode(replace(seen, anatomy=replace(seen.anatomy, width=seen.anatomy.width - 1)))


@pytest.mark.parametrize("damage", [lambda jpeg: jpeg[: len(jpeg) // 2], lambda jpeg: jpeg[:1000] + bytes(len(jpeg))])
def test_fast_judges_a_damaged_jpeg_as_exact_does(damage: Callable[[bytes], bytes]) -> None:
    content = damage(CAT.read_bytes())
    outcomes: list[object] = []
    for mode in MODES:
        try:
            outcomes.append(Decoder(SQUARE, 1_000_000, mode).decode(content).pixels.sum().item())
        except ServiceError as error:
            outcomes.append((error.code, error.detail))
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize(
    "content",
    [picture(size=(120, 100)), picture(size=(900, 900), kind="PNG"), CAT.read_bytes()],
    ids=["small", "png", "photograph"],
)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "hamming"])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_fast_differs_by_rounding_only_for_other_pictures(
    content: bytes, interpolation: Interpolation, crop_mode: str
) -> None:
    settings = make_input(
        {
            "size": (3, 96, 96),
            "mean": HALF,
            "std": HALF,
            "interpolation": interpolation,
            "crop_pct": 0.875,
            "crop_mode": crop_mode,
        }
    )
    fast = Decoder(settings, 50_000_000, "fast").decode(content)
    exact = decode(content, settings, 50_000_000)
    assert fast.pixels.shape == exact.pixels.shape == (96, 96, 3)
    assert difference(fast, exact).max() <= 3
    assert (difference(fast, exact) != 0).mean() < 0.02
    assert abs(fast.pixels.mean() - exact.pixels.mean()) < 0.2


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
# Smaller, with a window, and larger.
@pytest.mark.parametrize(
    ("sides", "window"), [((151, 100), Window(11, 7, 90, 80)), ((900, 600), Window(0, 0, 900, 600))]
)
def test_what_libjpeg_writes_is_resized_as_an_image_is(
    interpolation: Interpolation, sides: tuple[int, int], window: Window
) -> None:
    picture = Image.open(CAT).convert("RGB")
    padded = np.dstack([np.asarray(picture), np.full((picture.height, picture.width), 77, np.uint8)])
    expected = by_pillow(interpolation)(picture, sides, window)
    assert np.array_equal(by_pillow(interpolation)(padded, sides, window), expected)
    of_image, of_bytes = (
        by_vectors(interpolation)(picture, sides, window),
        by_vectors(interpolation)(padded, sides, window),
    )
    assert np.array_equal(of_image, of_bytes)
    assert of_bytes.flags.c_contiguous
    assert of_bytes.flags.owndata
    assert np.abs(expected.astype(np.int16) - of_bytes).max() <= 3


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [(3, 64, 64), (3, 48, 64), (1, 80, 64)])
@pytest.mark.parametrize("crop_pct", [0.8, 1.0, 1.3])
def test_every_picture_lies_where_timm_puts_it(crop_mode: str, size: tuple[int, int, int], crop_pct: float) -> None:
    mean = HALF[: size[0]]
    settings = make_input(
        {
            "size": size,
            "mean": mean,
            "std": mean,
            "interpolation": "bilinear",
            "crop_pct": crop_pct,
            "crop_mode": crop_mode,
        }
    )
    transform = create_transform(
        size,
        is_training=False,
        mean=mean,
        std=mean,
        interpolation="bilinear",
        crop_pct=crop_pct,
        crop_mode=crop_mode,
        normalize=False,
    )
    for sides in ((61, 47), (47, 61), (200, 33), (33, 200), (64, 64), (129, 128)):
        content = picture(size=sides, kind="PNG")
        expected = transform(Image.open(io.BytesIO(content))).permute(1, 2, 0).numpy()
        assert np.array_equal(decode(content, settings).pixels, expected), sides


def test_decoding_needs_no_torch() -> None:
    printed = fresh(
        "import sys\n"
        "from app.bundle.manifest import make_input\n"
        "from app.images.decoder import Decoder\n"
        "from pathlib import Path\n"
        "inputs = make_input({'size': (3, 64, 64), 'mean': (0, 0, 0), 'std': (1, 1, 1), 'interpolation': 'bicubic', "
        "'crop_pct': 0.9, 'crop_mode': 'center'})\n"
        "for mode in ('fast', 'exact'):\n"
        "    assert Decoder(inputs, 10**7, mode).decode(Path('app/data/golden/cat.jpg').read_bytes()).pixels.any()\n"
        "print([name for name in ('torch', 'timm', 'torchvision') if name in sys.modules])"
    ).stdout
    assert printed.strip() == "[]"


def test_memory_of_pictures_is_kept_for_the_next_ones() -> None:
    # In a process that has loaded no model, as a front end is: whoever frees much changes how memory is kept.
    settings = SQUARE.model_copy(update={"size": (3, 224, 224), "interpolation": "bicubic", "crop_mode": "center"})
    code = f"""
import resource, threading
from pathlib import Path
from app.bundle.manifest import Input
from app.images.decoder import Decoder
decoder = Decoder(Input.model_validate_json({settings.model_dump_json()!r}), 1_000_000, "fast")
content = Path({str(CAT)!r}).read_bytes()
faults = lambda: resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
def decode():
    at_once = [decoder.decode(content) for _ in range(16)]
    del at_once
    before = faults()
    for _ in range(20):
        decoder.decode(content)
    print(faults() - before)
thread = threading.Thread(target=decode)
thread.start()
thread.join()
"""
    # A picture of 500x375 is 183 pages.
    assert int(fresh(code).stdout) < 20

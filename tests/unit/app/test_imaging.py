import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from timm.data.transforms_factory import create_transform
from torchvision import transforms

from app import imaging
from app.bundle.manifest import Input, make_input
from app.errors import ServiceError
from app.imaging import DecodedImage, Decoder, Mode
from app.model import IMAGENET_MEAN, IMAGENET_STD
from app.torch_engine import TorchEngine
from tests.unit.app.support import CAT, GOLDEN, chunk, picture

HALF = (0.5, 0.5, 0.5)
SQUARE = Input(
    size=(3, 64, 64), mean=IMAGENET_MEAN, std=IMAGENET_STD, interpolation="bilinear", crop_pct=1.0, crop_mode="squash"
)


def decode(content: bytes, settings: Input = SQUARE, max_pixels: int = 1_000_000) -> DecodedImage:
    return Decoder(settings, max_pixels).decode(content)


def normalised(pixels: torch.Tensor, settings: Input) -> torch.Tensor:
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
    actual = normalised(decode(path.read_bytes(), settings).pixels, settings)
    assert torch.equal(actual, expected)


def test_the_square_setting_is_the_reference_projects_transform() -> None:
    reference = transforms.Compose(
        [transforms.Resize((64, 64)), transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    )
    expected = reference(Image.open(CAT).convert("RGB"))
    assert torch.equal(normalised(decode(CAT.read_bytes()).pixels, SQUARE), expected)


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
    assert image.pixels.shape == (3, 64, 64)
    assert image.pixels.dtype == torch.uint8
    assert image.pixels.float().mean().item() == pytest.approx(127.5, abs=6)


def test_sixteen_bit_grey_is_scaled_and_not_clipped() -> None:
    target = io.BytesIO()
    Image.fromarray(torch.arange(0, 65536, dtype=torch.int32).reshape(256, 256).to(torch.uint16).numpy()).save(
        target, "PNG"
    )
    pixels = decode(target.getvalue()).pixels
    assert pixels.float().mean().item() == pytest.approx(127.5, abs=1)
    assert (int(pixels.min()), int(pixels.max())) == (2, 253)


def test_a_colour_stays_that_colour_through_cmyk_and_palette() -> None:
    for mode, kind in (("CMYK", "JPEG"), ("P", "PNG")):
        target = io.BytesIO()
        Image.new("RGB", (32, 32), (200, 40, 40)).convert(mode).save(target, kind)
        red, green, blue = decode(target.getvalue()).pixels.float().mean((1, 2)).tolist()
        assert red > 150 > 90 > green
        assert blue < 90


@pytest.mark.parametrize("kind", ["WEBP", "GIF", "PNG"])
def test_an_animation_answers_for_its_first_frame(kind: str) -> None:
    target = io.BytesIO()
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("white", "black", "black")]
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
    first = fast._steps[0]

    def noting(picture: Image.Image | torch.Tensor) -> Image.Image | torch.Tensor:
        assert isinstance(picture, torch.Tensor)
        decoded.append((picture.shape[2], picture.shape[1]))
        return first(picture)

    fast._steps = [noting, *fast._steps[1:]]
    small, full = fast.decode(content), decode(content, LARGE, 50_000_000)
    width, height = Image.open(io.BytesIO(content)).size
    assert decoded[0][0] <= width // 4
    # Never below what the resize needs.
    assert min(decoded[0]) >= imaging.FAST_MARGIN * 64
    assert (small.width, small.height) == (full.width, full.height) == (width, height)
    assert (small.pixels.float() - full.pixels.float()).abs().mean() < 2


def test_a_damaged_large_jpeg_is_decoded_smaller_too() -> None:
    content = photograph()
    seen: list[object] = []
    fast = Decoder(LARGE, 50_000_000, "fast")
    first = fast._steps[0]

    def noting(picture: Image.Image | torch.Tensor) -> Image.Image | torch.Tensor:
        seen.append(picture.size if isinstance(picture, Image.Image) else None)
        return first(picture)

    fast._steps = [noting, *fast._steps[1:]]
    # libjpeg-turbo's own interface refuses what Pillow passes over.
    damaged = fast.decode(content[:-2] + bytes(10) + content[-2:])
    width, height = Image.open(io.BytesIO(content)).size
    assert seen == [(width // 4, height // 4)]
    assert (damaged.width, damaged.height) == (width, height)
    assert (damaged.pixels.float() - fast.decode(content).pixels.float()).abs().mean() < 2


def mpo() -> bytes:
    """What a phone writes: a JPEG with a second picture inside."""
    target = io.BytesIO()
    first, second = Image.open(CAT).convert("RGB"), Image.new("RGB", (16, 12))
    first.save(target, "MPO", save_all=True, append_images=[second])
    return target.getvalue()


@pytest.mark.parametrize(
    "content",
    [picture("L"), picture("CMYK"), picture(progressive=True), picture(size=(63, 41), subsampling=0), mpo()],
    ids=["grey", "cmyk", "progressive", "odd", "mpo"],
)
def test_fast_takes_every_kind_of_jpeg_as_exact_does(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    choose(monkeypatch, "pillow")
    fast, exact = Decoder(SQUARE, 1_000_000, "fast").decode(content), decode(content)
    assert torch.equal(fast.pixels, exact.pixels)
    assert (fast.width, fast.height, fast.format, fast.mode) == (exact.width, exact.height, exact.format, exact.mode)


def test_fast_reads_the_header_of_a_sound_jpeg_without_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    choose(monkeypatch, "pillow")
    target = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(CAT).convert("RGB").save(target, "JPEG", exif=exif)
    fast, content = Decoder(SQUARE, 1_000_000, "fast"), target.getvalue()
    exact = decode(content)

    def refuse(*_: object) -> None:
        raise AssertionError("opened by Pillow")

    monkeypatch.setattr(JpegImageFile, "_open", refuse)
    decoded = fast.decode(content)
    assert (decoded.width, decoded.height, decoded.mode) == (exact.width, exact.height, exact.mode)
    assert (decoded.orientation, decoded.orientation_applied) == (6, True)
    assert torch.equal(decoded.pixels, exact.pixels)


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


def choose(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """Whichever resize is faster here: have the measurement prefer this one."""
    seconds = iter([1.0, 2.0] if way == "pillow" else [2.0, 1.0])
    monkeypatch.setattr(imaging, "shortest", lambda _: next(seconds))


@pytest.mark.parametrize(
    "content",
    [picture(size=(120, 100)), picture(size=(900, 900), kind="PNG"), CAT.read_bytes()],
    ids=["small", "png", "photograph"],
)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_fast_differs_by_rounding_only_for_other_pictures(
    content: bytes, interpolation: str, crop_mode: str, monkeypatch: pytest.MonkeyPatch
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
    choose(monkeypatch, "torch")
    fast = Decoder(settings, 50_000_000, "fast").decode(content).pixels
    exact = decode(content, settings, 50_000_000).pixels
    assert fast.shape == exact.shape == (3, 96, 96)
    # How many values torch rounds otherwise depends on the CPU: a tenth of them where it has AVX-512.
    difference = (fast.int() - exact.int()).float()
    assert difference.abs().max() <= 1
    assert difference.mean().abs() < 0.2


def test_fast_keeps_pillow_where_it_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    choose(monkeypatch, "pillow")
    content = picture(size=(120, 100))
    fast = Decoder(SQUARE, 50_000_000, "fast").decode(content)
    assert torch.equal(fast.pixels, decode(content).pixels)

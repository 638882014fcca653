import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from app import precision, serving
from app.bundle.manifest import GOLDEN_PIXELS, Input
from app.engine import Engine, Layout, Ranking
from app.imaging import Decoder
from app.precision import Build, Precision, Wanted, candidates, choose, disagreement
from tests.unit.app.support import CAT, timm_model

HALF = (0.5, 0.5, 0.5)
SETTINGS = Input(size=(3, 32, 32), mean=HALF, std=HALF, interpolation="bicubic", crop_pct=1.0, crop_mode="center")
CONTIGUOUS, CHANNELS_LAST = torch.contiguous_format, torch.channels_last
MODEL = timm_model().requires_grad_(False)
SAMPLES = [torch.full((3, 32, 32), value, dtype=torch.uint8) for value in (0, 120, 250)]


def build(precision: Precision, layout: Layout = "channels_last") -> Engine:
    return Engine(MODEL, SETTINGS, "softmax", "cpu", 2, precision, layout)


def hesitant(slow: Callable[[torch.Tensor], bool]) -> Build:
    """Engines of a model that works longer on what `slow` says so of."""

    def wait(_: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        # Work, not sleep: what is measured is CPU time.
        busy = time.thread_time() + (0.06 if slow(inputs[0]) else 0)
        while time.thread_time() < busy:
            pass

    module = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.Linear(8 * 30 * 30, 4)).eval()
    module.requires_grad_(False).register_forward_pre_hook(wait)
    return lambda precision, layout: Engine(module, SETTINGS, "softmax", "cpu", 2, precision, layout)


@pytest.fixture
def with_bf16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that says it has bf16."""
    (tmp_path / "cpuinfo").write_text("flags : avx2 avx512_bf16")
    monkeypatch.setattr(precision, "_CPUINFO", tmp_path / "cpuinfo")


@pytest.mark.parametrize(("layout", "form"), [("contiguous", CONTIGUOUS), ("channels_last", CHANNELS_LAST)])
def test_a_cpu_computes_in_the_layout_that_it_is_faster_with(layout: Layout, form: torch.memory_format) -> None:
    engine = choose("fp32", "cpu", hesitant(lambda pixels: not pixels.is_contiguous(memory_format=form)), SAMPLES, 0.01)
    assert engine.layout == layout
    assert engine.precision == "fp32"


@pytest.mark.usefixtures("with_bf16")
def test_auto_takes_the_precision_that_is_faster() -> None:
    assert (
        choose("auto", "cpu", hesitant(lambda pixels: pixels.dtype == torch.float32), SAMPLES, 1.0).precision == "bf16"
    )


@pytest.mark.usefixtures("with_bf16")
def test_auto_stays_exact_where_less_precision_is_not_faster(caplog: pytest.LogCaptureFixture) -> None:
    def slow(pixels: torch.Tensor) -> bool:
        return bool(pixels.dtype == torch.bfloat16 or pixels.is_contiguous(memory_format=CHANNELS_LAST))

    engine = choose("auto", "cpu", hesitant(slow), SAMPLES, 1.0)
    assert (engine.precision, engine.layout) == ("fp32", "contiguous")
    assert [record.__dict__["detail"] for record in caplog.records] == ["bf16 is not enough faster here."]


def test_a_model_that_does_not_run_in_a_precision_is_served_in_another(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(pixels: torch.Tensor) -> bool:
        if pixels.dtype != torch.float32:
            raise RuntimeError("not implemented for 'Half'")
        return False

    assert choose("fp16", "cpu", hesitant(refuse), SAMPLES, 1.0).precision == "fp32"
    assert "does not run in fp16: not implemented" in caplog.records[0].__dict__["detail"]


@pytest.mark.parametrize(
    ("wanted", "device", "flags", "expected"),
    [
        ("fp32", "cuda", "", []),
        ("fp16", "cpu", "", ["fp16"]),
        ("auto", "cuda", "", ["fp16", "bf16"]),
        ("auto", "cpu", "flags : avx2 avx512f", []),
        ("auto", "cpu", "flags : avx2 avx512_bf16", ["bf16"]),
        ("auto", "cpu", "flags : amx_bf16 amx_tile", ["bf16"]),
    ],
)
def test_auto_tries_what_the_hardware_has(
    tmp_path: Path, wanted: Wanted, device: str, flags: str, expected: list[Precision]
) -> None:
    (tmp_path / "cpuinfo").write_text(flags)
    assert candidates(wanted, device, tmp_path / "cpuinfo") == expected


def test_a_wanted_precision_is_used_when_the_samples_agree() -> None:
    engine = choose("bf16", "cpu", build, SAMPLES, tolerance=1.0)
    assert engine.precision == "bf16"
    exact = [build("fp32").predict([sample])[0] for sample in SAMPLES]
    assert disagreement(exact, [engine.predict([sample])[0] for sample in SAMPLES]) < 0.05


def test_a_precision_that_changes_answers_is_refused_with_a_line(caplog: pytest.LogCaptureFixture) -> None:
    assert choose("bf16", "cpu", build, SAMPLES, tolerance=0.0).precision == "fp32"
    (record,) = caplog.records
    assert record.__dict__["code"] == "precision_refused"
    assert "golden sample" in record.__dict__["detail"]


def test_disagreement_is_the_largest_change_and_infinite_for_another_best_class() -> None:
    reference = [Ranking([1, 2], [0.6, 0.3])]
    assert disagreement(reference, [Ranking([1, 2], [0.58, 0.33])]) == pytest.approx(0.03)
    assert disagreement(reference, [Ranking([1, 5], [0.6, 0.2])]) == pytest.approx(0.1)
    assert disagreement(reference, [Ranking([2, 1], [0.6, 0.3])]) == float("inf")
    assert disagreement(reference, [Ranking([1, 2], [float("nan"), 0.3])]) == float("inf")


def test_a_start_compares_enough_golden_pictures_and_not_too_many(tmp_path: Path) -> None:
    decoder = Decoder(SETTINGS, GOLDEN_PIXELS)
    for number in range(600):
        (tmp_path / f"{number}.jpg").symlink_to(CAT)
    pictures = sorted(tmp_path.iterdir())
    assert len(serving.samples(pictures, decoder)) == serving.MOST_SAMPLES
    assert len(serving.samples(pictures[:5], decoder)) == 5
    # One alone would let a precision pass that others refuse.
    assert len(serving.samples(pictures[:1], decoder)) == 4

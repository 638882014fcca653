from pathlib import Path

import pytest
import torch

from app.bundle.manifest import Input
from app.engine import Engine, Ranking
from app.precision import Precision, Wanted, candidates, choose, disagreement
from tests.unit.app.support import timm_model

HALF = (0.5, 0.5, 0.5)
SETTINGS = Input(size=(3, 32, 32), mean=HALF, std=HALF, interpolation="bicubic", crop_pct=1.0, crop_mode="center")
SAMPLES = [torch.full((3, 32, 32), value, dtype=torch.uint8) for value in (0, 120, 250)]


def build(precision: Precision) -> Engine:
    return Engine(timm_model(), SETTINGS, "softmax", "cpu", 2, precision)


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

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from app.bundle.manifest import GOLDEN_PIXELS, Input
from app.engines.agreement import Ranking, disagreement
from app.engines.engine import Build, Engine, NotBuiltError, Pixels, Precision, Runtime
from app.engines.selection import Referee, Selection, WantedPrecision, WantedRuntime, Way, ways
from app.errors import BundleError
from app.images.decoder import Decoder
from app.settings import Settings
from app.start import candidates
from tests.unit.app.support import CAT

HALF = (0.5, 0.5, 0.5)
SETTINGS = Input(size=(3, 32, 32), mean=HALF, std=HALF, interpolation="bicubic", crop_pct=1.0, crop_mode="center")
SAMPLES = [np.full((32, 32, 3), value, np.uint8) for value in (0, 120, 250)]
TORCH, TORCH_BF16 = ("torch", "fp32"), ("torch", "bf16")
OPENVINO, OPENVINO_BF16 = ("openvino", "fp32"), ("openvino", "bf16")
EVERY: list[Way] = [("torch", "fp32"), ("torch", "bf16"), ("openvino", "fp32"), ("openvino", "bf16")]


class Known(Engine):
    """An engine that takes and changes what a test says."""

    def __init__(self, way: Way, seconds: float, change: Callable[[int], float]) -> None:
        super().__init__("cpu", 2, way[1])
        self.runtime = way[0]
        self._seconds = seconds
        self._change = change

    def predict(self, images: Sequence[Pixels], *, alone: bool = False) -> list[Ranking]:
        time.sleep(self._seconds)
        share = 0.8 - self._change(len(images))
        return [Ranking([1, 2], [share, 1 - share]) for _ in images]

    def prepare(self, seconds: float) -> None:
        """Nothing is to be prepared."""


def builds(**ways_: tuple[float, float]) -> Build:
    """Engines by name (`torch_fp32`) with the milliseconds of a batch and the change of a probability."""

    def build(runtime: Runtime, precision: Precision) -> Engine:
        known = ways_.get(f"{runtime}_{precision}")
        if known is None:
            raise NotBuiltError("It is not known.\nAt all.")
        return Known((runtime, precision), known[0] / 1000, lambda _: known[1])

    return build


def choose(build: Build, wanted: Sequence[Way] = EVERY, tolerance: float = 0.01) -> Selection:
    return Referee(build, SAMPLES, tolerance, threads=2).choose(wanted)


def taken(selection: Selection) -> Way:
    return selection.engine.runtime, selection.engine.precision


def test_the_fastest_way_that_answers_alike_is_taken_and_all_that_was_tried_is_said() -> None:
    selection = choose(builds(torch_fp32=(40, 0), openvino_fp32=(16, 1e-5), openvino_bf16=(2, 0.005)))
    assert taken(selection) == OPENVINO_BF16
    assert [(trial.engine, trial.precision) for trial in selection.trials] == [TORCH, OPENVINO, OPENVINO_BF16]
    assert [trial.change for trial in selection.trials] == pytest.approx([0, 1e-5, 0.005])
    assert all(0 < trial.seconds < 1 for trial in selection.trials)
    assert selection.reason.startswith("openvino in bf16 takes ")
    assert "torch in fp32" in selection.reason


def test_a_change_is_not_worth_a_little_time() -> None:
    assert taken(choose(builds(torch_fp32=(60, 0), openvino_fp32=(20, 0), openvino_bf16=(17, 0.005)))) == OPENVINO


def test_torch_computes_where_it_is_clearly_faster() -> None:
    assert taken(choose(builds(torch_fp32=(4, 0), openvino_fp32=(20, 0)))) == TORCH
    assert taken(choose(builds(torch_fp32=(48, 0), openvino_fp32=(50, 0)))) == OPENVINO


def test_a_way_that_changes_an_answer_is_refused_with_a_line(caplog: pytest.LogCaptureFixture) -> None:
    selection = choose(
        builds(torch_fp32=(20, 0), openvino_fp32=(2, 0.002), openvino_bf16=(2, 0.02), torch_bf16=(40, 0))
    )
    assert taken(selection) == TORCH
    # However many there are, and without rounding there is no reason for more than the order of operations.
    [line] = [record.__dict__ for record in caplog.records]
    assert line["code"] == "engine_refused"
    assert line["detail"] == (
        "openvino in fp32: a golden sample's answer changes by 0.002, more than 0.001. "
        "openvino in bf16: a golden sample's answer changes by 0.02, more than 0.01."
    )


def test_what_nothing_else_computes_is_left_to_torch_and_said_so(caplog: pytest.LogCaptureFixture) -> None:
    assert taken(choose(builds(torch_fp32=(40, 0), torch_bf16=(4, 0.001)))) == TORCH_BF16
    # One line for one reason.
    assert [record.__dict__["detail"] for record in caplog.records] == [
        "openvino in fp32 and bf16: It is not known.",
    ]


@pytest.mark.parametrize("wanted", [[OPENVINO], [OPENVINO_BF16], [OPENVINO, OPENVINO_BF16], [TORCH_BF16]])
def test_a_refused_way_that_was_asked_for_is_an_error(wanted: list[Way]) -> None:
    with pytest.raises(BundleError) as caught:
        choose(builds(torch_fp32=(2, 0), openvino_fp32=(1, 0.5), torch_bf16=(1, 0.5)), wanted)
    assert caught.value.code == "engine_refused"
    for runtime, precision in wanted:
        assert f"{runtime} in " in caught.value.detail
        assert precision in caught.value.detail


def test_a_way_that_was_asked_for_is_taken_however_slow_it_is() -> None:
    assert taken(choose(builds(torch_fp32=(1, 0), torch_bf16=(20, 0.005)), [("torch", "bf16")])) == TORCH_BF16


def test_the_bundles_own_tolerance_counts() -> None:
    build = builds(torch_fp32=(20, 0), openvino_fp32=(9, 0), openvino_bf16=(1, 0.02))
    assert taken(choose(build, tolerance=0.05)) == OPENVINO_BF16
    assert taken(choose(build, tolerance=0.001)) == OPENVINO


def test_a_way_that_only_answers_one_image_or_only_batches_is_refused() -> None:
    for wrong in (1, 2):

        def build(runtime: Runtime, precision: Precision, wrong: int = wrong) -> Engine:
            off = {wrong: 0.3} if runtime == "openvino" else {}
            return Known((runtime, precision), 0.002, lambda count: off.get(count, 0.0))

        assert taken(choose(build, [("torch", "fp32"), ("openvino", "fp32")])) == TORCH


@pytest.mark.parametrize(
    ("runtime", "precision", "device", "flags", "expected"),
    [
        ("auto", "auto", "cuda", "", [("torch", "fp32"), ("torch", "fp16"), ("torch", "bf16")]),
        ("auto", "fp32", "cpu", "avx512_bf16", [TORCH, OPENVINO]),
        ("auto", "auto", "cpu", "flags : avx2 avx512f", [TORCH, OPENVINO]),
        ("auto", "auto", "cpu", "flags : avx2 avx512_bf16", EVERY),
        ("openvino", "auto", "cpu", "flags : amx_bf16 amx_tile", [OPENVINO, OPENVINO_BF16]),
        ("torch", "bf16", "cpu", "", [TORCH_BF16]),
    ],
)
def test_auto_tries_what_the_hardware_has(
    tmp_path: Path, runtime: WantedRuntime, precision: WantedPrecision, device: str, flags: str, expected: list[Way]
) -> None:
    (tmp_path / "cpuinfo").write_text(flags)
    assert ways(runtime, precision, device, tmp_path / "cpuinfo") == expected


def test_disagreement_is_the_largest_change_and_infinite_for_another_best_class() -> None:
    reference = [Ranking([1, 2], [0.6, 0.3])]
    assert disagreement(reference, [Ranking([1, 2], [0.58, 0.33])]) == pytest.approx(0.03)
    assert disagreement(reference, [Ranking([1, 5], [0.6, 0.2])]) == pytest.approx(0.1)
    # A class that is no longer named may have what it had, where the last one that is named has more.
    assert disagreement(reference, [Ranking([1, 5], [0.6, 0.35])]) == 0
    assert disagreement(reference, [Ranking([2, 1], [0.6, 0.3])]) == float("inf")
    assert disagreement(reference, [Ranking([1, 2], [float("nan"), 0.3])]) == float("inf")
    assert disagreement(reference, [Ranking([1, 5], [0.6, float("nan")])]) == float("inf")
    assert disagreement([*reference, *reference], [*reference, Ranking([1, 2], [0.6, 0.4])]) == pytest.approx(0.1)


def test_a_start_compares_enough_golden_pictures_and_not_too_many(tmp_path: Path) -> None:
    decoder = Decoder(SETTINGS, GOLDEN_PIXELS)
    for number in range(600):
        (tmp_path / f"{number}.jpg").symlink_to(CAT)
    pictures = sorted(tmp_path.iterdir())
    assert len(candidates.samples(pictures, decoder)) == candidates.MOST_SAMPLES
    assert len(candidates.samples(pictures[:5], decoder)) == 5
    # One alone would let a precision pass that others refuse.
    assert len(candidates.samples(pictures[:1], decoder)) == 4


def test_in_an_image_without_openvino_torch_computes_and_says_why(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(candidates, "find_spec", lambda _: None)
    settings = Settings(bundle_path=bundle, device="cpu", precision="fp32", torch_threads=1)
    assert taken(candidates.choose(settings, *candidates.prepare(settings))) == TORCH
    assert [record.__dict__["detail"] for record in caplog.records] == [
        "openvino in fp32: OpenVINO is only in the image for CPUs."
    ]
    asked = settings.model_copy(update={"engine": "openvino"})
    with pytest.raises(BundleError, match="only in the image for CPUs"):
        candidates.choose(asked, *candidates.prepare(asked))

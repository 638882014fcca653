from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from app.bundle.manifest import Input
from app.engines.agreement import disagreement
from app.engines.engine import Engine, Precision, Runtime
from app.engines.graphs import bucket_of, buckets
from app.engines.selection import Referee, ways
from app.engines.torch_engine import TorchEngine
from app.errors import NotRecordedError
from tests.unit.app.gpu import Gpu, on_a_real_one, simulate, tf32
from tests.unit.app.support import CAT, fresh, serve, timm_model, wait_for, with_statistics

HALF = (0.5, 0.5, 0.5)
SETTINGS = Input(size=(3, 64, 64), mean=HALF, std=HALF, interpolation="bicubic", crop_pct=1.0, crop_mode="center")


@pytest.fixture
def gpu() -> Iterator[Gpu]:
    simulated = Gpu()
    with simulate(simulated):
        yield simulated


@pytest.fixture(params=["simulated", on_a_real_one("real")])
def device(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.param == "real":
        yield
    else:
        with simulate(Gpu()):
            yield


def images(count: int) -> list[torch.Tensor]:
    """Pictures as decoders deliver them, the bytes of a pixel side by side."""
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8, generator=generator).permute(2, 0, 1)
        for _ in range(count)
    ]


def decided() -> Any:
    """A convolutional model that tells pictures apart, whatever the precision."""
    model = with_statistics(timm_model("resnet18"))
    model.fc.weight.data *= 20
    return model.requires_grad_(False)


def engine(module: Any, precision: Precision = "fp32", max_batch: int = 6) -> TorchEngine:
    made = TorchEngine(module, SETTINGS, "softmax", "cuda", max_batch, precision)
    made.prepare(0.0)
    return made


def synchronizing() -> Any:
    """A model that looks at a number while it computes, which no recording can; a trace of one image is another."""

    def look(_: Any, __: Any, features: torch.Tensor) -> torch.Tensor:
        return features + len(features) if features.sum().item() > -1e9 else -features

    module = torch.nn.Flatten()
    module.register_forward_hook(look)
    return module


@pytest.mark.parametrize(("largest", "sizes"), [(1, [1]), (8, [1, 2, 4, 8]), (6, [1, 2, 4, 6]), (9, [1, 2, 4, 8, 9])])
def test_every_batch_has_a_bucket_with_room(largest: int, sizes: list[int]) -> None:
    assert buckets(largest) == sizes
    for count in range(1, largest + 1):
        bucket = bucket_of(count, sizes)
        assert bucket >= count
        assert bucket < 2 * count


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.usefixtures("device")
def test_replays_answer_as_the_model_does_whatever_the_batch(precision: Precision) -> None:
    pictures = images(6)
    expected = TorchEngine(decided(), SETTINGS, "softmax", "cpu", 6).predict(pictures)
    replaying = engine(decided(), precision)
    assert replaying.in_flight == 2
    for count in (6, 1, 2, 3, 5, 4):
        change = disagreement(expected[:count], replaying.predict(pictures[:count]))
        assert change < {"fp32": 5e-3, "fp16": 2e-2, "bf16": 0.1}[precision]


@pytest.mark.usefixtures("device")
def test_two_batches_in_flight_get_the_answers_of_their_own() -> None:
    pictures = images(6)
    replaying = engine(decided())
    expected = [replaying.predict([picture])[0] for picture in pictures]
    for _ in range(3):
        first, second = replaying.begin(pictures[:4]), replaying.begin(pictures[4:])
        assert disagreement(expected, [*first(), *second()]) < 5e-3


def test_a_second_batch_is_laid_out_and_sent_up_while_the_first_is_computed(gpu: Gpu) -> None:
    replaying = engine(decided(), max_batch=2)
    gpu.seconds = lambda *_: 0.2
    gpu.events.clear()
    first, second = replaying.begin(images(2)), replaying.begin(images(2))
    assert gpu.events == ["wait", "replay 2", "wait", "replay 2"]
    first(), second()
    assert gpu.events[4:] == ["done", "done"]


def test_all_recordings_share_one_pool_and_the_largest_comes_first(gpu: Gpu) -> None:
    engine(decided())
    assert gpu.recorded == [6, 4, 2, 1]
    assert len(set(map(id, gpu.pools))) == 1
    assert gpu.pools[0] is not None


def test_a_start_replays_every_recording(gpu: Gpu) -> None:
    engine(decided())
    assert {f"replay {count}" for count in (1, 2, 4, 6)} <= set(gpu.events)


def test_what_the_first_runs_took_is_given_back_before_another_engine_is_tried(gpu: Gpu) -> None:
    tried = TorchEngine(decided(), SETTINGS, "softmax", "cuda", 2)
    with tried.as_served():
        assert tried.in_flight == 2
        # A comparison needs the largest batch only.
        assert gpu.recorded == [2]
        assert len(tried.predict(images(1))) == 1
    assert tried.in_flight == 1
    assert gpu.emptied == 1


@pytest.mark.usefixtures("gpu")
def test_a_model_with_batch_norms_is_folded_although_a_gpu_rounds(caplog: pytest.LogCaptureFixture) -> None:
    with tf32() as allowed:
        folded = engine(decided(), max_batch=2)
        assert [record.__dict__["detail"] for record in caplog.records] == []
        assert set(allowed) == {True, False}
        allowed.clear()
        folded.predict(images(2))
    # What serves is as fast as it can be.
    assert set(allowed) == {True}


@pytest.mark.usefixtures("gpu")
def test_a_model_that_synchronizes_is_not_recorded() -> None:
    with pytest.raises(NotRecordedError, match="not permitted when stream is capturing"):
        engine(synchronizing())


def test_no_memory_for_a_recording_is_no_crash_of_its_own(gpu: Gpu) -> None:
    gpu.too_large = 4
    with pytest.raises(NotRecordedError, match="out of memory"):
        engine(decided())
    answers = TorchEngine(decided(), SETTINGS, "softmax", "cuda", 2, record=False)
    answers.prepare(0.0)
    assert answers.in_flight == 1
    assert len(answers.predict(images(2))) == 2


@pytest.mark.parametrize("fast", ["fp16", "bf16"])
def test_a_precision_is_chosen_for_the_time_that_its_replays_take(gpu: Gpu, fast: str) -> None:
    """Launching kernel by kernel takes as long in every precision; what serves are replays."""
    wide = torch.nn.Linear(3 * 64 * 64, 3)
    wide.weight.data = torch.linspace(-1, 1, 3).unsqueeze(1).repeat(1, 3 * 64 * 64)
    module = torch.nn.Sequential(torch.nn.Flatten(), wide).requires_grad_(False)
    timed: list[str] = []

    def build(_: Runtime, precision: Precision) -> Engine:
        timed.append(precision)
        gpu.seconds = lambda _, reduced: 0.01 if reduced and timed[-1] == fast else 0.06
        return TorchEngine(module, SETTINGS, "softmax", "cuda", 2, precision)

    samples = [torch.full((3, 64, 64), value, dtype=torch.uint8) for value in (0, 120, 250)]
    chosen = Referee(build, samples, 0.01, 1).choose(ways("auto", "auto", "cuda"))
    assert chosen.engine.precision == fast
    assert [trial.refused for trial in chosen.trials] == [""] * 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_smaller_recordings_take_next_to_no_memory_of_a_gpu() -> None:
    taken: dict[int, int] = {}
    for largest in (32, 8):
        # Eight and less are part of what thirty-two has.
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved()
        kept = engine(timm_model("resnet50").requires_grad_(False), "fp16", largest)
        torch.cuda.empty_cache()
        taken[largest] = torch.cuda.memory_reserved() - before
        del kept
    assert taken[32] < 4 * taken[8]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_folds_batch_norms_in_fp32_too(caplog: pytest.LogCaptureFixture) -> None:
    engine(decided())
    assert [record.__dict__["detail"] for record in caplog.records] == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_records_no_model_that_synchronizes() -> None:
    # In a process of its own, which it may spoil.
    fresh("""
from app.errors import NotRecordedError
from tests.unit.app.engines.test_graphs import engine, synchronizing
try:
    engine(synchronizing())
except NotRecordedError as error:
    assert "captur" in str(error), error
else:
    raise AssertionError("it was recorded")
""")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_serves_in_what_its_replays_are_fastest_in(bundle: Path, tmp_path: Path) -> None:
    with serve(tmp_path, bundle_path=bundle, device="cuda") as server:
        wait_for(server.ready)
        assert server.post(files={"file": CAT.read_bytes()}).json()["model_info"]["device"] == "cuda"
        about = server.get("/api/v1/model/info").json()
        taken = {each["precision"]: each["image_ms"] for each in about["engines_tried"] if not each["refused"]}
        assert taken[about["precision"]] <= min(taken.values()) / 0.75
        server.terminate()
        assert server.process.wait(30) == 0

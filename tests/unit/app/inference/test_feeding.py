import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from app.bundle.manifest import Input
from app.engines.torch_engine import TorchEngine
from app.errors import ServiceError
from app.images.decoder import DecodedImage
from app.inference.feeding import Feeder
from app.inference.watch import Watch
from app.process.metrics import Metrics
from tests.unit.app.decoded import as_decoded
from tests.unit.app.gpu import Gpu, simulate
from tests.unit.app.support import run, settle, wait_for

SETTINGS = Input(
    size=(3, 2, 2), mean=(0, 0, 0), std=(1, 1, 1), interpolation="nearest", crop_pct=1.0, crop_mode="center"
)
CLASSES = 12


def image(number: int) -> DecodedImage:
    """An image whose best class is its number."""
    return as_decoded(torch.full((2, 2, 3), number, dtype=torch.uint8).permute(2, 0, 1))


class Fed:
    """A feeder of a real engine, whose device computes until the gate is opened."""

    def __init__(self, gpu: Gpu, max_batch: int = 4) -> None:
        nearest = torch.nn.Linear(12, CLASSES)
        centres = torch.arange(CLASSES).float() / 255
        nearest.weight.data = (2 * centres / 12).unsqueeze(1).repeat(1, 12) * 1e6
        nearest.bias.data = -(centres**2) * 1e6
        module = torch.nn.Sequential(torch.nn.Flatten(), nearest).requires_grad_(False)
        self.gpu = gpu
        self.gate = threading.Event()
        self.engine = TorchEngine(module, SETTINGS, "softmax", "cuda", max_batch)
        self.engine.prepare(0.0)
        gpu.gate = self.gate
        gpu.events.clear()
        self.metrics = Metrics(queue_size=64)
        self.lost: list[str] = []

    def feeder(self) -> Feeder:
        return Feeder(self.engine, self.metrics, self.lost.append, Watch(60, self.metrics.overdue.inc))

    @property
    def batches(self) -> list[int]:
        return [int(event.split()[1]) for event in self.gpu.events if event.startswith("replay")]


@pytest.fixture
def gpu() -> Iterator[Gpu]:
    simulated = Gpu()
    with simulate(simulated):
        yield simulated


async def replayed(fed: Fed, count: int) -> None:
    await asyncio.to_thread(wait_for, lambda: len(fed.batches) == count)


def submit(feeder: Feeder, *numbers: int) -> list[Any]:
    return [asyncio.ensure_future(feeder.submit(image(number))) for number in numbers]


def best(results: Any) -> list[int]:
    return [result.ranking.class_ids[0] for result in results]


def test_a_full_batch_goes_behind_the_one_that_is_computed_and_a_smaller_one_grows(gpu: Gpu) -> None:
    fed = Fed(gpu, max_batch=4)

    async def work() -> None:
        feeder = fed.feeder()
        waiting = submit(feeder, 0)
        await replayed(fed, 1)
        waiting += submit(feeder, 1, 2, 3)
        await settle()
        assert fed.batches == [1]
        waiting += submit(feeder, 4, 5)
        await replayed(fed, 2)
        waiting += submit(feeder, 6, 7, 8, 9, 10, 11)
        await settle()
        # Two are on their way already, before any was answered.
        assert fed.batches == [1, 4]
        fed.gate.set()
        assert best(await asyncio.gather(*waiting)) == list(range(12))
        feeder.stop()

    run(work())
    assert sum(fed.batches) >= 12


def test_a_lone_image_leaves_at_once_and_the_oldest_batch_is_known(gpu: Gpu) -> None:
    fed = Fed(gpu)

    async def work() -> None:
        feeder = fed.feeder()
        assert feeder.since() is None
        waiting = submit(feeder, 7)
        await replayed(fed, 1)
        assert feeder.since() is not None
        fed.gate.set()
        assert best(await asyncio.gather(*waiting)) == [7]
        await asyncio.to_thread(wait_for, lambda: feeder.since() is None)
        feeder.stop()

    run(work())


@pytest.mark.parametrize("where", ["replay", "done"])
def test_a_device_that_fails_is_lost_and_its_requests_are_told(gpu: Gpu, where: str) -> None:
    fed = Fed(gpu)
    fed.gate.set()
    gpu.fails = {where: RuntimeError("CUDA error: an illegal memory access was encountered")}

    async def work() -> None:
        feeder = fed.feeder()
        with pytest.raises(ServiceError) as caught:
            await feeder.submit(image(1))
        assert caught.value.code == "device_lost"
        gpu.fails = {}
        assert best([await feeder.submit(image(5))]) == [5]
        feeder.stop()

    run(work())
    assert "illegal memory access" in fed.lost[0]


def test_what_waits_for_a_device_that_does_not_answer_is_told(gpu: Gpu) -> None:
    fed = Fed(gpu, max_batch=1)

    async def work() -> None:
        feeder = fed.feeder()
        waiting = submit(feeder, 1, 2, 3)
        await replayed(fed, 2)
        feeder.abandon(ServiceError("device_lost", "gone"))
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert [getattr(answer, "code", None) for answer in answers] == ["device_lost"] * 3
        fed.gate.set()
        feeder.stop()

    run(work())


def test_stopping_answers_what_waits(gpu: Gpu) -> None:
    fed = Fed(gpu)

    async def work() -> None:
        feeder = fed.feeder()
        waiting = submit(feeder, 1)
        await replayed(fed, 1)
        waiting += submit(feeder, 2, 3)
        await settle()
        feeder.stop()
        with pytest.raises(ServiceError, match="stopping"):
            await feeder.submit(image(4))
        fed.gate.set()
        assert best(await asyncio.gather(*waiting)) == [1, 2, 3]

    run(work())


def test_an_engine_without_recordings_is_fed_one_batch_after_the_other(gpu: Gpu) -> None:
    fed = Fed(gpu)
    fed.engine = TorchEngine(fed.engine._module, SETTINGS, "softmax", "cuda", 4, record=False)

    async def work() -> None:
        feeder = fed.feeder()
        assert best(await asyncio.gather(*submit(feeder, *range(12)))) == list(range(12))
        feeder.stop()

    run(work())
    assert not fed.batches

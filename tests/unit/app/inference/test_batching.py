import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from app.bundle.manifest import Input
from app.engines.agreement import Ranking
from app.engines.torch_engine import TorchEngine
from app.errors import ServiceError
from app.images.decoder import DecodedImage
from app.inference.batching import Batcher, Result
from app.inference.watch import Watch
from app.process.metrics import Metrics
from tests.unit.app.decoded import as_decoded
from tests.unit.app.support import run, settle, wait_for

SETTINGS = Input(
    size=(3, 2, 2), mean=(0, 0, 0), std=(1, 1, 1), interpolation="nearest", crop_pct=1.0, crop_mode="center"
)
CLASSES = 12


def image(number: int) -> DecodedImage:
    """An image whose best class is its number."""
    return as_decoded(torch.full((3, 2, 2), number, dtype=torch.uint8))


class Model:
    """A real engine around a model that answers an image's number, and waits at a gate before each forward."""

    def __init__(self, max_batch: int = 4) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.error: Exception | None = None
        nearest = torch.nn.Linear(12, CLASSES)
        centers = torch.arange(CLASSES).float() / 255
        # The class whose number is nearest: -(x - c)^2 up to a constant, scaled so that neighbors differ.
        nearest.weight.data = (2 * centers / 12).unsqueeze(1).repeat(1, 12) * 1e6
        nearest.bias.data = -(centers**2) * 1e6
        module = torch.nn.Sequential(torch.nn.Flatten(), nearest)
        module.register_forward_pre_hook(self._wait)
        self.metrics = Metrics(queue_size=64)
        self.lost: list[str] = []
        self.engine = TorchEngine(module, SETTINGS, "softmax", "cpu", max_batch)

    def _wait(self, _: Any, inputs: tuple[torch.Tensor]) -> None:
        self.batches.append([round(float(row.mean()) * 255) for row in inputs[0]])
        self.entered.set()
        assert self.gate.wait(20)
        if self.error:
            raise self.error

    def batcher(self, workers: int = 1) -> Batcher:
        return Batcher(self.engine, self.metrics, self.lost.append, Watch(60, self.metrics.overdue.inc), workers)

    @property
    def depth(self) -> float:
        value = self.metrics.registry.get_sample_value("inference_queue_depth")
        assert value is not None
        return value


async def entered(model: Model) -> None:
    await asyncio.to_thread(model.entered.wait, 20)


def best(result: Result) -> int:
    return result.ranking.class_ids[0]


def test_images_that_wait_share_the_next_batches_and_each_gets_its_own_answer() -> None:
    model = Model(max_batch=4)

    async def work() -> None:
        batcher = model.batcher()
        first = asyncio.ensure_future(batcher.submit(image(0)))
        await entered(model)
        others = [asyncio.ensure_future(batcher.submit(image(number))) for number in range(1, 8)]
        await settle()
        assert model.depth == 7
        model.gate.set()
        assert [best(result) for result in await asyncio.gather(first, *others)] == list(range(8))
        assert model.depth == 0
        batcher.stop()

    run(work())
    assert model.batches == [[0], [1, 2, 3, 4], [5, 6, 7]]


def test_a_cancelled_request_leaves_the_queue() -> None:
    model = Model()

    async def work() -> None:
        batcher = model.batcher()
        first = asyncio.ensure_future(batcher.submit(image(0)))
        await entered(model)
        gone, kept = (asyncio.ensure_future(batcher.submit(image(number))) for number in (1, 2))
        await settle()
        gone.cancel()
        await settle()
        assert model.depth == 1
        model.gate.set()
        assert [best(await first), best(await kept)] == [0, 2]
        assert gone.cancelled()
        batcher.stop()

    run(work())
    assert model.batches == [[0], [2]]


def test_a_request_cancelled_during_its_forward_disturbs_nobody() -> None:
    model = Model()

    async def work() -> None:
        batcher = model.batcher()
        first = asyncio.ensure_future(batcher.submit(image(3)))
        await entered(model)
        first.cancel()
        await settle()
        model.gate.set()
        assert best(await batcher.submit(image(4))) == 4
        batcher.stop()

    run(work())


def test_a_failing_batch_fails_its_requests_and_the_next_batch_works() -> None:
    model = Model()
    model.gate.set()
    model.error = ValueError("defect")

    async def work() -> None:
        batcher = model.batcher()
        with pytest.raises(ValueError, match="defect"):
            await batcher.submit(image(1))
        model.error = None
        assert best(await batcher.submit(image(5))) == 5
        batcher.stop()

    run(work())
    assert not model.lost


def test_a_lost_device_is_reported_and_its_requests_are_told() -> None:
    model = Model()
    model.gate.set()
    model.error = RuntimeError("CUDA error: device-side assert triggered")

    async def work() -> None:
        batcher = model.batcher()
        with pytest.raises(ServiceError) as caught:
            await batcher.submit(image(1))
        assert (caught.value.code, caught.value.status) == ("device_lost", 503)
        batcher.stop()

    run(work())
    assert "device-side assert" in model.lost[0]


def test_the_thread_of_the_model_decodes_its_images() -> None:
    model = Model()
    model.gate.set()
    decoded_by: list[str] = []
    six = image(6)

    def decode() -> DecodedImage:
        decoded_by.append(threading.current_thread().name)
        return six

    async def work() -> None:
        batcher = model.batcher()
        result = await batcher.submit(decode)
        assert best(result) == 6
        # What is known of the picture comes with the answer.
        assert result.image is six
        batcher.stop()

    run(work())
    assert decoded_by == ["model-0"]


def test_images_that_come_while_one_is_decoded_share_its_forward() -> None:
    model = Model(max_batch=3)
    model.gate.set()
    decoding, go_on = threading.Event(), threading.Event()

    def slowly() -> DecodedImage:
        decoding.set()
        assert go_on.wait(20)
        return image(0)

    async def work() -> None:
        batcher = model.batcher()
        first = asyncio.ensure_future(batcher.submit(slowly))
        await asyncio.to_thread(decoding.wait, 20)
        others = [asyncio.ensure_future(batcher.submit(image(number))) for number in range(1, 5)]
        await settle()
        go_on.set()
        assert [best(result) for result in await asyncio.gather(first, *others)] == list(range(5))
        assert model.depth == 0
        batcher.stop()

    run(work())
    assert model.batches == [[0, 1, 2], [3, 4]]


def test_an_image_that_cannot_be_decoded_fails_alone() -> None:
    model = Model()

    def refuse() -> DecodedImage:
        raise ServiceError("corrupted_image", "cut off")

    async def work() -> None:
        batcher = model.batcher()
        first = asyncio.ensure_future(batcher.submit(image(0)))
        await entered(model)
        sources = (lambda: image(1), refuse, lambda: image(2))
        others = [asyncio.ensure_future(batcher.submit(source)) for source in sources]
        await settle()
        model.gate.set()
        await first
        good, bad, also_good = await asyncio.gather(*others, return_exceptions=True)
        assert isinstance(bad, ServiceError)
        assert bad.code == "corrupted_image"
        assert [best(result) for result in (good, also_good) if isinstance(result, Result)] == [1, 2]
        batcher.stop()

    run(work())
    assert model.batches == [[0], [1, 2]]


def test_a_batch_of_which_nothing_can_be_decoded_reaches_no_forward() -> None:
    model = Model()
    model.gate.set()

    def refuse() -> DecodedImage:
        raise ServiceError("corrupted_image", "cut off")

    async def work() -> None:
        batcher = model.batcher()
        with pytest.raises(ServiceError, match="cut off"):
            await batcher.submit(refuse)
        assert best(await batcher.submit(image(4))) == 4
        batcher.stop()

    run(work())
    assert model.batches == [[4]]


def test_stopping_answers_what_waits_and_refuses_what_comes() -> None:
    model = Model()

    async def work() -> None:
        batcher = model.batcher()
        first = asyncio.ensure_future(batcher.submit(image(1)))
        await entered(model)
        second = asyncio.ensure_future(batcher.submit(image(2)))
        await settle()
        batcher.stop()
        with pytest.raises(ServiceError) as caught:
            await batcher.submit(image(3))
        assert caught.value.code == "stopping"
        model.gate.set()
        assert [best(await first), best(await second)] == [1, 2]

    run(work())


def test_free_threads_share_what_waits() -> None:
    model = Model(max_batch=4)

    async def work() -> None:
        batcher = model.batcher(workers=2)
        first = [asyncio.ensure_future(batcher.submit(image(number))) for number in (0, 1)]
        await asyncio.to_thread(wait_for, lambda: len(model.batches) == 2)
        others = [asyncio.ensure_future(batcher.submit(image(number))) for number in range(2, 8)]
        await settle()
        model.gate.set()
        assert [best(result) for result in await asyncio.gather(*first, *others)] == list(range(8))
        batcher.stop()

    run(work())
    assert sorted(number for batch in model.batches for number in batch) == list(range(8))
    # Two forwards ran at the same time before the gate opened.
    assert [len(batch) for batch in model.batches[:2]] == [1, 1]
    assert max(len(batch) for batch in model.batches) <= 4


@pytest.mark.parametrize(("together", "alone"), [(1, True), (3, False)])
def test_only_an_image_that_is_alone_gets_every_core(together: int, alone: bool) -> None:
    model = Model(max_batch=1)
    asked: list[bool] = []

    class Asked(TorchEngine):
        def predict(self, images: Sequence[torch.Tensor], *, alone: bool = False) -> list[Ranking]:
            asked.append(alone)
            return super().predict(images, alone=alone)

    model.engine.__class__ = Asked

    async def work() -> None:
        batcher = model.batcher(workers=2)
        waiting = [asyncio.ensure_future(batcher.submit(image(number))) for number in range(together)]
        await asyncio.to_thread(wait_for, lambda: len(asked) == min(together, 2))
        model.gate.set()
        await asyncio.gather(*waiting)
        batcher.stop()

    run(work())
    assert asked[-1 if alone else 1] == alone

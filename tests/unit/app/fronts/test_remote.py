"""A front end's side and the device's, in one process, over a real door."""

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from app.errors import DeviceLostError, ServiceError
from app.fronts import channel
from app.fronts.device import Device
from app.fronts.remote import EngineError, Remote
from app.fronts.remote_engine import RemoteEngine
from app.fronts.slots import Layout, Slots
from app.images.decoder import DecodedImage
from app.inference.batching import Result
from app.process.metrics import Metrics
from tests.unit.app.decoded import as_decoded
from tests.unit.app.sleeping import RANKED, SleepingEngine, answer
from tests.unit.app.support import run, settle

SIDE = 8


def image(shade: int) -> DecodedImage:
    return as_decoded(np.full((SIDE, SIDE, 3), shade, np.uint8))


class House:
    """The process that has the device, as threads, and a door for front ends."""

    def __init__(self, engine: SleepingEngine, slots: int = 16, limit: float = 30) -> None:
        self.engine = engine
        self.layout = Layout(slots, SIDE, SIDE, RANKED)
        inside, self.door = channel.pair()
        about = os.memfd_create("about")
        self.device = Device(engine, self.layout, about, inside, limit)
        self.exit_code: Future[int] = Future()
        threading.Thread(target=lambda: self.exit_code.set_result(self.device.run()), daemon=True).start()

    def front(self, threads: int = 2) -> "Front":
        mine = channel.come_in(self.door)
        offer = channel.wait_for_engine(mine)
        assert isinstance(offer, channel.Offer)
        slots = Slots(offer.memory, self.layout)
        for memory in offer:
            os.close(memory)
        return Front(mine, slots, threads)


class Front:
    def __init__(self, mine: Any, slots: Slots, threads: int) -> None:
        self.channel = mine
        self.slots = slots
        self.metrics = Metrics(256)
        self.lost: list[str] = []
        self.remote = Remote(
            RemoteEngine("torch", "cuda", "fp16", os.getpid(), mine, slots), self.metrics, self.lost.append, threads
        )

    def submit(self, source: DecodedImage | Callable[[], DecodedImage]) -> "asyncio.Task[Result]":
        return asyncio.ensure_future(self.remote.submit(source))

    def value(self, name: str) -> float:
        return self.metrics.registry.get_sample_value(name) or 0.0


@contextlib.contextmanager
def gated(**options: Any) -> Iterator[tuple[House, threading.Event]]:
    """A device that is at the first batch until the gate is opened."""
    engine = SleepingEngine(side=SIDE, first=0, each=0, **{"max_batch": 4, **options})
    engine.gate = threading.Event()
    house = House(engine)
    try:
        yield house, engine.gate
    finally:
        engine.gate.set()
        house.door.close()


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not what():
            await asyncio.sleep(0.005)


def test_every_image_gets_its_own_answer() -> None:
    async def work() -> None:
        house = House(SleepingEngine(max_batch=8, side=SIDE, first=0.001, each=0))
        fronts = [house.front(), house.front()]
        # Many more than there are slots.
        shades = [*range(256), *range(0, 256, 3)]
        tasks = [fronts[number % 2].submit(image(shade)) for number, shade in enumerate(shades)]
        results = await asyncio.gather(*tasks)
        assert [result.ranking for result in results] == [answer(shade) for shade in shades]
        assert max(len(batch) for batch in house.engine.batches) <= 8
        for front in fronts:
            assert front.value("inference_queue_depth") == 0
            assert front.value("inference_queue_wait_seconds_count") == len(shades) / 2
            front.remote.stop()
        # Each batch is counted once, whoever was in it.
        assert sum(front.value("inference_batch_size_images_sum") for front in fronts) == len(shades)
        assert sum(front.value("inference_batch_size_images_count") for front in fronts) == len(house.engine.batches)
        house.door.close()
        assert await asyncio.to_thread(house.exit_code.result, 20) == 0

    run(work())


def test_a_lone_image_leaves_at_once_and_others_share_the_next_batch_in_turn() -> None:
    async def work() -> None:
        with gated(in_flight=1) as (house, gate):
            greedy, modest = house.front(), house.front()
            tasks = [greedy.submit(image(0))]
            await until(lambda: house.engine.batches == [[0]])
            tasks += [greedy.submit(image(shade)) for shade in range(10, 16)]
            await until(lambda: house.device.waiting == 6)
            tasks += [modest.submit(image(shade)) for shade in (20, 21)]
            await until(lambda: house.device.waiting == 8)
            gate.set()
            await asyncio.gather(*tasks)
            first, second, third = ([shade // 10 for shade in batch] for batch in house.engine.batches)
            assert (first, second) == ([0], [1, 2, 1, 2])
            assert third == [1] * 4
            greedy.remote.stop()
            modest.remote.stop()

    run(work())


def test_who_leaves_before_the_device_is_not_computed() -> None:
    async def work() -> None:
        with gated(in_flight=1) as (house, gate):
            front = house.front()
            first = front.submit(image(1))
            await until(lambda: house.engine.batches == [[1]])
            leaving, staying = front.submit(image(2)), front.submit(image(3))
            await until(lambda: house.device.waiting == 2)
            leaving.cancel()
            await settle()
            gate.set()
            assert (await staying).ranking == answer(3)
            assert (await first).ranking == answer(1)
            assert house.engine.batches == [[1], [3]]
            await until(lambda: front.value("inference_queue_depth") == 0)
            front.remote.stop()

    run(work())


def test_a_slot_is_given_to_nobody_while_the_device_has_it() -> None:
    async def work() -> None:
        engine = SleepingEngine(max_batch=4, side=SIDE, first=0, each=0)
        engine.gate = threading.Event()
        house = House(engine, slots=1)
        front = house.front()
        decoded: list[int] = []

        def decode(shade: int) -> DecodedImage:
            decoded.append(shade)
            return image(shade)

        leaving = front.submit(lambda: decode(1))
        await until(lambda: engine.batches == [[1]])
        leaving.cancel()
        staying = front.submit(lambda: decode(2))
        gone = front.submit(lambda: decode(3))
        await settle()
        gone.cancel()
        await asyncio.sleep(0.05)
        # Nor is it decoded: images that wait take no memory.
        assert decoded == [1]
        engine.gate.set()
        assert (await staying).ranking == answer(2)
        assert (await front.submit(lambda: decode(4))).ranking == answer(4)
        assert decoded == [1, 2, 4]
        front.remote.stop()
        house.door.close()

    run(work())


def test_who_leaves_while_it_is_decoded_gives_its_slot_back() -> None:
    async def work() -> None:
        engine = SleepingEngine(max_batch=4, side=SIDE, first=0, each=0)
        house = House(engine, slots=1)
        front = house.front(threads=1)
        begun, go = threading.Event(), threading.Event()

        def decode() -> DecodedImage:
            begun.set()
            assert go.wait(20)
            return image(1)

        leaving = front.submit(decode)
        await asyncio.to_thread(begun.wait, 20)
        leaving.cancel()
        await settle()
        go.set()
        assert (await front.submit(image(2))).ranking == answer(2)
        assert engine.batches == [[2]]
        front.remote.stop()
        house.door.close()

    run(work())


def test_an_image_that_cannot_be_decoded_fails_alone() -> None:
    async def work() -> None:
        house = House(SleepingEngine(side=SIDE, first=0, each=0), slots=2)
        front = house.front()

        def refuse() -> DecodedImage:
            raise ServiceError("corrupted_image", "It is damaged.")

        def wrong() -> DecodedImage:
            return as_decoded(np.zeros((SIDE, SIDE + 1, 3), np.uint8))

        for _ in range(5):
            refused, failed, well = await asyncio.gather(
                front.submit(refuse), front.submit(wrong), front.submit(image(7)), return_exceptions=True
            )
            assert isinstance(refused, ServiceError)
            assert refused.code == "corrupted_image"
            assert isinstance(failed, ValueError)
            assert isinstance(well, Result)
            assert (well.ranking, well.image.mode) == (answer(7), "RGB")
        front.remote.stop()
        house.door.close()

    run(work())


def test_a_model_that_fails_on_a_batch_goes_on_with_the_next() -> None:
    async def work() -> None:
        house = House(SleepingEngine(side=SIDE, first=0, each=0))
        front = house.front()
        house.engine.fails = RuntimeError("expected a scalar")
        with pytest.raises(EngineError, match="RuntimeError: expected a scalar"):
            await front.submit(image(1))
        house.engine.fails = None
        assert (await front.submit(image(2))).ranking == answer(2)
        front.remote.stop()
        house.door.close()

    run(work())


@pytest.mark.parametrize("how", ["fails", "hangs"])
def test_a_lost_device_is_told_to_every_front_end(how: str) -> None:
    async def work() -> None:
        engine = SleepingEngine(side=SIDE, first=0, each=0)
        house = House(engine, slots=2, limit=0.05 if how == "hangs" else 30)
        fronts = [house.front(), house.front()]
        assert (await fronts[0].submit(image(1))).ranking == answer(1)
        if how == "hangs":
            engine.gate = threading.Event()
        else:
            engine.fails = DeviceLostError("The device failed: CUDA error")
        # Some on the device, some in slots, some that wait for one.
        tasks = [front.submit(image(shade)) for shade in range(4) for front in fronts]
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(outcome, ServiceError)
            assert outcome.code == "device_lost"
        detail = "CUDA error" if how == "fails" else "has not answered to a batch for 0.05 s"
        for front in fronts:
            [lost] = front.lost
            assert detail in lost
            with pytest.raises(ServiceError, match="stopped working"):
                await front.submit(image(1))
        assert await asyncio.to_thread(house.exit_code.result, 20) == 70

    run(work())


def test_after_a_stop_what_waits_is_answered_and_nothing_else_is_taken() -> None:
    async def work() -> None:
        with gated() as (house, gate):
            front = house.front()
            waiting = front.submit(image(5))
            await until(lambda: house.engine.batches == [[5]])
            front.remote.stop()
            with pytest.raises(ServiceError, match="stopping"):
                await front.submit(image(6))
            gate.set()
            assert (await waiting).ranking == answer(5)
            await until(lambda: front.channel.fileno() < 0)

    run(work())


def test_a_front_end_learns_that_the_process_of_the_engine_is_gone() -> None:
    inside, door = channel.pair()
    mine = channel.come_in(door)
    # Before the engine was ready, and before it could be told of the front end.
    inside.close()
    with pytest.raises(DeviceLostError, match="has ended"):
        channel.wait_for_engine(mine)
    with pytest.raises(DeviceLostError, match="has ended"):
        channel.come_in(door)

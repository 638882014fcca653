import asyncio
import io

import pytest
from PIL import Image

from app.bundle.manifest import Input
from app.errors import ServiceError
from app.images.decoder import Decoder, Picture
from app.inference.decoding import Decoding
from app.inference.room import Room
from app.inference.watch import Watch
from app.process.metrics import Metrics
from tests.unit.app.support import run

HALF = (0.5, 0.5, 0.5)
SETTINGS = Input(size=(3, 32, 32), mean=HALF, std=HALF, interpolation="bilinear", crop_pct=1.0, crop_mode="center")
DECODER = Decoder(SETTINGS, 10_000)


def picture(cut: int = 0) -> Picture:
    file = io.BytesIO()
    Image.new("RGB", (40, 40), "teal").save(file, "PNG")
    return DECODER.appraise(file.getvalue()[: -cut or None])


def decoded(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("inference_decode_duration_seconds_count")


def test_it_is_watched_and_timed_and_its_room_given_back() -> None:
    async def check() -> None:
        room, metrics = Room(100, places=9), Metrics(1)
        stay = await room.enter(60)
        decode = Decoding(DECODER, picture(), stay, Watch(30, lambda: None), metrics)
        image = await asyncio.to_thread(decode)
        assert image.pixels.shape == (32, 32, 3)
        assert decoded(metrics) == 1
        await asyncio.sleep(0)
        assert room.free == 100

    run(check())


def test_what_nobody_waits_for_any_more_is_not_decoded() -> None:
    async def check() -> None:
        room, metrics = Room(100, places=9), Metrics(1)
        stay = await room.enter(60)
        stay.abandon()
        with pytest.raises(ServiceError, match="Nobody waits") as refused:
            Decoding(DECODER, picture(), stay, Watch(30, lambda: None), metrics)()
        assert refused.value.code == "client_closed_request"
        assert decoded(metrics) == 0

    run(check())


def test_one_that_is_damaged_gives_its_room_back_too() -> None:
    async def check() -> None:
        room, metrics = Room(100, places=9), Metrics(1)
        stay = await room.enter(60)
        with pytest.raises(ServiceError, match="corrupted"):
            await asyncio.to_thread(Decoding(DECODER, picture(cut=30), stay, Watch(30, lambda: None), metrics))
        await asyncio.sleep(0)
        assert (room.free, decoded(metrics)) == (100, 0)

    run(check())

import asyncio

from app.inference.room import Room, Stay
from tests.unit.app.support import run, settle


def test_large_pictures_take_turns_and_small_ones_do_not_wait() -> None:
    async def check() -> None:
        room = Room(100, places=9)
        first, second = await room.enter(60), asyncio.ensure_future(room.enter(60))
        third = asyncio.ensure_future(room.enter(10))
        small = await room.enter(6)
        await settle()
        # In their order: what would fit does not overtake.
        assert not second.done()
        assert not third.done()
        assert small.begin()
        small.end()
        assert first.begin()
        await asyncio.to_thread(first.end)
        await settle()
        assert second.done()
        assert third.done()
        assert room.free == 30

    run(check())


def test_there_are_only_so_many_large_pictures_at_once() -> None:
    async def check() -> None:
        room = Room(100, places=1)
        await room.enter(10)
        second = asyncio.ensure_future(room.enter(10))
        await settle()
        assert not second.done()
        second.cancel()

    run(check())


def test_a_lost_client_gives_its_room_back_unless_a_thread_is_in_it() -> None:
    async def check() -> None:
        room = Room(100, places=9)
        waiting, decoding = await room.enter(50), await room.enter(50)
        behind = asyncio.ensure_future(room.enter(70))
        assert decoding.begin()
        for stay in (waiting, decoding):
            stay.abandon()
            stay.abandon()
        assert room.free == 50
        assert not waiting.begin()
        await settle()
        assert not behind.done()
        decoding.end()
        last: Stay = await behind
        assert room.free == 30
        last.abandon()
        assert room.free == 100

    run(check())


def test_who_leaves_the_queue_lets_the_next_one_in() -> None:
    async def check() -> None:
        room = Room(100, places=9)
        await room.enter(50)
        leaving, next_one = (asyncio.ensure_future(room.enter(size)) for size in (80, 40))
        await settle()
        leaving.cancel()
        await settle()
        assert next_one.done()
        assert room.free == 10

    run(check())

"""What workers share: counted by each, bounded for all."""

import multiprocessing
import os
import socket
from multiprocessing.synchronize import Event

import pytest

from app.errors import ServiceError
from app.http.bodies import FIRST, Bodies
from app.inference.admission import Admission
from app.workers import board as boards
from app.workers.board import Board
from app.workers.handed import LOADED, Handed
from app.workers.worker import Worker
from tests.unit.app.support import fresh


def workers(count: int) -> list[Worker]:
    """So many workers of one service, in this process."""
    memory = boards.create(count)
    made = []
    for number in range(count):
        channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)[0]
        handed = Handed(number, count, channel.fileno(), memory, counters="")
        made.append(Worker(handed, channel, limit=30))
    return made


def test_images_are_bounded_in_all_workers_together() -> None:
    first, second = (Admission(3, 60, 1, part) for part in workers(2))
    with first.admit([0, 0], "10.0.0.1"):
        with second.admit([0], "10.0.0.2"), pytest.raises(ServiceError, match="holds 3 images and takes 3"):
            second.check(client="10.0.0.3")
        # All of it may be one worker's: a share for each would refuse where one process would not.
        with first.admit([0], "10.0.0.2"):
            pass


def test_an_address_that_holds_most_of_the_service_is_known_to_every_worker() -> None:
    first, second = (Admission(8, 60, 1, part) for part in workers(2))
    with first.admit([0] * 4, "10.0.0.1"):
        second.check(client="10.0.0.2")
        with pytest.raises(ServiceError) as refused:
            second.check(client="10.0.0.1")
    assert refused.value.code == "too_many_requests"
    assert "4 of 4 images are of your address" in refused.value.detail
    second.check(client="10.0.0.1")


def test_bodies_are_bounded_in_all_workers_together() -> None:
    parts = workers(2)
    first, second = (Bodies(2 * FIRST, part) for part in parts)
    with first.loan() as loan:
        loan.reserve(FIRST, FIRST)
        with second.loan() as other:
            other.reserve(FIRST, FIRST)
            with first.loan() as third, pytest.raises(ServiceError, match="The uploads in progress hold 0 MiB"):
                third.reserve(1, 1)
        assert (first.held, second.held) == (FIRST, FIRST)
    assert first.held == 0


def test_what_a_worker_held_is_forgotten_when_it_dies_and_what_it_counted_is_not() -> None:
    first, second = workers(2)
    second.hold("10.0.0.1", 5)
    second.hold_bytes(7)
    second.predicted()
    second.tell(3, 1)
    assert (first.images, first.body_bytes, first.in_flight, first.overdue) == (5, 7, 3, 1)
    first._board.clear(1)
    assert (first.images, first.body_bytes, first.in_flight, first.overdue) == (0, 0, 0, 0)
    assert first.held_by("10.0.0.1") == 0
    assert first.predictions == 1


def test_a_worker_with_more_connections_than_its_share_sends_clients_away() -> None:
    first, second = workers(2)
    first.row.ready = second.row.ready = 1
    first.row.connections, second.row.connections = 4, 4
    assert (first.crowded, second.crowded) == (False, False)
    first.row.connections, second.row.connections = 8, 0
    assert (first.crowded, second.crowded) == (True, False)


def test_a_worker_that_says_nothing_any_more_counts_as_one_whose_thread_is_overdue() -> None:
    first, second = workers(2)
    for worker in (first, second):
        worker.row.ready = 1
        worker.tell(0, 0)
    assert (first.overdue, first._board.is_stuck(second.row)) == (0, False)
    second.row.beat -= 31
    assert (first.overdue, first._board.is_stuck(second.row)) == (1, True)


def test_a_worker_takes_requests_once_all_have_their_model() -> None:
    memory = boards.create(2)
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    worker = Worker(Handed(0, 2, theirs.fileno(), memory, counters=""), theirs, limit=30)
    begun: list[str] = []
    worker.when_complete(lambda: begun.append("begun"))
    assert (mine.recv(8), begun) == (LOADED, [])
    worker.complete()
    assert begun == ["begun"]


def _decide(memory: int, decided: Event) -> None:
    with Board(memory, 1).deciding():
        decided.set()
        os.kill(os.getpid(), 9)


def test_a_worker_that_dies_while_it_decides_keeps_nobody_else_from_it() -> None:
    memory = boards.create(1)
    context = multiprocessing.get_context("fork")
    decided = context.Event()
    child = context.Process(target=_decide, args=(memory, decided))
    child.start()
    child.join()
    assert decided.is_set()
    with Board(memory, 1).deciding():
        pass


def test_the_supervisor_needs_neither_a_model_nor_a_runtime() -> None:
    printed = fresh(
        "import sys\n"
        "from app.workers import number, supervisor\n"
        "print([name for name in ('torch', 'openvino', 'fastapi', 'uvicorn') if name in sys.modules])"
    )
    assert printed.stdout.strip() == "[]"

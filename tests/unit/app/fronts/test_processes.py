"""Real processes: front ends under load beside the one that has the device."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.fronts import channel
from tests.unit.app.front_load import CLIENTS, EVERY
from tests.unit.app.support import ROOT


class House:
    """The processes, of which each new front end comes through the same door."""

    def __init__(self) -> None:
        inside, self.door = channel.pair()
        self.all: list[subprocess.Popen[str]] = []
        with inside:
            self.device = self.start("tests.unit.app.sleeping", inside, "--side", "32")

    def start(self, module: str, door: socket.socket, *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", module, str(door.fileno()), *options]
        process = subprocess.Popen(
            command, cwd=ROOT, pass_fds=[door.fileno()], stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.all.append(process)
        return process

    def front(self) -> "Front":
        return Front(self.start("tests.unit.app.front_load", self.door))


class Front:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def goes_on(self) -> None:
        """Wait for so many more right answers that those of before have all been there."""
        assert self.process.stdout
        for _ in range(1 + 4 * CLIENTS // EVERY):
            line = self.process.stdout.readline().strip()
            assert line.isdecimal(), line

    def last_words(self) -> dict[str, int]:
        assert self.process.stdout
        words: dict[str, int] = json.loads(self.process.stdout.read().splitlines()[-1])
        return words


@pytest.fixture
def house() -> Iterator[House]:
    house = House()
    try:
        yield house
    finally:
        for process in house.all:
            process.kill()
            process.wait()
        house.door.close()


def test_a_front_end_that_dies_loses_only_its_own_requests(house: House) -> None:
    dying, other = house.front(), house.front()
    dying.goes_on()
    other.goes_on()
    dying.process.kill()
    # Another one takes its place, and one that stands still hinders nobody.
    replacement = house.front()
    for _ in range(3):
        other.goes_on()
        replacement.goes_on()
    replacement.process.send_signal(signal.SIGSTOP)
    for _ in range(10):
        other.goes_on()
    replacement.process.send_signal(signal.SIGCONT)
    replacement.goes_on()
    assert house.device.poll() is None
    assert other.process.poll() is None
    # Nothing is left of what has ended: the memory of two front ends, and what is known of the model.
    memories = [
        line for line in Path(f"/proc/{house.device.pid}/maps").read_text().splitlines() if "memfd:slots" in line
    ]
    assert len(memories) == 2


def test_a_device_that_is_killed_is_lost_for_every_request(house: House) -> None:
    fronts = [house.front(), house.front()]
    for front in fronts:
        front.goes_on()
    house.device.kill()
    for front in fronts:
        assert front.last_words() == {"device_lost": CLIENTS}
        assert front.process.wait(20) == 0
    # And so it is for one that comes later.
    late = house.start("tests.unit.app.front_load", house.door)
    assert late.wait(20) != 0


def test_the_process_of_the_device_ends_with_the_last_front_end(house: House) -> None:
    front = house.front()
    front.goes_on()
    house.door.close()
    assert house.device.poll() is None
    front.process.kill()
    assert house.device.wait(20) == 0

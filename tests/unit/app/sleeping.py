"""A GPU's engine that only takes a GPU's time: what stands at the device's edge where there is none.

As a program it is the process that has the device, with this engine: `python -m tests.unit.app.sleeping DOOR`.
"""

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from app.bundle.manifest import Input
from app.engines.agreement import Ranking
from app.engines.engine import Engine, Pixels
from app.fronts import channel
from app.fronts.device import Device
from app.fronts.remote_model import About, write
from app.fronts.slots import layout
from app.start.served_model import Facts

RANKED = 5


def answer(shade: int) -> Ranking:
    """What it answers to an image whose first value is this: never the same to two of them."""
    places = range(RANKED)
    return Ranking([(shade + place) % 256 for place in places], [(shade + 1) / 512 / 2**place for place in places])


class SleepingEngine(Engine):
    """Copies each batch into one of two staging sets, sleeps until the device would be done, and tells images apart.

    The device computes one batch after the other. It fails with `fails` once that is set, and waits for `gate` where
    there is one.
    """

    runtime = "torch"

    def __init__(
        self, max_batch: int = 32, side: int = 224, first: float = 0.001, each: float = 0.003 / 32, in_flight: int = 2
    ) -> None:
        super().__init__("cuda", max_batch, "fp16")
        self.in_flight = in_flight
        self.gate: threading.Event | None = None
        self.fails: Exception | None = None
        self.batches: list[list[int]] = []
        self._first, self._each = first, each
        self._staging = np.zeros((in_flight, max_batch, side, side, 3), np.uint8)
        self._begun = 0
        self._free_at = 0.0

    def predict(self, images: Sequence[Pixels], *, alone: bool = False) -> list[Ranking]:
        """Compute a batch, and wait."""
        return self.begin(images)()

    def begin(self, images: Sequence[Pixels]) -> Callable[[], list[Ranking]]:
        """Copy a batch, and have it computed behind the one before."""
        if self.fails:
            raise self.fails
        staged = self._staging[self._begun % self.in_flight, : len(images)]
        self._begun += 1
        np.stack(images, out=staged)
        self._free_at = max(self._free_at, time.monotonic()) + self._first + self._each * len(images)
        done = self._free_at
        shades = staged[:, 0, 0, 0].tolist()
        self.batches.append(shades)

        def answers() -> list[Ranking]:
            if self.gate:
                self.gate.wait()
            if self.fails:
                raise self.fails
            time.sleep(max(0.0, done - time.monotonic()))
            return [answer(shade) for shade in shades]

        return answers

    def prepare(self, seconds: float) -> None:
        """There is nothing to prepare."""


def about(engine: SleepingEngine, side: int = 224) -> About:
    """What front ends get to know of it."""
    facts = Facts(
        settings=Input(
            size=(3, side, side),
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            interpolation="bilinear",
            crop_pct=0.875,
            crop_mode="center",
        ),
        activation="softmax",
        threshold=None,
        name="sleeping",
        architecture="none",
        version="1",
        sha256="0" * 64,
        labels=tuple(f"shade {shade}" for shade in range(256)),
        path=Path("weights"),
        metrics={},
    )
    shape = layout((side, side), RANKED, engine.max_batch, 256)
    return About(facts, "torch", "cuda", "fp16", os.getpid(), "It only sleeps.", (), "none", {"weights": 0.0}, shape)


def main() -> int:
    """Be the process that has the device."""
    parser = argparse.ArgumentParser()
    parser.add_argument("door", type=int)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--first", type=float, default=0.001)
    options = parser.parse_args()
    # As whoever loads a model has it.
    sys.setswitchinterval(0.0005)
    engine = SleepingEngine(side=options.side, first=options.first)
    said = about(engine, options.side)
    return Device(engine, said.layout, write(said), channel.inherited(options.door), 30).run()


if __name__ == "__main__":
    os._exit(main())

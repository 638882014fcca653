"""The limits of this machine, inside the image: the forward alone and the decode alone, on every core."""

import json
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from app import cpus
from app.bundle.manifest import read
from app.engine import Engine
from app.imaging import Decoder, Mode
from bench import engines
from bench.figures import combined

BATCH = 4


def rate(work: Callable[[], int], seconds: float) -> float:
    """Images a second of work done by one thread per core."""
    totals: list[float] = []

    def loop() -> None:
        torch.set_num_threads(1)
        work()
        done, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            done += work()
        totals.append(done / (time.perf_counter() - started))

    threads = [threading.Thread(target=loop) for _ in range(cpus.available())]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(totals)


def _forward(engine: Engine, images: list[torch.Tensor]) -> int:
    return len(engine.predict(images))


def _decode(decoder: Decoder, photo: bytes) -> int:
    return bool(decoder.decode(photo))


def main() -> None:
    """Print the rates of one bundle and one photograph as JSON."""
    bundle, photo, seconds = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes(), float(sys.argv[3])
    settings = read(bundle)[0].input
    result: dict[str, float] = {}
    images = [torch.zeros(settings.size, dtype=torch.uint8)] * BATCH
    # As timm gives it, and as the service would run it on this CPU.
    usual = engines.build(bundle, BATCH)("torch", "fp32")
    ours = engines.as_served(bundle, BATCH).engine
    for name, engine in (("eager", usual), ("served", ours)):
        result[f"forward_{name}"] = rate(partial(_forward, engine, images), seconds)
    modes: tuple[Mode, ...] = ("exact", "fast")
    for mode in modes:
        decoder = Decoder(settings, engines.LARGEST, mode)
        result[f"decode_{mode}"] = rate(partial(_decode, decoder, photo), seconds)
    result["both_usual"] = combined(result["forward_eager"], result["decode_exact"])
    result["both_ours"] = combined(result["forward_served"], result["decode_fast"])
    print(json.dumps(result))


if __name__ == "__main__":
    main()

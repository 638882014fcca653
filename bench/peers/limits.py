"""In a peer's environment: `limits PHOTOGRAPH SECONDS` prints the rates of its forward and of its decode as JSON.

One process for each core, as the peers have them.
"""

import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.peers.common import CPUS, load

BATCH = 4


def _rate(work: Callable[[], int], seconds: float) -> float:
    work()
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        done += work()
    return done / (time.perf_counter() - began)


def _measure(photograph: Path, seconds: float, together: Any, answers: Any) -> None:
    model, content = load(1), photograph.read_bytes()
    batch = [model.prepare(content)] * BATCH
    for name, work in (
        ("forward", lambda: len(model.classify(batch))),
        ("decode", lambda: bool(model.prepare(content).size)),
    ):
        together.wait()
        answers.put((name, _rate(work, seconds)))


def main() -> None:
    """Print the sums over all processes."""
    context = multiprocessing.get_context("spawn")
    together, answers = context.Barrier(CPUS), context.Queue()
    arguments = (Path(sys.argv[1]), float(sys.argv[2]), together, answers)
    processes = [context.Process(target=_measure, args=arguments) for _ in range(CPUS)]
    for process in processes:
        process.start()
    found = {"forward": 0.0, "decode": 0.0}
    for _ in range(2 * CPUS):
        name, rate = answers.get(timeout=120)
        found[name] += rate
    for process in processes:
        process.join()
    print(json.dumps(found))


if __name__ == "__main__":
    main()

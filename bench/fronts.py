"""Front ends beside one process that has the device, against all of it in one process, with a device that only sleeps.

    docker run --rm -v "$PWD:/src:ro" -w /src IMAGE python -m bench.fronts

The image is one of the target `test`. Prints requests a second, the median of what clients wait, and what a request
costs each part in microseconds of a core. The device takes a GPU's time (1 ms a batch and 3 ms more for a full one of
32) and nothing of this machine; clients and service share its cores.
"""

import argparse
import contextlib
import io
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

import app
from app import settings
from app.fronts import channel, engine_process, slots
from app.http import server
from app.process import logs
from app.start.loader import Loader
from app.start.served_model import ServedModel
from app.workers import supervisor
from bench import load
from bench.figures import table
from tests.unit.app import sleeping

PHOTOGRAPH = Path(app.__file__).parent / "data" / "golden" / "cat.jpg"
_DEVICE = "tests.unit.app.sleeping"
_START_SECONDS = 60


class _Ready(Loader):
    """A model that is there at once, whose engine sleeps in this process."""

    def _load(self) -> ServedModel:
        engine = sleeping.SleepingEngine()
        said = sleeping.about(engine)
        served = said.served(self._settings, channel.pair()[0], slots.create(said.layout))
        return replace(served, engine=engine)


@dataclass
class _Server:
    """The service: its first process, its port, its front ends, and the process of the device."""

    process: subprocess.Popen[bytes]
    port: int

    def children(self) -> tuple[list[int], int | None]:
        """The front ends, and the process of the device."""
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        device = [child for child in found if _DEVICE in Path(f"/proc/{child}/cmdline").read_text()]
        fronts = [int(child) for child in found if child not in device]
        return fronts or [self.process.pid], int(device[0]) if device else None


@dataclass
class Cell:
    """What clients got, and the microseconds of a core that each part took for a request."""

    rate: float
    p50_ms: float
    refused: int
    loops: float
    decoders: float
    device: float


@contextlib.contextmanager
def _serve(fronts: int) -> Iterator[_Server]:
    """So many front ends with a process for the device, or with 0 all of it in one process."""
    port = load.free_port()
    environment = {
        "API_BUNDLE_PATH": "bundle",
        "API_DEVICE": "cuda",
        "API_HOST": "127.0.0.1",
        "API_LOG_LEVEL": "error",
        "API_MAX_BATCH": "32",
        "API_PORT": str(port),
        "API_QUEUE_SIZE": "1024",
        "API_QUEUE_SECONDS": "30",
    }
    command = [sys.executable, "-m", "bench.fronts", "--serve", str(fronts)]
    process = subprocess.Popen(command, env={**os.environ, **environment})
    try:
        end = time.monotonic() + _START_SECONDS
        while not load.ready(port):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("the service was not ready in time")
            time.sleep(0.1)
        yield _Server(process, port)
    finally:
        process.terminate()
        process.wait()


def _be_served(fronts: int) -> int:
    """Be the service."""
    configured = settings.load()
    logs.configure(configured.log_level)
    if fronts:
        engine_process.COMMAND = (sys.executable, "-m", _DEVICE)
        return supervisor.run(configured, fronts)
    loader = _Ready(configured)
    loader.begin()
    return server.run(configured, loader)


def _measure(served: _Server, photograph: Path, clients: int, seconds: float) -> Cell:
    before = _spent(served)
    found = load.run(served.port, photograph, clients, seconds, 1)
    answers = found.rate * seconds or 1
    costs = (1e6 * (late - early) / answers for early, late in zip(before, _spent(served), strict=True))
    return Cell(found.rate, found.p50_ms, sum(found.refused.values()), *costs)


def _spent(served: _Server) -> tuple[float, float, float]:
    """Seconds that event loops, other threads beside them, and the process of the device have computed."""
    fronts, device = served.children()
    loops = decoders = 0.0
    for process in fronts:
        tasks = load.cpu_seconds(process)
        loops += tasks.pop(process)
        decoders += sum(tasks.values())
    return loops, decoders, sum(load.cpu_seconds(device).values()) if device else 0.0


def _small(folder: Path) -> Path:
    """A picture that costs next to nothing to decode: what is left is what a request costs."""
    target = io.BytesIO()
    Image.open(PHOTOGRAPH).resize((96, 96)).save(target, "JPEG", quality=80)
    path = folder / "small.jpg"
    path.write_bytes(target.getvalue())
    return path


def _kill(seconds: float) -> list[str]:
    """What 32 clients notice of a front end's death, and then of that of the process that has the device."""
    lines = []
    with _serve(2) as served, ThreadPoolExecutor(1) as pool:
        for what in ("a front end", "the process of the device"):
            asking = pool.submit(load.run, served.port, PHOTOGRAPH, 32, seconds, 1)
            time.sleep(seconds / 2)
            fronts, device = served.children()
            os.kill(fronts[0] if what == "a front end" or device is None else device, signal.SIGKILL)
            found = asking.result()
            lines.append(f"{what} killed under load: {found.rate:.0f} answers/s, others {found.refused}")
        lines.append(f"exit code of the service: {served.process.wait(30)}")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, in rounds that alternate, and print the table; or be the service."""
    parser = argparse.ArgumentParser(prog="python -m bench.fronts", description="Front ends against one process.")
    parser.add_argument("--fronts", default="0,1,2", help="numbers of front ends; 0 is one process with all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--turns", type=int, default=4, help="of each in a round, in which all of them run")
    parser.add_argument("--seconds", type=float, default=2, help="of a turn")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--kill", action="store_true", help="kill either side under load instead")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve is not None:
        return _be_served(options.serve)
    if options.kill:
        print("\n".join(_kill(options.turns * options.seconds)))
        return 0
    compared = [int(number) for number in options.fronts.split(",")]
    cells: dict[tuple[str, int], list[Cell]] = {}
    with tempfile.TemporaryDirectory() as folder:
        photographs = {"500x375": PHOTOGRAPH, "96x96": _small(Path(folder))}
        for _ in range(options.rounds):
            with contextlib.ExitStack() as stack:
                servers = {fronts: stack.enter_context(_serve(fronts)) for fronts in compared}
                for served in servers.values():
                    _measure(served, PHOTOGRAPH, options.clients, 1)
                for (name, photograph), clients in itertools.product(photographs.items(), (options.clients, 1)):
                    # In turn and briefly: what the machine's neighbors do changes within seconds.
                    for _, (fronts, served) in itertools.product(range(options.turns), servers.items()):
                        cell = _measure(served, photograph, clients, options.seconds)
                        cells.setdefault((f"{name}, {clients} clients", fronts), []).append(cell)
    rows = []
    for (what, fronts), found in sorted(cells.items()):
        middle = {name: statistics.median(getattr(cell, name) for cell in found) for name in Cell.__dataclass_fields__}
        costs = [f"{middle[name]:.0f}" for name in ("loops", "decoders", "device")]
        figures = [f"{middle['rate']:.0f}/s", f"{middle['p50_ms']:.2f}", f"{middle['refused']:.0f}", *costs]
        rows.append([what, str(fronts) if fronts else "one process", *figures])
        print(json.dumps([what, fronts, middle]), file=sys.stderr)
    costs = ["µs: event loops", "threads beside them", "process of the device"]
    print(table(["picture", "front ends", "rate", "p50 ms", "refused", *costs], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())

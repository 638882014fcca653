"""The limits of this machine, inside the image: forward, decode and HTTP, each alone on every core.

python -m bench.limits BUNDLE PHOTOGRAPH SECONDS PRECISION
"""

import json
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np

from app.bundle.manifest import read
from app.engines.engine import Engine, Pixels
from app.engines.selection import WantedPrecision
from app.images.decoder import Decoder
from app.process import cpus
from bench import engines
from bench.figures import combined, parse_wrk
from bench.load import cpu_seconds

_CONNECTIONS = 8


def rate(work: Callable[[], int], seconds: float) -> float:
    """Images a second of work done by one thread per core."""
    totals: list[float] = []

    def loop() -> None:
        cpus.keep_to_one()
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


def forward(engine: Engine, images: list[Pixels]) -> int:
    """One batch; how many images that is."""
    return len(engine.predict(images))


def _decode(decoder: Decoder, photo: bytes) -> int:
    return bool(decoder.decode(photo))


def http(photograph: Path, seconds: float) -> tuple[float, float]:
    """Requests a second on every core, by the processor time that one takes: the server's, and the client's."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-m", "bench.http_alone", str(port)])
    try:
        _listening(port)
        before, clients_before = sum(cpu_seconds(server.pid).values()), _children()
        printed = subprocess.run(
            [
                *("wrk", "-t1", f"-c{_CONNECTIONS}", f"-d{seconds:.0f}s", "--latency"),
                *("-s", str(photograph.with_suffix(".form.lua")), f"http://127.0.0.1:{port}/api/v1/predict"),
            ],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        requests = parse_wrk(printed).rate * round(seconds)
        spent = sum(cpu_seconds(server.pid).values()) - before
        share = cpus.available() * requests
        return share / spent, share / (_children() - clients_before)
    finally:
        server.kill()
        server.wait()


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _listening(port: int) -> None:
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit("error: the server that only reads uploads does not listen after 30 s")


def main() -> None:
    """Print the rates of one bundle and one photograph as JSON."""
    bundle, path, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    settings = read(bundle)[0].input
    engine = engines.deployed(bundle, cast(WantedPrecision, sys.argv[4]))
    height, width = settings.size[1:]
    images = [np.zeros((height, width, 3), np.uint8)] * engine.max_batch
    decoder = Decoder(settings, engines.LARGEST, "fast")
    computed = rate(partial(forward, engine, images), seconds)
    decode = rate(partial(_decode, decoder, path.read_bytes()), seconds)
    served, asked = http(path, max(1.0, seconds))
    result = {
        "engine": f"{engine.runtime} {engine.precision}",
        "forward": computed,
        "decode": decode,
        "http": served,
        "clients": asked,
        "both": combined(computed, decode),
        "all": combined(computed, decode, served, asked),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()

"""The engine and the whole service on a GPU; on a CPU it only shows that it works.

    python3 -m bench.gpu            where torch and the service's packages are installed, or in the service's image:
    docker run --rm --device nvidia.com/gpu=0 -v "$PWD/bench:/bench:ro" -e PYTHONPATH=/app:/ IMAGE python -m bench.gpu

Prints a table: the model alone, replayed as one graph, which is the bound, and launched kernel by kernel; the engine
with its uploads; and the service with HTTP and decoding, asked by several processes.
"""

import argparse
import contextlib
import gc
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import timm
import torch

import app
from app.bundle import verify
from app.bundle.__main__ import main as bundle
from app.engines.engine import Precision
from app.engines.torch_engine import TorchEngine, choose_device
from bench import bound, load
from bench.figures import table

PHOTOGRAPH = Path(app.__file__).parent / "data" / "golden" / "cat.jpg"
_START_SECONDS = 180


def make_bundle(folder: Path, architecture: str) -> Path:
    """A bundle with random weights, always the same."""
    torch.manual_seed(0)
    checkpoint = folder / f"{architecture}.pth"
    torch.save(timm.create_model(architecture).state_dict(), checkpoint)
    with contextlib.redirect_stdout(sys.stderr):
        code = bundle(
            [
                *("create", "--checkpoint", str(checkpoint), "--architecture", architecture),
                *("--name", architecture, "--version", "1", "--output", str(folder)),
            ]
        )
    if code:
        raise SystemExit(code)
    return folder / architecture / "1"


def engine_only(folder: Path, precision: Precision, batch: int, seconds: float, device: str) -> float:
    """The engine from pixels in memory to ranked classes in memory."""
    verified = verify.verify(folder)
    manifest = verified.manifest
    engine = TorchEngine(verified.module, manifest.input, manifest.activation, device, batch, precision)
    engine.prepare(0.0)
    images = [torch.randint(0, 256, (3, *manifest.input.size[1:]), dtype=torch.uint8) for _ in range(batch)]
    on_their_way = deque(engine.begin(images) for _ in range(engine.in_flight - 1))

    def work() -> None:
        on_their_way.append(engine.begin(images))
        on_their_way.popleft()()

    return bound.rate(work, batch, seconds, device)


@contextlib.contextmanager
def service(
    folder: Path, precision: Precision, batch: int, device: str
) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """The service on a free port, which it yields with its process once it is ready."""
    port = load.free_port()
    settings = {
        "API_BUNDLE_PATH": str(folder),
        "API_DEVICE": device,
        # What serves on a GPU, and what the table compares.
        "API_ENGINE": "torch",
        "API_HOST": "127.0.0.1",
        "API_LOG_LEVEL": "warning",
        "API_MAX_BATCH": str(batch),
        "API_PORT": str(port),
        "API_PRECISION": precision,
        "API_QUEUE_SIZE": "1024",
        "API_QUEUE_SECONDS": "30",
    }
    process = subprocess.Popen([sys.executable, "-m", "app"], env={**os.environ, **settings}, stdout=sys.stderr)
    try:
        end = time.monotonic() + _START_SECONDS
        while not load.ready(port):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the service with {folder} was not ready within {_START_SECONDS} s; see its log")
            time.sleep(0.1)
        yield port, process
    finally:
        process.kill()
        process.wait()


def main() -> None:
    """Measure every model in every precision and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description="Measure on the GPU of this machine.")
    parser.add_argument("--models", default="resnet50,convnext_base,efficientnet_b3")
    parser.add_argument("--precisions", default="fp16,bf16", help="of " + ", ".join(get_args(Precision)))
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--batches", default="32", help="the whole service is asked with the largest")
    parser.add_argument("--clients", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--processes", type=int, default=4, help="that the clients run in")
    parser.add_argument("--limit", type=float, default=1e9, help="seconds after which nothing more is begun")
    parser.add_argument("--json", type=Path, help="also write every figure to this file")
    options = parser.parse_args()
    device = choose_device(options.device, require_gpu=options.device == "cuda")
    wanted = options.precisions.split(",")
    chosen: list[Precision] = [precision for precision in get_args(Precision) if precision in wanted]
    if len(chosen) != len(wanted):
        parser.error(f"--precisions {options.precisions}: choose of {', '.join(get_args(Precision))}")
    if device == "cpu":
        # Several threads of one forward only wait for each other where others compute, too.
        torch.set_num_threads(1)
    began = time.monotonic()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for model in options.models.split(","):
            path = make_bundle(Path(folder), model)
            for precision, batch in itertools.product(chosen, map(int, options.batches.split(","))):
                if time.monotonic() - began > options.limit:
                    continue
                rows.append({"model": model, "precision": precision, "batch": batch})
                measure(rows[-1], path, device, options)
                if options.json:
                    options.json.write_text(json.dumps(rows, indent=1))
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    print(as_table(rows, torch.cuda.get_device_name() if device == "cuda" else "CPU"))
    sys.exit(any("error" in row for row in rows))


def measure(row: dict[str, Any], path: Path, device: str, options: argparse.Namespace) -> None:
    """Add the figures of a model in a precision at a batch size, or the error that kept one from being taken."""
    cell = (path, row["precision"], row["batch"], options.seconds, device)
    ways: dict[str, Callable[[], object]] = {
        "eager": lambda: bound.eager(*cell),
        "bound": lambda: bound.replayed(*cell),
        "bound_with_benchmark": lambda: bound.replayed(*cell, benchmark=True),
        "engine": lambda: engine_only(*cell),
    }
    if row["batch"] == max(map(int, options.batches.split(","))):
        ways["service"] = lambda: service_under_load(*cell, options)
    for name, way in ways.items():
        try:
            row[name] = way()
        except Exception as error:  # what fails must not keep the rest from being measured
            row["error"] = f"{name}: {type(error).__name__}: {error}"[:500]
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()


def service_under_load(
    path: Path, precision: Precision, batch: int, seconds: float, device: str, options: argparse.Namespace
) -> dict[str, Any]:
    """What clients get of the whole service, which then has to end well."""
    with service(path, precision, batch, device) as (port, process):
        found = load.run(port, PHOTOGRAPH, options.clients, seconds, options.processes, process.pid)
        if not found.rate:
            raise RuntimeError(f"no request was answered with 200: {found.refused}")
        began = time.monotonic()
        process.terminate()
        if code := process.wait(_START_SECONDS):
            raise RuntimeError(f"told to end, the service ended with {code}")
    return {**found.described(), "drained_s": round(time.monotonic() - began, 2)}


def as_table(rows: Sequence[dict[str, Any]], device: str) -> str:
    """The figures, each with its share of the bound."""

    def shown(row: dict[str, Any], rate: float | None, missing: str = "failed") -> str:
        share = f" ({rate / row['bound']:.0%})" if rate and row.get("bound") else ""
        return f"{rate:.1f}/s{share}" if rate else missing

    head = ["model", "precision", "batch", f"bound, {device}", "with cudnn.benchmark", "eager", "engine with uploads"]
    lines = []
    for row in rows:
        served = row.get("service", {})
        missing = "failed" if "error" in row else ""
        rates = [row.get(name) for name in ("bound_with_benchmark", "eager", "engine")]
        alone = f"{row['bound']:.1f}/s" if "bound" in row else "failed"
        costs = f"{served['loop_us']:.0f} + {sum(served['threads_us']):.0f}" if served else ""
        whole = shown(row, served.get("rate"), missing)
        figures = [alone, *(shown(row, rate) for rate in rates), whole, costs]
        lines.append([row["model"], row["precision"], str(row["batch"]), *figures])
    return table([*head, "whole service", "µs of its loop + threads"], lines)


if __name__ == "__main__":
    main()

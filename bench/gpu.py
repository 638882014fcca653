"""The engine and the whole service on a GPU, inside the image; on a CPU it only shows that it works.

    docker run --rm --device nvidia.com/gpu=0 -v "$PWD/bench:/bench:ro" -e PYTHONPATH=/app:/ IMAGE python -m bench.gpu

Prints a table: the model alone on pixels that are already there, the engine with its uploads, and the service with
HTTP and decoding, each as images a second and as a share of the first.
"""

import argparse
import contextlib
import http.client
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import timm
import torch

from app.bundle import verify
from app.bundle.__main__ import main as bundle
from app.engine import Precision
from app.torch_engine import TorchEngine, choose_device
from bench.figures import table

PHOTOGRAPH = Path("/app/app/data/golden/cat.jpg")
TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
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


def rate(work: Callable[[], object], images: int, seconds: float, device: str) -> float:
    """Images a second of repeated work, once it is warm."""
    for _ in range(3):
        work()
    _finish(device)
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        work()
        done += images
    _finish(device)
    return done / (time.perf_counter() - began)


def _finish(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def model_only(folder: Path, precision: Precision, batch: int, seconds: float, device: str) -> float:
    """The model as timm gives it, in channels_last, on pixels that are on the device."""
    verified = verify.verify(folder)
    form = torch.channels_last if device == "cuda" else torch.contiguous_format
    module = verified.module.to(device, TYPES[precision]).to(memory_format=form)
    pixels = torch.rand(batch, *verified.manifest.input.size, device=device).to(TYPES[precision])
    pixels = pixels.contiguous(memory_format=form)
    with torch.inference_mode():
        return rate(lambda: module(pixels), batch, seconds, device)


def engine_only(folder: Path, precision: Precision, batch: int, seconds: float, device: str) -> float:
    """The engine from pixels in memory to ranked classes in memory."""
    verified = verify.verify(folder)
    manifest = verified.manifest
    engine = TorchEngine(verified.module, manifest.input, manifest.activation, device, batch, precision)
    engine.prepare(0.0)
    images = [torch.randint(0, 256, manifest.input.size, dtype=torch.uint8) for _ in range(batch)]
    return rate(lambda: engine.predict(images), batch, seconds, device)


@contextlib.contextmanager
def service(folder: Path, precision: Precision, batch: int, device: str) -> Iterator[int]:
    """The service as its image runs it, on a free port, which it yields once it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    settings = {
        "API_BUNDLE_PATH": str(folder),
        "API_DEVICE": device,
        "API_HOST": "127.0.0.1",
        "API_LOG_LEVEL": "warning",
        "API_MAX_BATCH": str(batch),
        "API_PORT": str(port),
        "API_PRECISION": precision,
    }
    process = subprocess.Popen([sys.executable, "-m", "app"], env={**os.environ, **settings}, stdout=sys.stderr)
    try:
        end = time.monotonic() + _START_SECONDS
        while not _ready(port):
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(
                    f"error: the service with {folder} was not ready within {_START_SECONDS} s; see its log"
                )
            time.sleep(0.1)
        yield port
    finally:
        process.kill()
        process.wait()


def _ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def server_rate(port: int, clients: int, seconds: float) -> float:
    """Photographs a second that are answered with 200; the clients share the machine with the service."""
    body = PHOTOGRAPH.read_bytes()
    counts = [0] * clients
    began = time.perf_counter()

    def ask(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while time.perf_counter() - began < seconds:
            connection.request("POST", "/api/v1/predict", body, {"Content-Type": "image/jpeg"})
            response = connection.getresponse()
            response.read()
            counts[number] += response.status == 200
        connection.close()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - began)


def main() -> None:
    """Measure every model in every precision and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description="Measure on the GPU of this machine.")
    parser.add_argument("--models", default="resnet50,convnext_base,efficientnet_b3")
    parser.add_argument("--precisions", default="fp16,bf16", help="of " + ", ".join(get_args(Precision)))
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--clients", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=5)
    options = parser.parse_args()
    device = choose_device(options.device, require_gpu=options.device == "cuda")
    wanted = options.precisions.split(",")
    chosen: list[Precision] = [precision for precision in get_args(Precision) if precision in wanted]
    if len(chosen) != len(wanted):
        parser.error(f"--precisions {options.precisions}: choose of {', '.join(get_args(Precision))}")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for model in options.models.split(","):
            path = make_bundle(Path(folder), model)
            for precision in chosen:
                alone = model_only(path, precision, options.batch, options.seconds, device)
                engine = engine_only(path, precision, options.batch, options.seconds, device)
                with service(path, precision, options.batch, device) as port:
                    served = server_rate(port, options.clients, options.seconds)
                shares = [f"{figure:.1f}/s ({figure / alone:.0%})" for figure in (engine, served)]
                rows.append([model, precision, f"{alone:.1f}/s", *shares])
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(table(["model", "precision", f"model only, {name}", "engine with uploads", "whole service"], rows))


if __name__ == "__main__":
    main()

"""What the device could do at most: the model alone, on pixels that are there already."""

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from app.bundle import verify
from app.engines import folding
from app.engines.engine import Precision

TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def rate(work: Callable[[], object], images: int, seconds: float, device: str) -> float:
    """Images a second of repeated work, once it is warm."""
    return cost(work, images, seconds, device)[0]


def cost(work: Callable[[], object], images: int, seconds: float, device: str) -> tuple[float, float]:
    """The same, and the microseconds that one image takes of a core."""
    for _ in range(3):
        work()
    finish(device)
    done, began, spent = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - began < seconds:
        work()
        done += images
    finish(device)
    return done / (time.perf_counter() - began), 1e6 * (time.process_time() - spent) / done


def finish(device: str) -> None:
    """Wait until a device has done everything."""
    if device == "cuda":
        torch.cuda.synchronize()


def eager(folder: Path, precision: Precision, batch: int, seconds: float, device: str) -> float:
    """The model as timm gives it, kernel by kernel."""
    module, pixels = _model(folder, precision, batch, device)
    with torch.inference_mode():
        return rate(lambda: module(pixels), batch, seconds, device)


def replayed(
    folder: Path, precision: Precision, batch: int, seconds: float, device: str, *, benchmark: bool = False
) -> float:
    """The model folded and replayed as one graph: the bound. `benchmark` has cuDNN try every algorithm before.

    On a CPU folded only.
    """
    module, pixels = _model(folder, precision, batch, device)
    kept = torch.backends.cudnn.benchmark
    # A trace keeps what was so when it was made.
    torch.backends.cudnn.benchmark = benchmark
    try:
        module = folding.freeze(module, pixels[:1])
        with torch.inference_mode():
            work = _recorded(module, pixels) if device == "cuda" else lambda: module(pixels)
            return rate(work, batch, seconds, device)
    finally:
        torch.backends.cudnn.benchmark = kept


def _recorded(module: nn.Module, pixels: Tensor) -> Callable[[], object]:
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            module(pixels)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        module(pixels)

    def replay() -> None:
        graph.replay()

    return replay


def _model(folder: Path, precision: Precision, batch: int, device: str) -> tuple[nn.Module, Tensor]:
    verified = verify.verify(folder)
    form = torch.channels_last if device == "cuda" else torch.contiguous_format
    module = verified.module.to(device, TYPES[precision]).to(memory_format=form)
    pixels = torch.rand(batch, *verified.manifest.input.size, device=device).to(TYPES[precision])
    return module, pixels.contiguous(memory_format=form)

"""torch and OpenVINO alone: `forward MODEL WAY SECONDS` prints the images a second on every core.

A WAY is torch-eager, torch-frozen or openvino, then a precision: torch-frozen-bf16.
"""

import sys
import threading
import time

import numpy as np
import openvino
import torch

from bench.peers.by_torch import ByTorch
from bench.peers.common import CPUS

BATCH = 4


def by_torch(module: torch.nn.Module, images: torch.Tensor, seconds: float, *, frozen: bool) -> float:
    """A thread for each core, each with the model to itself."""
    if frozen:
        with torch.no_grad():
            module = torch.jit.freeze(torch.jit.trace(module, images, check_trace=False))
    rates: list[float] = []
    together = threading.Barrier(CPUS)

    def work() -> None:
        torch.set_num_threads(1)
        with torch.inference_mode():
            for _ in range(3):
                module(images)
            together.wait()
            done, began = 0, time.perf_counter()
            while time.perf_counter() - began < seconds:
                module(images)
                done += len(images)
            rates.append(done / (time.perf_counter() - began))

    threads = [threading.Thread(target=work) for _ in range(CPUS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(rates)


def by_openvino(module: torch.nn.Module, images: torch.Tensor, seconds: float, precision: str) -> float:
    """As many streams as cores, always busy."""
    converted = openvino.convert_model(module, example_input=images)
    hint = {"fp32": "f32", "bf16": "bf16"}[precision]
    options = {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": CPUS, "INFERENCE_PRECISION_HINT": hint}
    queue = openvino.AsyncInferQueue(openvino.compile_model(converted, "CPU", options), 2 * CPUS)
    batch = np.ascontiguousarray(images.numpy())
    for _ in range(3 * CPUS):
        queue.start_async([batch], share_inputs=True)
    queue.wait_all()
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        queue.start_async([batch], share_inputs=True)
        done += BATCH
    queue.wait_all()
    return done / (time.perf_counter() - began)


def main() -> None:
    """Measure one way."""
    name, (runtime, _, precision), seconds = sys.argv[1], sys.argv[2].rpartition("-"), float(sys.argv[3])
    model = ByTorch(name, 1, precision if runtime != "openvino" else "fp32")
    images = torch.rand(BATCH, *model.size).to(model.type)
    if runtime == "openvino":
        print(by_openvino(model.module, images, seconds, precision))
    else:
        print(by_torch(model.module, images, seconds, frozen=runtime == "torch-frozen"))


if __name__ == "__main__":
    main()

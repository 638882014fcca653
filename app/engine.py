"""The engine: one model on one device, turning a batch of pixels into ranked classes."""

import copy
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from app.bundle.manifest import TOP_K, Activation, Input
from app.errors import DeviceLostError, ServiceError
from app.folding import fold
from app.graphs import GraphRunner
from app.precision import Precision

log = logging.getLogger(__name__)

# Messages of errors after which a CUDA context computes nothing any more.
_FATAL = ("CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS", "cuDNN error", "NCCL error", "CUDA driver error")


class Ranking(NamedTuple):
    """The best classes of one image, best first."""

    class_ids: list[int]
    probabilities: list[float]


def choose_device(wanted: str, require_gpu: bool) -> str:
    """The device to compute on; a ServiceError when a GPU is demanded and none is there."""
    if wanted != "cpu" and torch.cuda.is_available():
        return "cuda"
    if require_gpu or wanted == "cuda":
        reason = "API_DEVICE is cpu" if wanted == "cpu" else "torch sees no CUDA device"
        raise ServiceError(
            "gpu_required",
            f"A GPU is required but {reason}: check nvidia-smi on the host, that the container was given a GPU "
            f"(docker-compose.gpu.yml), and that the image is a CUDA one (its torch is {torch.__version__}, CUDA "
            f"{torch.version.cuda or 'none'}).",
        )
    return "cpu"


_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Engine:
    """Runs a model: on a GPU from one thread, on a CPU from as many as share its cores."""

    def __init__(
        self,
        module: nn.Module,
        settings: Input,
        activation: Activation,
        device: str,
        max_batch: int,
        precision: Precision = "fp32",
        threads: int = 1,
    ) -> None:
        self.device = device
        self.max_batch = max_batch
        self.precision = precision
        self._type = _TYPES[precision]
        if device == "cuda":
            # The GPU image leaves out cuDNN's attention library; torch has its own kernels.
            torch.backends.cuda.enable_cudnn_sdp(False)
        # A copy only where the type changes, so that the fp32 engine beside it keeps its weights.
        self._module = (module if precision == "fp32" else copy.deepcopy(module)).to(device, self._type)
        # GPU convolutions are faster on this layout; on a CPU it depends on the build of torch and is measured.
        self._use_layout(torch.channels_last if device == "cuda" else torch.contiguous_format)
        self._activation = activation
        self._size = settings.size
        self._mean = torch.tensor(settings.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(settings.std, device=device).view(1, 3, 1, 1)
        self._out_of_memory = False
        self._graphs: GraphRunner | None = None
        self._own_threads = threads
        self._lone_threads = threads
        self._threads = threading.local()

    @property
    def channels_last(self) -> bool:
        """Whether pixels and weights lie channel beside channel."""
        return bool(self._layout == torch.channels_last)

    @property
    def folded(self) -> bool:
        """Whether a folded trace is served."""
        return isinstance(self._module, torch.jit.ScriptModule)

    def optimise(self) -> None:
        """Choose the layout, fold the model and, on a GPU, record its batches as graphs.

        What cannot be done is logged and left out.
        """
        if self.device == "cpu":
            self._set_threads(self._own_threads)
            self._choose_layout()
        generator = torch.Generator().manual_seed(0)
        noise = torch.randint(0, 256, (2, *self._size), dtype=torch.uint8, generator=generator)
        with torch.inference_mode():
            example = self._normalise(noise.to(self.device))
        # Tensors made in inference mode cannot be traced.
        self._module = fold(self._module, example.clone())
        if self.device == "cuda":
            self._graphs = GraphRunner.record(self._answer, self._size, self.max_batch)

    def _use_layout(self, layout: torch.memory_format) -> None:
        self._layout = layout
        for weight in self._module.parameters():
            if weight.dim() == 4:
                weight.data = weight.data.contiguous(memory_format=layout)

    def _choose_layout(self) -> None:
        """Measure which layout this model, build of torch and CPU are faster with; they differ several times."""
        blank = [torch.zeros(self._size, dtype=torch.uint8)] * min(2, self.max_batch)
        seconds: dict[torch.memory_format, float] = {}
        for layout in (torch.contiguous_format, torch.channels_last):
            self._use_layout(layout)
            # One thread computes here, and its own CPU time does not depend on what else the machine does.
            seconds[layout] = self._shortest(blank, rounds=2, clock=time.thread_time)
        self._use_layout(min(seconds, key=lambda layout: seconds[layout]))

    def _shortest(self, images: Sequence[Tensor], rounds: int, clock: Callable[[], float] = time.perf_counter) -> float:
        """The shortest time of some forwards after one that warms up; the shortest, as others may use the machine."""
        self.predict(images)
        times: list[float] = []
        for _ in range(rounds):
            started = clock()
            self.predict(images)
            times.append(clock() - started)
        return min(times)

    def warm_up(self) -> None:
        """Run every batch size the engine will often use, so that the first request pays for nothing."""
        blank = torch.zeros(self._size, dtype=torch.uint8)
        for size in sorted({1, self.max_batch}):
            self.predict([blank] * size)

    def choose_threads(self, available: int) -> None:
        """Measure whether a lone image is faster on all threads; the small models are not, nor is a busy machine."""
        blank = [torch.zeros(self._size, dtype=torch.uint8)]
        seconds: dict[int, float] = {}
        for threads in sorted({self._own_threads, available}):
            self._set_threads(threads)
            seconds[threads] = self._shortest(blank, rounds=3)
        self._lone_threads = min(seconds, key=lambda threads: seconds[threads])
        self._set_threads(self._own_threads)

    def use_threads(self, *, alone: bool) -> None:
        """Give the calling thread its own core, or all of them when no other thread computes."""
        if self.device == "cpu":
            self._set_threads(self._lone_threads if alone else self._own_threads)

    def _set_threads(self, threads: int) -> None:
        # The number belongs to the calling thread.
        if getattr(self._threads, "number", 0) != threads:
            torch.set_num_threads(threads)
            self._threads.number = threads

    def predict(self, images: Sequence[Tensor]) -> list[Ranking]:
        """Rank the classes of each image, halving the batch when the device has no memory for it."""
        try:
            rankings = self._forward(images)
        except torch.OutOfMemoryError as error:
            if self._out_of_memory:
                raise DeviceLostError(f"The device ran out of memory twice in a row: {error}") from error
            self._out_of_memory = True
        except RuntimeError as error:
            if any(text in str(error) for text in _FATAL):
                raise DeviceLostError(f"The device failed: {error}") from error
            raise
        else:
            self._out_of_memory = False
            return rankings
        # Outside the handler, so that the failed forward's tensors are no longer referenced by the traceback.
        half = max(1, len(images) // 2)
        self.max_batch = max(1, min(self.max_batch, half))
        log.warning("The device ran out of memory; batches are limited to %d", self.max_batch)
        if self.device == "cuda":
            torch.cuda.empty_cache()
        return [
            ranking for start in range(0, len(images), half) for ranking in self.predict(images[start : start + half])
        ]

    def _forward(self, images: Sequence[Tensor]) -> list[Ranking]:
        with torch.inference_mode():
            if self._graphs:
                values, indices = self._graphs.run(images)
            else:
                values, indices = self._answer(self._collect(images).to(self.device))
            return [Ranking(ids, best) for ids, best in zip(indices.tolist(), values.tolist(), strict=True)]

    def _collect(self, images: Sequence[Tensor]) -> Tensor:
        # Decoders deliver pixels in the order of the picture's bytes; in this layout each image is one plain copy.
        batch = torch.empty((len(images), *images[0].shape), dtype=torch.uint8, memory_format=torch.channels_last)
        for target, image in zip(batch, images, strict=True):
            target.copy_(image)
        return batch

    def _normalise(self, batch: Tensor) -> Tensor:
        # The same arithmetic as torchvision's ToTensor and Normalize, for the whole batch at once.
        pixels = batch.to(torch.float32, memory_format=self._layout)
        return pixels.div_(255).sub_(self._mean).div_(self._std).to(self._type)

    def _answer(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """The best probabilities and their classes; everything on the device, so only they travel back."""
        logits = self._module(self._normalise(batch)).float()
        probabilities = logits.softmax(1) if self._activation == "softmax" else logits.sigmoid()
        values, indices = probabilities.topk(min(TOP_K, probabilities.shape[1]), dim=1)
        return values, indices

"""Engines by torch: the reference on a CPU, and what a GPU computes with."""

import copy
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from app.bundle.manifest import TOP_K, Activation, Input
from app.engines import folding
from app.engines.agreement import Ranking
from app.engines.engine import LARGE_SECONDS, LUMA, Engine, Pixels, Precision
from app.engines.graphs import IN_FLIGHT, GraphRunner, buckets
from app.errors import BundleError, DeviceLostError, GpuRequiredError
from app.process.timing import shortest

log = logging.getLogger(__name__)

# Messages of errors after which a CUDA context computes nothing any more.
_FATAL = (
    *("CUDA error", "CUDA driver error", "CUBLAS_STATUS", "cuFFT error", "NCCL error"),
    *("cuDNN error", "cuDNN Frontend error", "CUDNN_STATUS", "CUDNN_BACKEND"),
    *("captures_underway", "CUDACachingAllocator"),
)
# Messages of libraries that found no memory for what they compute in.
_NO_MEMORY = ("unable to find an engine", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
# What the stand-ins answer that are in the places of libraries in a slim image for GPUs (docker/stand-ins.txt).
_LEFT_OUT = ("CUFFT_NOT_SUPPORTED", "is a stand-in: this image leaves out")
_PAUSE_SECONDS = 0.005
# All threads must save this much, as requests that come meanwhile wait for them.
_WORTH_IT = 0.8
_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# What folding may change, relative to the largest output: the order of float operations, in so many digits. More means
# that the trace is another model.
_FOLDING_TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2, "fp16": 1e-2}


def choose_device(wanted: str, require_gpu: bool) -> str:
    """The device to compute on; a GpuRequiredError when a GPU is demanded and none is there."""
    if wanted != "cpu" and torch.cuda.is_available():
        return "cuda"
    if require_gpu or wanted == "cuda":
        reason = "API_DEVICE is cpu" if wanted == "cpu" else "torch sees no CUDA device"
        raise GpuRequiredError(
            f"A GPU is required but {reason}: check nvidia-smi on the host, that the container was given a GPU "
            f"(docker-compose.gpu.yml), and that the image is a CUDA one (its torch is {torch.__version__}, CUDA "
            f"{torch.version.cuda or 'none'}).",
        )
    return "cpu"


@contextmanager
def _errors_of_the_device() -> Iterator[None]:
    """Tell errors of the device, and a lack of its memory, from those of the model."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        said = str(error)
        if any(text in said for text in _LEFT_OUT):
            raise BundleError(
                "library_left_out",
                f"The model needs a CUDA library that this image leaves out: {said.splitlines()[0]}. Build it with "
                "CUDA_LIBRARIES=whole (inference_image_cuda_libraries).",
            ) from error
        if any(text in said for text in _NO_MEMORY):
            raise torch.OutOfMemoryError(said) from error
        if any(text in said for text in _FATAL):
            raise DeviceLostError(f"The device failed: {error}") from error
        raise


def _copy(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The module with its weights in another type; the module itself keeps its own."""
    changed = folding.without_norms(module)
    # What is not copied but taken from here; by the identity of what it stands for.
    instead: dict[int, object] = {
        id(value): nn.Parameter(changed.pop(name, value).to(dtype), requires_grad=False)
        for name, value in module.named_parameters()
    }
    instead |= {
        id(value): changed.pop(name, value).to(dtype)
        for name, value in module.named_buffers()
        if value.is_floating_point()
    }
    copied = copy.deepcopy(module, instead)
    # Biases of convolutions that had none.
    for name, value in changed.items():
        parent, _, leaf = name.rpartition(".")
        setattr(copied.get_submodule(parent), leaf, nn.Parameter(value.to(dtype), requires_grad=False))
    return copied


def _colors_first(image: Pixels | Tensor) -> Tensor:
    """The pixels as torch has them: three planes, whose numbers stay where they are."""
    return image if isinstance(image, Tensor) else torch.from_numpy(image).permute(2, 0, 1)


class TorchEngine(Engine):
    """Runs the model as timm built it; on a GPU folded, and its batches recorded as graphs."""

    runtime = "torch"

    def __init__(
        self,
        module: nn.Module,
        settings: Input,
        activation: Activation,
        device: str,
        max_batch: int,
        precision: Precision = "fp32",
        ranked: int = TOP_K,
        threads: int = 0,
        record: bool = True,
    ) -> None:
        super().__init__(device, max_batch, precision)
        self._type = _TYPES[precision]
        self._module = (module if precision == "fp32" else _copy(module, self._type)).to(device)
        if device == "cuda":
            # The GPU image leaves out cuDNN's attention library; torch has its own kernels.
            torch.backends.cuda.enable_cudnn_sdp(False)
            for weight in self._module.parameters():
                if weight.dim() == 4:
                    weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        self._activation = activation
        # How many classes an answer has; where a picture may have several, all of them.
        self._ranked = ranked
        # Images always come with three channels.
        self._size = (3, *settings.size[1:])
        self._luma = torch.tensor(LUMA, device=device).view(1, 3, 1, 1) if settings.size[0] == 1 else None
        self._mean = torch.tensor(settings.mean, device=device).view(1, -1, 1, 1)
        self._std = torch.tensor(settings.std, device=device).view(1, -1, 1, 1)
        self._out_of_memory = False
        self._record = record and device == "cuda"
        self._folded = False
        self._graphs: GraphRunner | None = None
        # 0: as many as the calling thread has.
        self._threads = threads
        self._lone_threads = threads
        self._set = threading.local()

    @contextmanager
    def as_served(self) -> Iterator[None]:
        """On a GPU folded and recorded, in the largest batch; its memory is free for another engine's afterwards."""
        self._engage([self.max_batch])
        yield
        self._graphs = None
        self.in_flight = 1
        self._trim()

    def _engage(self, sizes: Sequence[int]) -> None:
        if self.device == "cuda" and not self._folded:
            self._fold()
            self._folded = True
        if self._record and not self._graphs:
            self._graphs = GraphRunner.record(self._answer, self._size, sizes)
            self.in_flight = IN_FLIGHT

    def _trim(self) -> None:
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def prepare(self, seconds: float) -> None:
        """Replay every recorded batch once on a GPU; on a CPU find out whether a lone image gets all threads.

        For a small model their meeting costs more than it saves, which is measured.
        """
        blank = torch.zeros(self._size, dtype=torch.uint8)
        self._engage(buckets(self.max_batch))
        for count in self._graphs.sizes if self._graphs else ():
            self.predict([blank] * count)
        self.predict([blank] * self.max_batch)
        if self._threads <= 1 or seconds > LARGE_SECONDS:
            self.predict([blank], alone=True)
            return

        # Between two requests the other threads fall asleep; waking them is part of what they cost.
        def after_a_pause() -> None:
            time.sleep(_PAUSE_SECONDS)
            self.predict([blank], alone=True)

        lone: dict[int, float] = {}
        for number in (1, self._threads):
            self._lone_threads = number
            lone[number] = shortest(after_a_pause) - _PAUSE_SECONDS
        self._lone_threads = self._threads if lone[self._threads] < _WORTH_IT * lone[1] else 1

    def _fold(self) -> None:
        """Serve the frozen trace where it answers as the module does."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (2, *self._size), dtype=torch.uint8, generator=generator)
        try:
            # TF32's own rounding is far above what folding may change.
            with folding.without_tf32():
                with torch.inference_mode():
                    pixels = self._normalize(images.to(self.device))
                    expected = self._module(pixels).float()
                exact = folding.freeze(self._module, pixels[:1])
                folding.check(exact, pixels, expected, _FOLDING_TOLERANCE[self.precision])
            # A trace keeps whether TF32 was allowed when it was made.
            frozen = folding.freeze(self._module, pixels[:1]) if self.precision == "fp32" else exact
        except folding.NotFoldedError as error:
            log.warning(
                "The model is served as it is, without folding", extra={"code": "not_folded", "detail": str(error)}
            )
        else:
            self._module = frozen

    def _use_threads(self, threads: int) -> None:
        # The number belongs to the calling thread.
        if getattr(self._set, "number", 0) != threads:
            torch.set_num_threads(threads)
            self._set.number = threads

    def predict(self, images: Sequence[Pixels | Tensor], *, alone: bool = False) -> list[Ranking]:
        """Rank the classes of each image, halving the batch when the device has no memory for it."""
        images = [_colors_first(image) for image in images]
        if self._threads:
            self._use_threads(self._lone_threads if alone else 1)
        try:
            with _errors_of_the_device():
                rankings = self._forward(images)
        except torch.OutOfMemoryError as error:
            if self._out_of_memory:
                raise DeviceLostError(f"The device ran out of memory twice in a row: {error}") from error
            self._out_of_memory = True
        else:
            self._out_of_memory = False
            return rankings
        # Outside the handler, so that the failed forward's tensors are no longer referenced by the traceback.
        half = max(1, len(images) // 2)
        self.max_batch = max(1, min(self.max_batch, half))
        log.warning("The device ran out of memory; batches are limited to %d", self.max_batch)
        self._trim()
        return [
            ranking for start in range(0, len(images), half) for ranking in self.predict(images[start : start + half])
        ]

    def begin(self, images: Sequence[Pixels | Tensor]) -> Callable[[], list[Ranking]]:
        """Send a batch on its way; on a GPU with recordings it computes while the next one begins."""
        if not self._graphs:
            return super().begin(images)
        with _errors_of_the_device(), torch.inference_mode():
            finish = self._graphs.begin([_colors_first(image) for image in images])

        def rankings() -> list[Ranking]:
            with _errors_of_the_device():
                return self._rankings(*finish())

        return rankings

    def _forward(self, images: Sequence[Tensor]) -> list[Ranking]:
        with torch.inference_mode():
            if self._graphs:
                return self._rankings(*self._graphs.begin(images)())
            return self._rankings(*self._answer(self._collect(images).to(self.device)))

    def _collect(self, images: Sequence[Tensor]) -> Tensor:
        # Decoders deliver pixels in the order of the picture's bytes; in this layout each image is one plain copy.
        batch = torch.empty((len(images), *images[0].shape), dtype=torch.uint8, memory_format=torch.channels_last)
        for target, image in zip(batch, images, strict=True):
            target.copy_(image)
        return batch

    def _normalize(self, batch: Tensor) -> Tensor:
        # The same arithmetic as torchvision's ToTensor and Normalize, for the whole batch at once.
        pixels = batch.to(torch.float32, memory_format=torch.channels_last)
        if self._luma is not None:
            pixels = (pixels * self._luma).sum(1, keepdim=True).round_()
        return pixels.div_(255).sub_(self._mean).div_(self._std).to(self._type)

    def _answer(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """The best probabilities and their classes; everything on the device, so only they travel back."""
        return self._best(self._module(self._normalize(batch)).float())

    def _best(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        probabilities = logits.softmax(1) if self._activation == "softmax" else logits.sigmoid()
        if self._activation == "binary":
            probabilities = torch.cat((1 - probabilities, probabilities), dim=1)
        values, indices = probabilities.topk(min(self._ranked, probabilities.shape[1]), dim=1)
        return values, indices

    @staticmethod
    def _rankings(values: Tensor, indices: Tensor) -> list[Ranking]:
        return [Ranking(ids, best) for ids, best in zip(indices.tolist(), values.tolist(), strict=True)]

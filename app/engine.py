"""The engine: one model on one device, turning a batch of pixels into ranked classes."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from app.bundle.manifest import TOP_K, Activation, Input
from app.errors import DeviceLostError, ServiceError

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


class Engine:
    """Runs a model; used by one thread at a time."""

    def __init__(self, module: nn.Module, settings: Input, activation: Activation, device: str, max_batch: int) -> None:
        self.device = device
        self.max_batch = max_batch
        if device == "cuda":
            # The GPU image leaves out cuDNN's attention library; torch has its own kernels.
            torch.backends.cuda.enable_cudnn_sdp(False)
        self._module = module.to(device)
        # GPU convolutions are faster on this layout; CPU ones, the depthwise above all, are slower.
        self._layout = torch.channels_last if device == "cuda" else torch.contiguous_format
        for weight in self._module.parameters():
            if weight.dim() == 4:
                weight.data = weight.data.contiguous(memory_format=self._layout)
        self._activation = activation
        self._size = settings.size
        self._mean = torch.tensor(settings.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(settings.std, device=device).view(1, 3, 1, 1)
        self._out_of_memory = False

    def warm_up(self) -> None:
        """Run the smallest and the largest batch once, so that the first request pays for nothing."""
        blank = torch.zeros(self._size, dtype=torch.uint8)
        for size in sorted({1, self.max_batch}):
            self.predict([blank] * size)

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
            batch = torch.stack(list(images)).to(self.device)
            # The same arithmetic as torchvision's ToTensor and Normalize, for the whole batch at once.
            batch = batch.float().div_(255).sub_(self._mean).div_(self._std)
            logits = self._module(batch.contiguous(memory_format=self._layout)).float()
            probabilities = logits.softmax(1) if self._activation == "softmax" else logits.sigmoid()
            values, indices = probabilities.topk(min(TOP_K, probabilities.shape[1]), dim=1)
            return [Ranking(ids, best) for ids, best in zip(indices.tolist(), values.tolist(), strict=True)]

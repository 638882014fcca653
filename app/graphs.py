"""CUDA graphs: batches of a few fixed sizes, each recorded once and replayed with one launch."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

log = logging.getLogger(__name__)

Answer = Callable[[Tensor], tuple[Tensor, Tensor]]


def buckets(max_batch: int) -> list[int]:
    """The batch sizes to record: powers of two and the largest batch."""
    sizes = [1 << power for power in range(max_batch.bit_length()) if 1 << power < max_batch]
    return [*sizes, max_batch]


def bucket_of(count: int, sizes: Sequence[int]) -> int:
    """The smallest recorded size that holds the images."""
    return next(size for size in sizes if size >= count)


@dataclass(frozen=True)
class _Recording:
    graph: torch.cuda.CUDAGraph
    staging: Tensor
    pixels: Tensor
    answers: tuple[Tensor, Tensor]
    received: tuple[Tensor, Tensor]


class GraphRunner:
    """Replays recorded batches: pinned uint8 pixels up, ranked classes down, nothing else over the bus."""

    def __init__(self, recordings: dict[int, _Recording], stream: torch.cuda.Stream) -> None:
        self._recordings = recordings
        self._sizes = sorted(recordings)
        self._stream = stream

    @classmethod
    def record(cls, answer: Answer, size: tuple[int, int, int], max_batch: int) -> "GraphRunner | None":
        """Record every bucket, or nothing when the model cannot be recorded."""
        stream = torch.cuda.Stream()
        recordings: dict[int, _Recording] = {}
        try:
            with torch.inference_mode():
                # The largest first: the smaller ones then fit into its memory.
                for count in reversed(buckets(max_batch)):
                    recordings[count] = _record(answer, (count, *size), stream)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            detail = str(error).splitlines()[0]
            log.warning("The model runs without CUDA graphs", extra={"code": "not_recorded", "detail": detail})
            return None
        return cls(recordings, stream)

    def run(self, images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The answers of up to the largest recorded batch; what pads a bucket is left over from earlier batches."""
        recording = self._recordings[bucket_of(len(images), self._sizes)]
        for target, image in zip(recording.staging, images, strict=False):
            target.copy_(image)
        with torch.cuda.stream(self._stream):
            recording.pixels.copy_(recording.staging, non_blocking=True)
            recording.graph.replay()
            for received, computed in zip(recording.received, recording.answers, strict=True):
                received.copy_(computed, non_blocking=True)
        self._stream.synchronize()
        values, indices = recording.received
        return values[: len(images)], indices[: len(images)]


def _record(answer: Answer, shape: tuple[int, ...], stream: torch.cuda.Stream) -> _Recording:
    pixels = torch.zeros(shape, dtype=torch.uint8, device="cuda").contiguous(memory_format=torch.channels_last)
    staging = torch.zeros(shape, dtype=torch.uint8).contiguous(memory_format=torch.channels_last).pin_memory()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        # Libraries choose their kernels and take their memory on the first runs, which must not be recorded.
        for _ in range(3):
            answer(pixels)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        answers = answer(pixels)
    values, indices = answers
    received = (
        torch.empty_like(values, device="cpu").pin_memory(),
        torch.empty_like(indices, device="cpu").pin_memory(),
    )
    return _Recording(graph, staging, pixels, answers, received)

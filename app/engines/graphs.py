"""CUDA graphs: batches of a few fixed sizes, each recorded once and replayed with one launch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from app.errors import NotRecordedError

Answer = Callable[[Tensor], tuple[Tensor, Tensor]]
Answers = tuple[Tensor, Tensor]

# Batches on their way: one is computed while the next is laid out and sent up.
IN_FLIGHT = 2
# Libraries choose their kernels and take their memory on the first runs, which must not be recorded.
_FIRST_RUNS = 3


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
    answers: Answers


class _Place:
    """What one batch in flight goes through: pinned pixels, the same on the device, pinned answers, and two events."""

    def __init__(self, shape: tuple[int, ...], answers: Answers) -> None:
        self.pixels = _pixels(shape, "cpu").pin_memory()
        self.landed = _pixels(shape, "cuda")
        self.answers = tuple(torch.empty_like(each, device="cpu").pin_memory() for each in answers)
        self.uploaded = torch.cuda.Event()
        # Who waits for the answers sleeps: decoders need the CPU.
        self.done = torch.cuda.Event(blocking=True)


def _pixels(shape: tuple[int, ...], device: str) -> Tensor:
    return torch.zeros(shape, dtype=torch.uint8, device=device).contiguous(memory_format=torch.channels_last)


class GraphRunner:
    """Replays recorded batches: uint8 pixels up, ranked classes down, nothing else over the bus.

    Graphs run one after the other, so all of them share the memory that the largest needs.
    """

    def __init__(self, shape: tuple[int, ...], recordings: dict[int, _Recording], pixels: Tensor) -> None:
        self._recordings = recordings
        self._sizes = sorted(recordings)
        # What every graph reads.
        self._pixels = pixels
        self._places = [_Place(shape, recordings[shape[0]].answers) for _ in range(IN_FLIGHT)]
        self._begun = 0
        self._upload = torch.cuda.Stream()
        self._compute = torch.cuda.Stream()
        # Streams do not wait for each other: the zeros of these buffers must not come after the first pixels.
        torch.cuda.synchronize()

    @classmethod
    def record(cls, answer: Answer, size: tuple[int, int, int], sizes: Sequence[int]) -> "GraphRunner":
        """Record batches of these sizes; a NotRecordedError when the model, or the memory, does not allow it."""
        shape = (max(sizes), *size)
        try:
            with torch.inference_mode():
                pixels = _pixels(shape, "cuda")
                stream, pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
                # The largest first: the smaller ones then fit into its memory.
                recordings = {
                    count: _record(answer, pixels[:count], stream, pool) for count in sorted(sizes, reverse=True)
                }
        except RuntimeError as error:
            raise NotRecordedError((str(error).splitlines() or [type(error).__name__])[0]) from error
        return cls(shape, recordings, pixels)

    @property
    def sizes(self) -> Sequence[int]:
        """The recorded batch sizes, the smallest first."""
        return self._sizes

    def begin(self, images: Sequence[Tensor]) -> Callable[[], Answers]:
        """Send up to the largest recorded batch on its way; what it returns waits for the answers.

        They must be read before two more batches have begun. What pads a bucket is left over from earlier batches.
        """
        count = len(images)
        recording = self._recordings[bucket_of(count, self._sizes)]
        place = self._places[self._begun % IN_FLIGHT]
        self._begun += 1
        # The batch before the last one, whose place this is.
        place.done.synchronize()
        # One copy for the whole batch: the interpreter is free meanwhile.
        torch.stack(list(images), out=place.pixels[:count])
        with torch.cuda.stream(self._upload):
            place.landed[:count].copy_(place.pixels[:count], non_blocking=True)
            place.uploaded.record(self._upload)
        with torch.cuda.stream(self._compute):
            self._compute.wait_event(place.uploaded)
            self._pixels[:count].copy_(place.landed[:count], non_blocking=True)
            recording.graph.replay()
            for received, computed in zip(place.answers, recording.answers, strict=True):
                received[:count].copy_(computed[:count], non_blocking=True)
            place.done.record(self._compute)

        def finish() -> Answers:
            place.done.synchronize()
            values, indices = place.answers
            return values[:count], indices[:count]

        return finish


def _record(answer: Answer, pixels: Tensor, stream: torch.cuda.Stream, pool: tuple[int, int]) -> _Recording:
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_FIRST_RUNS):
            answer(pixels)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, stream=stream):
        answers = answer(pixels)
    return _Recording(graph, answers)

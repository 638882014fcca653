"""Engines on CPUs by OpenVINO."""

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Barrier, Thread
from typing import Any

import numpy as np
import openvino as ov

from app.engines.agreement import Ranking
from app.engines.engine import Engine, NotBuiltError, Pixels, Precision, is_large

_HINTS = {"fp32": "f32", "bf16": "bf16"}
# OpenVINO fills a table of number formats at its first use, and two threads that come to it at once, one with the
# interpreter and one with the table, wait for each other forever.
ov.Type.u8.to_dtype()


class OpenVinoEngine(Engine):
    """As many streams as threads, each on one core; a large model also once on all cores, for a lone image.

    A large model gains nothing by batches, in which every image waits for the last one.
    """

    runtime = "openvino"

    def __init__(self, model: ov.Model, max_batch: int, precision: Precision, threads: int) -> None:
        super().__init__("cpu", max_batch, precision)
        if precision not in _HINTS:
            raise NotBuiltError(f"OpenVINO does not compute in {precision} on a CPU.")
        self._threads = threads
        self._core = ov.Core()
        sides = [side.get_length() for side in list(model.input(0).get_partial_shape())[1:]]
        self._blank = np.zeros(sides, np.uint8)
        self._one_by_one = max_batch == 1
        if self._one_by_one:
            # A size that is known is compiled at once; of any other, the first image of it pays for its layout.
            model = model.clone()
            model.reshape([1, *sides])
        self._model: ov.Model | None = model
        self._streams = self._requests(threads)
        self._lone: SimpleQueue[ov.InferRequest] | None = None

    def predict(self, images: Sequence[Pixels], *, alone: bool = False) -> list[Ranking]:
        """Rank the classes of each image."""
        batch = np.stack(images)
        with _borrowed(self._lone if alone and self._lone else self._streams) as request:
            request.infer([batch], share_inputs=True)
            values, ids = (request.get_output_tensor(index).data.tolist() for index in (0, 1))
        return [Ranking(best, shares) for best, shares in zip(ids, values, strict=True)]

    def prepare(self, seconds: float) -> None:
        """Run what will be asked for on every stream; a large model is compiled for lone images too, later."""
        large = is_large(seconds, self._threads)
        if large:
            self.max_batch = 1
        if not self._one_by_one:
            self._run_sizes()
        if self._threads > 1 and large:
            # A start does not wait for it: until it is there, a stream answers a lone image.
            Thread(target=self._prepare_lone, name="lone", daemon=True).start()
        else:
            # It is compiled; what it was compiled from is memory.
            self._model = None

    def _run_sizes(self) -> None:
        meeting = Barrier(self._threads)

        def run(_: int) -> None:
            try:
                for count in range(1, self.max_batch + 1):
                    # Together, so that each takes a stream of its own.
                    meeting.wait()
                    self.predict([self._blank] * count)
            except BaseException:
                meeting.abort()
                raise

        with ThreadPoolExecutor(self._threads) as pool:
            list(pool.map(run, range(self._threads)))

    def _prepare_lone(self) -> None:
        lone = self._requests(1)
        self._model = None
        with _borrowed(lone) as request:
            request.infer([self._blank[np.newaxis]])
        self._lone = lone

    def _requests(self, streams: int) -> "SimpleQueue[ov.InferRequest]":
        options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": _HINTS[self.precision],
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": self._threads,
            # Other containers run on the same cores, and of those a container may use OpenVINO knows nothing.
            "ENABLE_CPU_PINNING": False,
            "ENABLE_HYPER_THREADING": True,
        }
        compiled = self._core.compile_model(self._model, "CPU", options)
        used = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if used != _HINTS[self.precision]:
            raise NotBuiltError(f"This CPU does not compute in {self.precision}.")
        requests: SimpleQueue[ov.InferRequest] = SimpleQueue()
        for _ in range(streams):
            requests.put(compiled.create_infer_request())
        return requests


@contextlib.contextmanager
def _borrowed(requests: "SimpleQueue[ov.InferRequest]") -> Iterator[ov.InferRequest]:
    request = requests.get()
    try:
        yield request
    finally:
        requests.put(request)

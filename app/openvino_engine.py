"""Engines on CPUs by OpenVINO, made from the frozen trace of a model."""

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Barrier
from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino import opset15 as ops
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
from openvino.preprocess import PrePostProcessor
from torch import Tensor, nn

from app import folding, lean
from app.bundle.manifest import TOP_K, Activation, Input
from app.engine import LARGE_SECONDS, LUMA, Engine, NotBuiltError, Precision, Ranking

_HINTS = {"fp32": "f32", "bf16": "bf16"}


def convert(module: nn.Module, settings: Input, activation: Activation, ranked: int = TOP_K) -> ov.Model:
    """The model from uint8 pixels (NHWC, any number of images) to its best probabilities and their classes.

    It must have as many classes as are ranked: what is converted does not always know how many it has.
    """
    image = torch.zeros(1, *settings.size)
    try:
        # Not by convert_model, which takes the root logger's level and handlers for its own meanwhile.
        decoder = TorchScriptPythonDecoder(folding.freeze(module, image), skip_freeze=True)
        frontend = FrontEndManager().load_by_framework("pytorch")
        # It would ask each tensor whether it is one of the compiler's.
        with lean.without("torch._prims"):
            model = frontend.convert(frontend.load(decoder))
        # A trace says nothing of what comes in.
        model.get_parameters()[0].set_element_type(ov.Type.f32)
        model.reshape([-1, *settings.size])
        return _ranked(_fed_with_bytes(model, settings), activation, ranked)
    except Exception as error:  # front ends raise their own kinds for what they do not know
        raise NotBuiltError(f"OpenVINO cannot convert it: {_last_line(error)}") from None


def _fed_with_bytes(model: ov.Model, settings: Input) -> ov.Model:
    height, width = settings.size[1:]
    steps = PrePostProcessor(model)
    feed = steps.input()
    feed.tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC")).set_shape([-1, height, width, 3])
    feed.model().set_layout(ov.Layout("NCHW"))
    # The same arithmetic as torchvision's ToTensor and Normalize.
    pixels = feed.preprocess().convert_element_type(ov.Type.f32)
    if settings.size[0] == 1:
        pixels.custom(_gray)
    pixels.mean([255 * value for value in settings.mean]).scale([255 * value for value in settings.std])
    return steps.build()


def _gray(pixels: ov.Output) -> ov.Output:
    luma = ops.constant(np.array(LUMA, np.float32).reshape(1, 1, 1, 3))
    total = ops.reduce_sum(ops.multiply(pixels, luma), ops.constant([3]), keep_dims=True)
    return ops.round(total, "half_to_even").output(0)


def _ranked(model: ov.Model, activation: Activation, ranked: int) -> ov.Model:
    logits = model.output(0).get_node().input_value(0)
    probabilities = ops.softmax(logits, 1) if activation == "softmax" else ops.sigmoid(logits)
    if activation == "binary":
        one = ops.constant(np.float32(1))
        probabilities = ops.concat([ops.subtract(one, probabilities), probabilities], 1)
    best = ops.topk(probabilities, ops.constant(ranked), 1, "max", "value", index_element_type="i32")
    return ov.Model([best.output(0), best.output(1)], model.get_parameters())


class OpenVinoEngine(Engine):
    """As many streams as threads, each on one core; a large model also once on all cores, for a lone image."""

    runtime = "openvino"

    def __init__(self, model: ov.Model, max_batch: int, precision: Precision, threads: int) -> None:
        super().__init__("cpu", max_batch, precision)
        if precision not in _HINTS:
            raise NotBuiltError(f"OpenVINO does not compute in {precision} on a CPU.")
        self._threads = threads
        self._core = ov.Core()
        self._model: ov.Model | None = model
        sides = [side.get_length() for side in list(model.input(0).get_partial_shape())[1:]]
        self._blank = torch.zeros(sides, dtype=torch.uint8).permute(2, 0, 1)
        self._streams = self._requests(threads)
        self._lone: SimpleQueue[ov.InferRequest] | None = None

    def predict(self, images: Sequence[Tensor], *, alone: bool = False) -> list[Ranking]:
        """Rank the classes of each image."""
        batch = np.stack([image.permute(1, 2, 0).numpy() for image in images])
        with _borrowed(self._lone if alone and self._lone else self._streams) as request:
            request.infer([batch], share_inputs=True)
            values, ids = (request.get_output_tensor(index).data.tolist() for index in (0, 1))
        return [Ranking(best, shares) for best, shares in zip(ids, values, strict=True)]

    def prepare(self, seconds: float) -> None:
        """Run what will be asked for on every stream; a large model is compiled for a lone image too."""
        large = seconds > LARGE_SECONDS
        # Beside what an image takes, what a large model prepares for another size is little.
        sizes = range(1, (1 if large else self.max_batch) + 1)
        meeting = Barrier(self._threads)

        def run(_: int) -> None:
            try:
                for count in sizes:
                    # Together, so that each takes a stream of its own.
                    meeting.wait()
                    self.predict([self._blank] * count)
            except BaseException:
                meeting.abort()
                raise

        with ThreadPoolExecutor(self._threads) as pool:
            list(pool.map(run, range(self._threads)))
        if self._threads > 1 and large:
            self._lone = self._requests(1)
            self.predict([self._blank], alone=True)
        # It is compiled; what it was compiled from is memory.
        self._model = None

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


def _last_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1]

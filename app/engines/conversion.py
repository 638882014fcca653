"""Conversion: what OpenVINO computes, made from the frozen trace of a model."""

import numpy as np
import openvino as ov
import torch
from openvino import opset15 as ops
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
from openvino.preprocess import PrePostProcessor
from torch import nn

from app.bundle.manifest import TOP_K, Activation, Input
from app.engines import folding
from app.engines.engine import LUMA, NotBuiltError
from app.process import lean


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


def _last_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1]

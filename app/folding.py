"""Folding: a model traced and frozen for inference, with its batch norms inside its convolutions."""

import logging

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

# Folding only changes the order of float operations; more difference than this means the trace is another model.
TOLERANCE = 1e-4


def fold(module: nn.Module, example: Tensor) -> nn.Module:
    """The module traced and frozen, or the module itself where tracing fails or answers differently.

    A frozen trace has no batch norms and runs without the interpreter lock, so that threads share one set of weights.
    `example` is a normalised batch of at least two images.
    """
    try:
        # A constant batch size inside the trace shows here, since the check runs on another size.
        with torch.no_grad():
            torch.jit.set_fusion_strategy([])
            folded: nn.Module = torch.jit.freeze(torch.jit.trace(module, example[:1], check_trace=False))
            difference = _difference(folded, module, example)
    except Exception as error:  # tracing runs the model's own code, which may raise anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
    else:
        if difference <= TOLERANCE:
            return folded
        reason = f"its answers differ by {difference:.2g}"
    log.warning("The model is served as it is, without folding", extra={"code": "not_folded", "detail": reason})
    return module


def _difference(folded: nn.Module, module: nn.Module, example: Tensor) -> float:
    """The largest difference of two outputs, relative to the largest value where that is above 1."""
    expected = module(example).float()
    largest = (folded(example).float() - expected).abs().max() / expected.abs().max().clamp(min=1)
    return float(largest) if torch.isfinite(largest) else float("inf")

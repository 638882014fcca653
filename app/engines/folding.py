"""Folding: a model traced and frozen for inference, with its batch norms inside its convolutions."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class NotFoldedError(Exception):
    """A model cannot be traced, or its trace is another model."""


@contextmanager
def without_tf32() -> Iterator[None]:
    """Compute convolutions in fp32 proper, for a comparison; by default a GPU rounds their inputs to ten bits."""
    kept = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = kept


def without_norms(module: nn.Module) -> dict[str, Tensor]:
    """Weights with which batch norms do nothing, as the convolutions before them do their work; by name.

    In a reduced precision folding would round twice, and multiply rounded by rounded numbers: it has to come first.
    A batch norm is taken to follow the convolution that its parent registers before it; where a model calls them in
    another order its answers show that.
    """
    changed: dict[str, Tensor] = {}
    for path, parent in module.named_modules():
        before: tuple[str, nn.Module] | None = None
        for name, child in parent.named_children():
            place = f"{path}.{name}" if path else name
            if isinstance(child, nn.Conv2d):
                before = (place, child)
            elif isinstance(child, nn.BatchNorm2d) and before and before[1].out_channels == child.num_features:
                changed |= _absorbed(*before, place, child)
                before = None
    return changed


def _absorbed(conv_name: str, conv: nn.Module, norm_name: str, norm: nn.Module) -> dict[str, Tensor]:
    one = torch.ones_like(norm.running_var)
    scale = (one if norm.weight is None else norm.weight) * torch.rsqrt(norm.running_var + norm.eps)
    shift = (one * 0 if norm.bias is None else norm.bias) - norm.running_mean * scale
    changed = {
        f"{conv_name}.weight": conv.weight * scale.view(-1, 1, 1, 1),
        f"{conv_name}.bias": shift if conv.bias is None else conv.bias * scale + shift,
        f"{norm_name}.running_mean": one * 0,
        f"{norm_name}.running_var": one - norm.eps,
    }
    if norm.weight is not None:
        changed |= {f"{norm_name}.weight": one, f"{norm_name}.bias": one * 0}
    return changed


def freeze(module: nn.Module, image: Tensor) -> nn.Module:
    """The module traced and frozen; a NotFoldedError where it cannot be. `image` is a normalized batch of one.

    A frozen trace has no batch norms, and it is what other runtimes understand.
    """
    try:
        # What became a constant shows in the answers, which are compared.
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        with torch.no_grad():
            torch.jit.set_fusion_strategy([])
            # A shell that does not own the module: the weights become constants, and no part gets a script copy.
            shell = nn.Module()
            shell.forward = module.__call__
            # A tensor made in inference mode cannot be traced.
            traced = torch.jit.trace(shell, image.clone(), check_trace=False)
            return torch.jit.freeze(traced.eval())
    except Exception as error:  # tracing runs the model's own code, which may raise anything
        raise NotFoldedError(f"{type(error).__name__}: {error}".splitlines()[0]) from None


def check(candidate: Callable[[Tensor], Tensor], batch: Tensor, expected: Tensor, tolerance: float) -> None:
    """A NotFoldedError when a frozen trace does not answer as expected.

    `tolerance` bounds the change of an output, relative to the largest one where that is above 1. A batch size that
    became a constant inside the trace shows with more than one image.
    """
    try:
        with torch.inference_mode():
            change = (candidate(batch).float() - expected).abs().max() / expected.abs().max().clamp(min=1)
    except Exception as error:  # a wrong trace may fail in any way on another batch
        # The interpreter of traces begins with where it was, and ends with what happened.
        raise NotFoldedError((str(error).strip() or type(error).__name__).splitlines()[-1]) from None
    if not change <= tolerance:
        raise NotFoldedError(f"its answers differ by {float(change):.2g}")

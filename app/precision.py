"""Precision: which number format the model computes in, chosen by measurement and checked against fp32."""

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from app import cpus

if TYPE_CHECKING:
    from app.engine import Engine, Layout, Ranking

Build = Callable[["Precision", "Layout"], "Engine"]

log = logging.getLogger(__name__)

Precision = Literal["fp32", "bf16", "fp16"]
Wanted = Literal["auto", "fp32", "bf16", "fp16"]

# Elsewhere the CPU emulates bf16 and is slower than in fp32.
_CPU_FLAGS = ("avx512_bf16", "amx_bf16")
_CPUINFO = Path("/proc/cpuinfo")
# A precision that takes less than this share of fp32's time is used without a look at fp32's other layout.
_CLEARLY = 0.75


def candidates(wanted: Wanted, device: str, cpuinfo: Path = _CPUINFO) -> list[Precision]:
    """The reduced precisions worth trying on a device; none means fp32."""
    if wanted != "auto":
        return [] if wanted == "fp32" else [wanted]
    if device == "cuda":
        return ["fp16", "bf16"]
    try:
        flags = cpuinfo.read_text(encoding="utf-8").split()
    except OSError:
        return []
    return ["bf16"] if any(flag in flags for flag in _CPU_FLAGS) else []


def disagreement(expected: "Sequence[Ranking]", actual: "Sequence[Ranking]") -> float:
    """The largest change of a probability; infinite when a best class changed."""
    worst = 0.0
    for reference, ranking in zip(expected, actual, strict=True):
        if reference.class_ids[0] != ranking.class_ids[0]:
            return float("inf")
        found = dict(zip(ranking.class_ids, ranking.probabilities, strict=True))
        for class_id, probability in zip(reference.class_ids, reference.probabilities, strict=True):
            # A class that left the best five has at most the probability of the last one in them.
            change = abs(found.get(class_id, ranking.probabilities[-1]) - probability)
            worst = max(worst, change if change == change else float("inf"))
    return worst


def choose(wanted: Wanted, device: str, build: Build, samples: Sequence[Tensor], tolerance: float) -> "Engine":
    """An engine in the wanted precision, or with `auto` the fastest; fp32 when the samples' answers change too much.

    On a CPU fp32 also has a choice of layouts: builds of torch and CPUs differ several times in what they prefer.
    """
    reference = build("fp32", "channels_last")
    others = [] if device == "cuda" else [build("fp32", "contiguous")]
    reduced = [build(precision, "channels_last") for precision in candidates(wanted, device)]
    errors = _attempt([reference, *(reduced or others)], samples)
    if reference in errors:
        raise errors[reference]
    best = None
    for engine in reduced:
        if reason := _refusal(engine, errors, reference.answers, tolerance):
            _refuse(reason)
        elif best is None or engine.seconds < best.seconds:
            best = engine
    if best and (wanted != "auto" or best.seconds < _CLEARLY * reference.seconds):
        return best
    if reduced and others:
        errors |= _attempt(others, samples)
    exact = min((engine for engine in (reference, *others) if engine not in errors), key=lambda engine: engine.seconds)
    if best and best.seconds < exact.seconds:
        return best
    if best:
        _refuse(f"{best.precision} is not faster here.")
    return exact


def _attempt(engines: "Sequence[Engine]", samples: Sequence[Tensor]) -> "dict[Engine, RuntimeError]":
    """Have each engine answer and be measured; returns what the models raised."""
    errors: dict[Engine, RuntimeError] = {}

    def attempt(engine: "Engine") -> None:
        try:
            engine.attempt(samples, freeze=engine.precision != "fp32")
        except RuntimeError as error:
            errors[engine] = error

    # On a CPU each has a core of its own; on a GPU they would only measure each other.
    with ThreadPoolExecutor(1 if engines[0].device == "cuda" else cpus.available()) as pool:
        for _ in pool.map(attempt, engines):
            pass
    return errors


def _refusal(
    engine: "Engine", errors: "Mapping[Engine, RuntimeError]", expected: "Sequence[Ranking]", tolerance: float
) -> str:
    if engine in errors:
        return f"The model does not run in {engine.precision}: {str(errors[engine]).splitlines()[0]}"
    worst = disagreement(expected, engine.answers)
    if worst > tolerance:
        return f"In {engine.precision} a golden sample's answer changes by {worst:.3g}, more than {tolerance:g}."
    return ""


def _refuse(reason: str) -> None:
    log.warning("A precision is not used", extra={"code": "precision_refused", "detail": reason})

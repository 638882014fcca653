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
# Another precision or layout has to bring the time below this share: smaller differences are noise, and the one tried
# first is the better one in most models.
_WORTH_IT = 0.75


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
    """An engine in the wanted precision; with `auto` a reduced one only where it saves a quarter of the time.

    It is fp32 where a reduced precision changes the samples' answers too much. On a CPU fp32 also has a choice of
    layouts: builds of torch and CPUs differ several times in what they prefer.
    """

    def attempt(way: "tuple[Precision, Layout]") -> "Engine | RuntimeError":
        """An engine that answered and was measured, or what the model raised instead."""
        try:
            engine = build(*way)
            engine.attempt(samples, freeze=way[0] != "fp32")
        except RuntimeError as error:
            return error
        return engine

    reduced: list[tuple[Precision, Layout]] = [(name, "channels_last") for name in candidates(wanted, device)]
    others: list[tuple[Precision, Layout]] = [] if device == "cuda" else [("fp32", "contiguous")]
    # On a CPU each has a core of its own; on a GPU they would only measure each other.
    with ThreadPoolExecutor(1 if device == "cuda" else cpus.available()) as pool:
        exact, *rest = pool.map(attempt, [("fp32", "channels_last"), *(reduced or others)])
        if isinstance(exact, RuntimeError):
            raise exact
        if reduced:
            fastest = _fastest({name: tried for (name, _), tried in zip(reduced, rest, strict=True)}, exact, tolerance)
            if fastest and (wanted != "auto" or fastest.seconds < _WORTH_IT * exact.seconds):
                return fastest
            if fastest:
                _refuse(f"{fastest.precision} is not enough faster here.")
            rest = list(pool.map(attempt, others))
    spare = next((other for other in rest if not isinstance(other, RuntimeError)), None)
    if spare and spare.seconds < _WORTH_IT * exact.seconds:
        # The first one warmed up for both, beside another: it gets a second chance.
        exact.attempt(samples)
        if spare.seconds < _WORTH_IT * exact.seconds:
            return spare
    return exact


def _fastest(
    attempts: "Mapping[Precision, Engine | RuntimeError]", reference: "Engine", tolerance: float
) -> "Engine | None":
    """The fastest engine whose answers are those of the reference; the others are refused."""
    agreeing: list[Engine] = []
    for precision, engine in attempts.items():
        if isinstance(engine, RuntimeError):
            _refuse(f"The model does not run in {precision}: {str(engine).splitlines()[0]}")
            continue
        worst = disagreement(reference.answers, engine.answers)
        if worst > tolerance:
            _refuse(f"In {precision} a golden sample's answer changes by {worst:.3g}, more than {tolerance:g}.")
        else:
            agreeing.append(engine)
    return min(agreeing, key=lambda engine: engine.seconds, default=None)


def _refuse(reason: str) -> None:
    log.warning("A precision is not used", extra={"code": "precision_refused", "detail": reason})

"""Precision: which number format the model computes in, chosen by measurement and checked against fp32."""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from torch import Tensor

if TYPE_CHECKING:
    from app.engine import Engine, Ranking

log = logging.getLogger(__name__)

Precision = Literal["fp32", "bf16", "fp16"]
Wanted = Literal["auto", "fp32", "bf16", "fp16"]

# Elsewhere the CPU emulates bf16 and is slower than in fp32.
_CPU_FLAGS = ("avx512_bf16", "amx_bf16")
_CPUINFO = Path("/proc/cpuinfo")
_ROUNDS = 5


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


def choose(
    wanted: Wanted,
    device: str,
    build: "Callable[[Precision], Engine]",
    samples: Sequence[Tensor],
    tolerance: float,
) -> "Engine":
    """An engine in the wanted precision, or with `auto` the fastest one; fp32 when the samples' answers change."""
    best = build("fp32")
    tried = candidates(wanted, device)
    if not tried:
        return best
    expected = [best.predict([sample])[0] for sample in samples]
    seconds = _seconds(best, samples) if wanted == "auto" else float("inf")
    for precision in tried:
        try:
            engine = build(precision)
            worst = disagreement(expected, [engine.predict([sample])[0] for sample in samples])
        except RuntimeError as error:
            reason = f"The model does not run in {precision}: {str(error).splitlines()[0]}"
        else:
            needed = _seconds(engine, samples) if wanted == "auto" else 0.0
            if worst <= tolerance and needed < seconds:
                best, seconds = engine, needed
                continue
            reason = (
                f"In {precision} a golden sample's answer changes by {worst:.3g}, more than {tolerance:g}."
                if worst > tolerance
                else f"{precision} is not faster here."
            )
        log.warning("A precision is not used", extra={"code": "precision_refused", "detail": reason})
    return best


def _seconds(engine: "Engine", samples: Sequence[Tensor]) -> float:
    """The shortest time of a full batch; the shortest, because others may use the machine."""
    batch = [samples[index % len(samples)] for index in range(engine.max_batch)]
    engine.predict(batch)
    times: list[float] = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        engine.predict(batch)
        times.append(time.perf_counter() - started)
    return min(times)

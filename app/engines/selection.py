"""Selection: which runtime computes a model in which number format, by measurement and by what the answers say."""

import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from app.engines.agreement import Ranking, disagreement
from app.engines.engine import LARGE_SECONDS, Build, Engine, NotBuiltError, Pixels, Precision, Runtime
from app.errors import BundleError
from app.process.timing import shortest

log = logging.getLogger(__name__)

WantedRuntime = Literal["auto", "torch", "openvino"]
WantedPrecision = Literal["auto", "fp32", "bf16", "fp16"]
Way = tuple[Runtime, Precision]

# Elsewhere the CPU emulates bf16 and is slower than in fp32.
_CPU_FLAGS = ("avx512_bf16", "amx_bf16")
_CPUINFO = Path("/proc/cpuinfo")
# What is not the first choice has to bring the time below this share: a change has to be worth it, and a measurement
# on a busy machine says no more.
_WORTH_IT = 0.75
# What an answer may change by without rounding, however much a bundle allows: only the order of operations differs.
_EXACT = 1e-3
_REFERENCE: Way = ("torch", "fp32")


@dataclass(frozen=True)
class Trial:
    """A way to compute the model: the seconds of an image, the largest change of a probability, or why not."""

    engine: Runtime
    precision: Precision
    seconds: float = 0.0
    change: float | None = None
    refused: str = ""


class Selection(NamedTuple):
    """The engine that serves, the seconds that an image takes with it, and everything that was tried."""

    engine: Engine
    seconds: float
    trials: tuple[Trial, ...]
    reason: str


def ways(runtime: WantedRuntime, precision: WantedPrecision, device: str, cpuinfo: Path = _CPUINFO) -> list[Way]:
    """What may serve on a device, the reference first."""
    precisions: list[Precision] = ["fp32", *_reduced(device, cpuinfo)] if precision == "auto" else [precision]
    runtimes: list[Runtime] = (
        [runtime] if runtime != "auto" else ["torch"] if device == "cuda" else ["torch", "openvino"]
    )
    return [(name, kind) for name in runtimes for kind in precisions]


def _reduced(device: str, cpuinfo: Path) -> list[Precision]:
    if device == "cuda":
        return ["fp16", "bf16"]
    try:
        flags = cpuinfo.read_text(encoding="utf-8").split()
    except OSError:
        return []
    return ["bf16"] if any(flag in flags for flag in _CPU_FLAGS) else []


class Referee:
    """Tries ways to compute a model on golden samples, beside torch in fp32, whose answers are the right ones."""

    def __init__(self, build: Build, samples: Sequence[Pixels], tolerance: float, threads: int) -> None:
        self._build = build
        self._samples = samples
        self._tolerance = tolerance
        self._threads = threads
        self._reference = build(*_REFERENCE)
        self._expected: list[Ranking] = []
        began = 0.0
        for sample in samples:
            began = time.perf_counter()
            self._expected += self._reference.predict([sample], alone=True)
        self._lone_seconds = time.perf_counter() - began

    def choose(self, wanted: Sequence[Way]) -> Selection:
        """The fastest way whose answers are those of the reference; a BundleError where none is."""
        # torch in another precision is for what nothing else computes.
        first = [way for way in wanted if way == _REFERENCE or way[0] != "torch"]
        tried = {way: self._try(way) for way in first}
        if not any(way[0] != "torch" and engine for way, (engine, _) in tried.items()):
            tried |= {way: self._try(way) for way in wanted if way not in tried}
        trials = tuple(trial for _, trial in tried.values())
        best = _best([trial for trial in trials if not trial.refused])
        if best is None:
            reasons = _refusals(trials)
            raise BundleError(
                "engine_refused",
                f"The model cannot be served as API_ENGINE and API_PRECISION ask. {reasons} Set them to auto.",
            )
        if detail := _refusals(trials):
            log.warning("Ways to compute the model are not used", extra={"code": "engine_refused", "detail": detail})
        engine, _ = tried[best.engine, best.precision]
        if engine is None:
            raise AssertionError(best)
        return Selection(engine, best.seconds, trials, _reason(best, trials))

    def _try(self, way: Way) -> tuple[Engine | None, Trial]:
        if way == _REFERENCE:
            with self._reference.as_served():
                return self._reference, Trial(*way, self._seconds(self._reference, self._lone_seconds), 0.0)
        try:
            engine = self._build(*way)
            with engine.as_served():
                change, lone_seconds = self._change(engine)
                seconds = self._seconds(engine, lone_seconds)
        except (NotBuiltError, RuntimeError) as error:
            return None, Trial(*way, refused=str(error).splitlines()[0])
        allowed = min(self._tolerance, _EXACT) if engine.precision == "fp32" else self._tolerance
        if not change <= allowed:
            refused = f"a golden sample's answer changes by {change:.3g}, more than {allowed:g}."
            return None, Trial(*way, seconds, change, refused)
        return engine, Trial(*way, seconds, change)

    def _change(self, engine: Engine) -> tuple[float, float]:
        """The largest change in full batches, and alone: a batch size may have become part of a trace.

        And the seconds of the lone image.
        """
        starts = range(0, len(self._samples), engine.max_batch)
        batches = [self._samples[start : start + engine.max_batch] for start in starts]
        answers = [ranking for batch in batches for ranking in engine.predict(batch)]
        began = time.perf_counter()
        answers += engine.predict(self._samples[:1])
        seconds = time.perf_counter() - began
        return disagreement([*self._expected, self._expected[0]], answers), seconds

    def _seconds(self, engine: Engine, lone_seconds: float) -> float:
        """Seconds of an image, with every thread at work; in full batches where they do not take long."""
        large = engine.device == "cpu" and lone_seconds > LARGE_SECONDS
        count = 1 if large else engine.max_batch
        batch = [self._samples[number % len(self._samples)] for number in range(count)]

        def compute(_: int) -> None:
            for answers in [engine.begin(batch) for _ in range(engine.in_flight)]:
                answers()

        with ThreadPoolExecutor(self._threads) as pool:

            def work() -> None:
                list(pool.map(compute, range(self._threads)))

            # The first round prepares what is kept; a start does not wait for that twice with a large model.
            if not large:
                work()
            return shortest(work) / (self._threads * engine.in_flight * count)


def _refusals(trials: Sequence[Trial]) -> str:
    """Every reason, each once: what cannot be converted is refused in no precision in particular; '' without any."""
    precisions: dict[tuple[Runtime, str], list[str]] = {}
    for trial in trials:
        if trial.refused:
            precisions.setdefault((trial.engine, trial.refused), []).append(trial.precision)
    return " ".join(
        f"{engine} in {' and '.join(kinds)}: {reason.rstrip('.')}." for (engine, reason), kinds in precisions.items()
    )


def _best(trials: Sequence[Trial]) -> Trial | None:
    """The fastest; in fp32 rather by another runtime than the reference's, and rather in fp32 than rounded."""
    best: Trial | None = None
    for trial in sorted(trials, key=_rank):
        if best is None or trial.seconds < (1 if _rank(best) == _rank(trial) else _WORTH_IT) * best.seconds:
            best = trial
    return best


def _rank(trial: Trial) -> int:
    return 2 if trial.precision != "fp32" else 1 if trial.engine == "torch" else 0


def _reason(best: Trial, trials: Sequence[Trial]) -> str:
    others = [trial for trial in trials if trial is not best]
    shown = ", ".join(
        f"{trial.engine} in {trial.precision} "
        + (f"refused ({trial.refused.rstrip('.')})" if trial.refused else f"{1000 * trial.seconds:.2f} ms")
        for trial in others
    )
    first = f"{best.engine} in {best.precision} takes {1000 * best.seconds:.2f} ms an image"
    return f"{first}; {shown}." if others else f"{first}, and nothing else was to be tried."

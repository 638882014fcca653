"""A GPU simulated where torch meets it, on the CPU: `torch.cuda`, and tensors that are said to be on it.

Recording logs every operation that torch dispatches, and a replay runs them again on the same memory: all the rest is
the service's own code at work. What hardware does wrong can be asked for: memory that is not there, a recording that
fails and spoils what torch has of the device, a device that never answers.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

SPOILED = "captures_underway.empty() INTERNAL ASSERT FAILED at CUDACachingAllocator.cpp"
# Ways to name the device that must become the CPU.
_MOVERS = ("tensor", "zeros", "empty", "empty_like", "rand")


# The device of a module's own code, in a new interpreter.
SIMULATED = "from tests.unit.app.gpu import Gpu, simulate\nstack = simulate(Gpu())\n"


def on_a_real_one(value: str) -> Any:
    """A parameter with which a test asks the same of a real GPU, where a machine has one."""
    missing = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
    return pytest.param(value, marks=[pytest.mark.gpu, missing], id="real")


@dataclass
class Gpu:
    """What the device does, and what it was asked to do."""

    # Seconds that a batch of so many images takes, in a reduced precision or not.
    seconds: Callable[[int, bool], float] = lambda _, __: 0.0
    # The batch that is too large to be recorded; whether it has stopped to answer.
    too_large: int = 1 << 30
    hangs: Callable[[], bool] = lambda: False
    # What it fails with, at a "replay" or when it is waited for ("done"); until when it computes.
    fails: dict[str, Exception] = field(default_factory=dict)
    gate: threading.Event | None = None
    spoiled: bool = False
    recorded: list[int] = field(default_factory=list)
    pools: list[object] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    emptied: int = 0
    # When it will have done everything that it was given.
    free_at: float = 0.0

    def replayed(self, count: int, *, reduced: bool) -> None:
        """Take note of a batch, and of when it will be done."""
        self.events.append(f"replay {count}")
        self.fail("replay")
        self.free_at = max(self.free_at, time.monotonic()) + self.seconds(count, reduced)

    def fail(self, where: str) -> None:
        """Raise what it fails with there."""
        if where in self.fails:
            raise self.fails[where]

    def wait(self, until: float) -> None:
        """Sleep as the host does until the device has come so far."""
        if self.hangs():
            threading.Event().wait()
        if self.gate:
            assert self.gate.wait(20)
        time.sleep(max(0.0, until - time.monotonic()))


class _Log(TorchDispatchMode):
    """Every operation with what it read and wrote."""

    def __init__(self, gpu: Gpu) -> None:
        super().__init__()
        self.gpu = gpu
        self.operations: list[tuple[Any, Any, Any, Any]] = []
        self.count = 0
        self.reduced = False

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(function) in ("aten.item.default", "aten._local_scalar_dense.default"):
            self.gpu.spoiled = True
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        result = function(*args, **(kwargs or {}))
        if not self.operations:
            self.count = len(args[0])
            if self.count >= self.gpu.too_large:
                self.gpu.spoiled = True
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        self.reduced |= any(each.dtype in (torch.float16, torch.bfloat16) for each in _tensors(result))
        self.operations.append((function, args, kwargs or {}, result))
        return result


def simulate(gpu: Gpu) -> contextlib.ExitStack:
    """Have torch see this device until the stack is closed."""

    class Stream:
        def wait_stream(self, _: "Stream") -> None: ...

        def wait_event(self, event: "Event") -> None:
            gpu.events.append("wait")

        def synchronize(self) -> None:
            gpu.wait(gpu.free_at)

    class Event:
        def __init__(self, *, blocking: bool = False, enable_timing: bool = False) -> None:
            self.blocking = blocking
            self.at: float | None = None

        def record(self, _: Stream | None = None) -> None:
            self.at = gpu.free_at

        def synchronize(self) -> None:
            if self.at is None:
                return
            assert self.blocking, "this thread would spin"
            gpu.wait(self.at)
            gpu.fail("done")
            gpu.events.append("done")
            self.at = None

        def elapsed_time(self, other: "Event") -> float:
            return 1000 * ((other.at or 0.0) - (self.at or 0.0))

    class Graph:
        log: _Log

        def replay(self) -> None:
            gpu.replayed(self.log.count, reduced=self.log.reduced)
            for function, args, kwargs, result in self.log.operations:
                for old, new in zip(_tensors(result), _tensors(function(*args, **kwargs)), strict=True):
                    if old.data_ptr() != new.data_ptr():
                        old.copy_(new)

    @contextlib.contextmanager
    def record(graph: Graph, pool: object = None, stream: Stream | None = None) -> Iterator[None]:
        if gpu.spoiled:
            raise RuntimeError(SPOILED)
        graph.log = _Log(gpu)
        with graph.log:
            yield
        gpu.recorded.append(graph.log.count)
        gpu.pools.append(pool)

    def empty_cache() -> None:
        if gpu.spoiled:
            raise RuntimeError(SPOILED)
        gpu.emptied += 1

    def here(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            args = tuple(_cpu(value) for value in args)
            return function(*args, **{name: _cpu(value) for name, value in kwargs.items()})

        return call

    stack = contextlib.ExitStack()
    cuda = {
        "Stream": Stream,
        "Event": Event,
        "CUDAGraph": Graph,
        "graph": record,
        "graph_pool_handle": object,
        "stream": lambda _: contextlib.nullcontext(),
        "current_stream": Stream,
        "synchronize": lambda: gpu.wait(gpu.free_at),
        "empty_cache": empty_cache,
        "is_available": lambda: True,
        "get_device_name": lambda: "simulated",
    }
    for name, value in cuda.items():
        stack.enter_context(mock.patch.object(torch.cuda, name, value))
    stack.enter_context(mock.patch.object(torch.Tensor, "to", here(torch.Tensor.to)))
    stack.enter_context(mock.patch.object(torch.Tensor, "pin_memory", lambda tensor: tensor))
    for name in _MOVERS:
        stack.enter_context(mock.patch.object(torch, name, here(getattr(torch, name))))
    return stack


@contextlib.contextmanager
def tf32() -> Iterator[list[bool]]:
    """Convolutions as a GPU computes them by default: of their inputs ten bits behind the point are left.

    Yields whether that was allowed, for each convolution; what is traced keeps what was so at that time.
    """
    asked: list[bool] = []

    def convolve(pixels: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *rest: Any) -> torch.Tensor:
        stride, padding, dilation, groups, allowed = rest[0], rest[1], rest[2], rest[5], rest[9]
        asked.append(allowed)
        if allowed:
            pixels, weight = _rounded(pixels), _rounded(weight)
        return torch.ops.aten.mkldnn_convolution(pixels, weight, bias, padding, stride, dilation, groups)

    library = torch.library.Library("aten", "IMPL")
    library.impl("_convolution", convolve, "CPU")
    try:
        yield asked
    finally:
        library._destroy()


def _rounded(value: torch.Tensor) -> torch.Tensor:
    return ((value.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def _cpu(value: Any) -> Any:
    return "cpu" if isinstance(value, str | torch.device) and str(value) == "cuda" else value


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [each for each in value if isinstance(each, torch.Tensor)] if isinstance(value, tuple | list) else []

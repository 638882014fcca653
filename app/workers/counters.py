"""What workers count for /metrics: each in files of its own, in one folder, of which any of them shows the sums."""

import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, multiprocess, values
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from app.process.metrics import SUMMED, Metrics
from app.workers.board import Board
from app.workers.handed import Handed

# Without types of their own.
_values: Any = values
_multiprocess: Any = multiprocess
# Of several processes these are the same, or those of the first.
_SAME = ("process_max_fds", "process_start_time_seconds")


def metrics(handed: Handed, board: Board, queue_size: int) -> Metrics:
    """The metrics of one worker, which show those of all.

    A worker that takes another one's place goes on with its files, so no counter ever falls.
    """
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = handed.counters
    in_files = _values.MultiProcessValue(lambda: handed.number)

    def value(kind: str, *names: Any, multiprocess_mode: str = "", **options: Any) -> Any:
        # Other gauges are asked when they are shown.
        if kind == "gauge" and multiprocess_mode != SUMMED:
            return _values.MutexValue(kind, *names, **options)
        return in_files(kind, *names, multiprocess_mode=multiprocess_mode, **options)

    _values.ValueClass = value
    registry = CollectorRegistry()
    _multiprocess.MultiProcessCollector(registry, handed.counters)
    registry.register(_Processes(board))
    return Metrics(queue_size, registry)


def forget(folder: Path, number: int) -> None:
    """What a worker had waiting when it died waits no more."""
    _multiprocess.mark_process_dead(number, str(folder))


class _Processes(Collector):
    """What the supervisor, its workers and the process that has the device take of the machine, together."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def collect(self) -> Iterable[Metric]:
        """The sums."""
        found: dict[str, Metric] = {}
        others = (self._board.engine, *(row.process for row in self._board.rows))
        for process in (os.getppid(), *filter(None, others)):
            for metric in ProcessCollector(pid=partial(int, process), registry=None).collect():
                if metric.name not in found:
                    found[metric.name] = metric
                elif metric.name not in _SAME:
                    first = found[metric.name].samples
                    first[0] = first[0]._replace(value=first[0].value + metric.samples[0].value)
        return found.values()

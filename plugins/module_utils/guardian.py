"""A second process that puts things back when the first one is killed half-way."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable


class Guardian:
    """Waits beside this process; when that ends without a word, it calls `undo`.

    It belongs to nobody: a signal for the group, the session or the children of this process does not reach it.
    """

    def __init__(self, undo: Callable[[], object]) -> None:
        waits, self._word = os.pipe()
        child = os.fork()
        if child:
            os.close(waits)
            os.waitpid(child, 0)
            return
        os.setsid()
        if os.fork():
            os._exit(0)
        os.close(self._word)
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        # Whoever reads the output of this process waits until nobody has it open.
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        with contextlib.suppress(BaseException):
            if not os.read(waits, 1):
                undo()
        os._exit(0)

    def dismiss(self) -> None:
        """Say that nothing is to be undone any more."""
        os.write(self._word, b".")
        os.close(self._word)

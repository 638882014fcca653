"""How far a module is, in a file on the host as long as it runs; the controller looks at it when it shows progress."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

SECONDS = 1.0


class Report:
    """A line as the action ``watched`` reads it. Without a path nothing is written; a failure to write is ignored."""

    def __init__(self, path: str | None) -> None:
        self._path = Path(path) if path else None
        self._next = 0.0

    def say(self, done: float, words: str = "") -> None:
        """Tell how far the module is, in the unit that its action counts in; at most once a second is enough."""
        now = time.monotonic()
        if self._path is None or now < self._next:
            return
        self._next = now + SECONDS
        with contextlib.suppress(OSError):
            beside = self._path.with_name(f".{self._path.name}")
            beside.write_text(f"progress {done:.1f} {' '.join(words.split())}\n", encoding="utf-8")
            beside.replace(self._path)

    def __enter__(self) -> Report:
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the file, also one that a killed run left."""
        if self._path:
            with contextlib.suppress(OSError):
                self._path.unlink()

"""An engine that is in another process."""

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from app.process import memory

if TYPE_CHECKING:
    from app.engines.engine import Precision, Runtime
    from app.fronts.slots import Slots


@dataclass(frozen=True)
class RemoteEngine:
    """An engine in another process: what it is, the way to it, and the memory that both share."""

    runtime: "Runtime"
    device: str
    precision: "Precision"
    process: int
    channel: socket.socket
    slots: "Slots"

    def memory(self) -> int:
        """Bytes that its process uses of this machine's memory."""
        try:
            return memory.used(Path(f"/proc/{self.process}/statm"))
        except OSError:  # it has ended, which is noticed elsewhere
            return 0

"""What a process is handed by the one that starts it: its number, and descriptors that it inherits."""

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

# What is said over a channel: a connection comes, all workers are ready; the model is loaded, connections were taken.
CONNECTION, COMPLETE, LOADED, TAKEN = b"c", b"r", b"l", b"t"


@dataclass(frozen=True)
class Handed:
    """What a worker needs to be one of several."""

    number: int
    workers: int
    # Connections come through it, one a message.
    channel: int
    # The shared numbers.
    board: int
    # A folder for counters of /metrics.
    counters: str
    # The CPU that is its own, where there is one for each.
    cpu: int | None = None
    # Whether it takes the place of one that has died.
    again: bool = False
    # The way in to the engine's process, where there is one.
    door: int | None = None

    @classmethod
    def read(cls, argument: str) -> Self:
        """What was handed over as a command's argument."""
        return cls(**json.loads(argument))

    @property
    def counters_folder(self) -> Path:
        """The folder for counters."""
        return Path(self.counters)

    def start(self, module: str) -> subprocess.Popen[bytes]:
        """Start a process of its own group, which signals of a terminal do not reach, with what it is handed."""
        descriptors = [number for number in (self.channel, self.board, self.door) if number is not None]
        command = [sys.executable, "-m", module, json.dumps(asdict(self))]
        return subprocess.Popen(command, pass_fds=descriptors, process_group=0)

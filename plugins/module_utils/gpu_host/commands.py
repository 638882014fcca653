"""Run a command that may be missing or may never answer."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Callable


@dataclass(frozen=True)
class Outcome:
    """What became of one command."""

    rc: int = 0
    out: str = ""
    err: str = ""
    missing: bool = False
    timed_out: bool = False

    @property
    def ok(self) -> bool:
        """Whether the command ran to its end and was content."""
        return not self.missing and not self.timed_out and self.rc == 0

    @property
    def text(self) -> str:
        """What it said, on either stream, on one line."""
        return " ".join(f"{self.out} {self.err}".split())


Runner = Callable[[Sequence[str], float], Outcome]


def run(argv: Sequence[str], timeout: float) -> Outcome:
    """Run a command for at most `timeout` seconds, in the C locale."""
    environment = dict(os.environ, LC_ALL="C", LANGUAGE="")
    environment["PATH"] = (
        environment.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin:/usr/lib/wsl/lib"
    )
    try:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        return Outcome(rc=127, err=str(error), missing=True)
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        # A process stuck in the driver cannot be killed; waiting for it would hang this module as well.
        process.kill()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        return Outcome(rc=124, err=f"no answer within {timeout:g} s", timed_out=True)
    return Outcome(process.returncode, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))

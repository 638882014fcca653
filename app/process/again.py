"""Beginning again: a new process in the place of this one, which leaves out what failed."""

import contextlib
import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

from app.settings import PREFIX


def begin_again(*kept: int) -> NoReturn:
    """Become a new process that records nothing; a restart by whoever started this one would record again.

    It has these descriptors, too.
    """
    os.environ[f"{PREFIX}CUDA_GRAPHS"] = "false"
    logging.shutdown()
    sys.stdout.flush()
    # What the device's library has open would keep memory of the device.
    for opened in Path("/proc/self/fd").iterdir():
        number = int(opened.name)
        with contextlib.suppress(OSError):
            os.set_inheritable(number, number <= sys.stderr.fileno() or number in kept)
    os.execv(sys.executable, sys.orig_argv)

"""How much memory this process may use, and how much it does."""

import resource
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
_FILES = ("memory.max", "memory/memory.limit_in_bytes")
_MEMINFO = Path("/proc/meminfo")
_STATM = Path("/proc/self/statm")


def limit(cgroup: Path = CGROUP) -> int:
    """Bytes that the container may use (cgroup v2 or v1), at most what the machine has."""
    machine = int(_MEMINFO.read_text().split()[1]) << 10
    for name in _FILES:
        try:
            # "max" where there is none; cgroup v1 has a number beyond any machine.
            return min(machine, int((cgroup / name).read_text()))
        except (OSError, ValueError):
            continue
    return machine


def used() -> int:
    """Bytes that the process uses now."""
    return int(_STATM.read_text().split()[1]) * resource.getpagesize()

"""How much memory this process may use, and how much it does."""

import resource
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
_FILES = ("memory.max", "memory/memory.limit_in_bytes")
_MEMINFO = Path("/proc/meminfo")
STATM = Path("/proc/self/statm")


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


def used(statm: Path = STATM) -> int:
    """Bytes that a process uses now and that nothing but its end gives back.

    Pages of files, like mapped weights and libraries, are not among them: the kernel drops them when memory is short.
    """
    _, resident, of_files, *_ = (int(pages) for pages in statm.read_text().split())
    return (resident - of_files) * resource.getpagesize()

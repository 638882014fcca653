"""How many CPUs this process may really use."""

import os
import sys
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
CPUINFO = Path("/proc/cpuinfo")


def available(cgroup: Path = CGROUP) -> int:
    """Whole CPUs from the affinity mask and the container's CPU quota (cgroup v2 or v1), at least one.

    torch and thread pools count the host's CPUs; under a quota that many threads only get throttled.
    """
    cpus = len(os.sched_getaffinity(0))
    quota = _quota(cgroup)
    return max(1, cpus if quota is None else min(cpus, int(quota)))


def own(number: int, processes: int) -> int | None:
    """The CPU of one of several processes, where there is one for each.

    Under a quota below that, the CPUs are shared with others, and the kernel knows better which one is idle.
    """
    all_of_them = sorted(os.sched_getaffinity(0))
    return all_of_them[number] if processes == len(all_of_them) == available() else None


def _quota(cgroup: Path) -> float | None:
    try:
        limit, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            limit = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if limit in ("max", "-1"):
        return None
    return int(limit) / int(period)


def kind(cpuinfo: Path = CPUINFO) -> str:
    """What the machine's first CPU is and can do, as the kernel says it; '' where it does not say."""
    try:
        first = cpuinfo.read_text(encoding="utf-8").partition("\n\n")[0]
    except OSError:
        return ""
    # Intel and AMD's words, and ARM's.
    said = ("model name", "flags", "CPU implementer", "CPU part", "Features")
    return "\n".join(line for line in first.splitlines() if line.partition(":")[0].strip() in said)


def keep_to_one() -> None:
    """Have what torch computes in the calling thread, where it is in use, stay on one CPU: others work beside it."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)

"""Read what SELinux lets containers do, and judge it."""

from __future__ import annotations

from pathlib import Path

from .files import read_text
from .finding import Facts, Finding, finding


def selinux_facts(root: Path) -> dict[str, bool]:
    """Whether SELinux is enforced, and whether it lets containers use devices."""
    allowed = read_text(root / "sys/fs/selinux/booleans/container_use_devices").split()
    return {
        "enforcing": read_text(root / "sys/fs/selinux/enforce").strip() == "1",
        "container_use_devices": allowed[:1] == ["1"],
    }


def assess_selinux(facts: Facts) -> list[Finding]:
    """GPU025: containers may not use devices."""
    selinux = facts["selinux"]
    if not selinux["enforcing"] or not facts["engine"]["selinux"] or selinux["container_use_devices"]:
        return []
    return [
        finding(
            "GPU025",
            "warning",
            "SELinux forbids containers to use the GPU's devices: they fail with NVML: Insufficient Permissions.",
            "SELinux is enforcing, Docker labels containers, the boolean container_use_devices is off",
            "setsebool -P container_use_devices on lets all containers use devices given to them; the alternative is "
            "security_opt label=disable for this service, which gives up the separation for it.",
        )
    ]

"""What grows old by itself: versions and flaws of others, each with the day on which it was compared with its source.

A test warns where that is long ago. To renew a row, read its source, change the value where it is used, and the day.
The keys were compared with the fingerprints that several public projects pin.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Aging:
    """One fact of somebody else: where this project says it, what it says, and when that was last true."""

    subject: str
    place: str
    value: str
    checked: str
    source: str


AGING = (
    Aging(
        subject="newest release of the container toolkit",
        place="roles/nvidia_container_toolkit/defaults/main.yml: nvidia_container_toolkit_version",
        value="1.20.1",
        checked="2026-11-27",
        source="https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/release-notes.html",
    ),
    Aging(
        subject="branch of the driver with long-term support that still drives Maxwell to Volta (until June 2028)",
        place="roles/nvidia_driver/defaults/main.yml: nvidia_driver_branch",
        value="580",
        checked="2026-11-27",
        source="https://docs.nvidia.com/datacenter/tesla/drivers/supported-drivers-and-cuda-toolkit-versions.html",
    ),
    Aging(
        subject="newest flaw of the container toolkit",
        place="plugins/module_utils/gpu_host/aging.py: FLAWS",
        value="CVE-2026-24260",
        checked="2026-11-27",
        source="https://www.nvidia.com/en-us/security/ (bulletins 5582, 5585, 5599, 5616, 5659 and 5850)",
    ),
    Aging(
        subject="key of NVIDIA's container toolkit",
        place="roles/nvidia_container_toolkit/defaults/main.yml: nvidia_container_toolkit_key_fingerprints",
        value="C95B321B61E88C1809C4F759DDCAE044F796ECB0",
        checked="2026-11-27",
        source="https://nvidia.github.io/libnvidia-container/gpgkey",
    ),
    Aging(
        subject="key of NVIDIA's driver for the RHEL family",
        place="roles/nvidia_driver/defaults/main.yml: nvidia_driver_key_fingerprints",
        value="610C7B14E068A878070DA4E99CD0A493D42D0685",
        checked="2026-11-27",
        source="https://developer.download.nvidia.com/compute/cuda/repos/rhel9/x86_64/D42D0685.pub",
    ),
    Aging(
        subject="keys of Docker's repositories",
        place="roles/docker_engine/defaults/main.yml: docker_engine_key_fingerprints",
        value="9DC858229FC7DD38854AE2D88D81803C0EBFCD88, 060A61C51B558A7F742B77AAC52FEB6B621E9F35",
        checked="2026-11-27",
        source="https://docs.docker.com/engine/install/",
    ),
)


@dataclass(frozen=True)
class Flaw:
    """One published flaw of the toolkit; `only` names the way of GPU access that it needs, below version `before`."""

    name: str
    fixed: str
    only: str = ""
    before: str = ""


# From NVIDIA's security bulletins 5582, 5585, 5599, 5616, 5659 and 5850.
FLAWS = (
    Flaw("CVE-2024-0132", "1.16.2", only="nvidia", before="1.16.2"),
    Flaw("CVE-2024-0134", "1.17.0"),
    Flaw("CVE-2024-0135", "1.17.3"),
    Flaw("CVE-2024-0136", "1.17.3"),
    Flaw("CVE-2024-0137", "1.17.3"),
    Flaw("CVE-2025-23359", "1.17.4", only="nvidia", before="1.17.4"),
    Flaw("CVE-2025-23266", "1.17.8", only="cdi", before="1.17.5"),
    Flaw("CVE-2025-23267", "1.17.8", only="cdi", before="1.17.5"),
    Flaw("CVE-2026-24260", "1.19.1"),
)

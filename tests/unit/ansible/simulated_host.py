"""A host made of a file tree and canned answers of commands, for tests of what the host checks make of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.commands import Outcome
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.engine import assess_engine
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.findings import assess_driver, assess_toolkit
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.host import host_facts
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.units import UNITS

FIXTURES = Path(__file__).resolve().parent / "fixtures"
PROPERTIES = "--property=Id,LoadState,ActiveState,Result"
CU124 = {
    "cuda": "12.4",
    "min_driver": "525.60.13",
    "recommended_driver": "550.54.14",
    "compute_capabilities": ["5.0", "6.0", "7.0", "7.5", "8.0", "8.6", "9.0"],
}
MISMATCH = Outcome(
    rc=18, out="Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.82"
)
NO_DRIVER = Outcome(
    rc=9,
    out="NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
    "Make sure that the latest NVIDIA driver is installed and running.",
)


def fixture(name: str) -> str:
    return (FIXTURES / name).read_text(encoding="utf-8")


@dataclass
class Host:
    """A host made of a file tree and of commands with canned answers: two H100, driver 550, CDI, Docker 26."""

    root: Path
    answers: dict[tuple[str, ...], Outcome] = field(default_factory=dict)
    # The GPUs that the service shall use.
    gpus: object = "all"

    def __post_init__(self) -> None:
        self.write("proc/driver/nvidia/version", fixture("proc/proprietary_550"))
        self.write("proc/sys/kernel/osrelease", "6.1.0-31-amd64\n")
        self.module("550.144.03")
        self.write("usr/lib/x86_64-linux-gnu/libnvidia-ml.so.550.144.03", "")
        self.write("usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1", "")
        self.write("etc/cdi/nvidia.yaml", fixture("cdi/nvidia_550.yaml.txt"))
        self.write("usr/sbin/dockerd", "")
        self.write("proc/devices", fixture("proc/devices"))
        self.write("run/nvidia-persistenced/socket", "")
        self.write("var/lib/dpkg/status", fixture("packages/status_held"))
        self.answer(Outcome(out=fixture("units/healthy")), "systemctl", "show", PROPERTIES, *UNITS)
        self.pci("0000:19:00.0")
        for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
            self.write(f"dev/{name}", "")
        capabilities = "GPU-0c3f6a11-6d0b-4f4e-9a53-0d8c1b8c3a10, 9.0\nGPU-7fe2a9b4-2f9d-4c61-8e0a-5b1e7d0f4422, 9.0\n"
        self.smi(Outcome(out=fixture("nvidia_smi/h100_550.xml")))
        self.answer(Outcome(out=capabilities), "nvidia-smi", "--query-gpu=uuid,compute_cap", "--format=csv,noheader")
        self.answer(Outcome(out="NVIDIA Container Toolkit CLI version 1.20.1\ncommit: abc"), "nvidia-ctk", "--version")
        self.info(json.loads(fixture("docker/info_26.json")))

    def write(self, path: str, text: str) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")

    def remove(self, path: str) -> None:
        (self.root / path).unlink()

    def module(self, version: str) -> None:
        path = self.root / "lib/modules/6.1.0-31-amd64/updates/dkms/nvidia.ko"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\x7fELF\x02\x01license=NVIDIA\0version=" + version.encode() + b"\0srcversion=1B2C\0")

    def pci(
        self,
        address: str,
        vendor: str = "0x10de",
        pci_class: str = "0x030200",
        driver: str = "nvidia",
        device: str = "0x2330",
    ) -> None:
        folder = f"sys/bus/pci/devices/{address}"
        for name, value in (("vendor", vendor), ("device", device), ("class", pci_class)):
            self.write(f"{folder}/{name}", value + "\n")
        link = self.root / folder / "driver"
        link.unlink(missing_ok=True)
        if driver:
            target = self.root / "sys/bus/pci/drivers" / driver
            target.mkdir(parents=True, exist_ok=True)
            link.symlink_to(target)

    def answer(self, outcome: Outcome, *argv: str) -> None:
        self.answers[argv] = outcome

    def smi(self, outcome: Outcome) -> None:
        self.answer(outcome, "nvidia-smi", "-q", "-x")

    def log(self, name: str) -> None:
        self.answer(
            Outcome(out=fixture(f"log/{name}.txt")),
            *("journalctl", "--dmesg", "--boot", "--no-pager", "--quiet", "--output=short-iso"),
        )

    def info(self, data: dict[str, Any]) -> None:
        self.answer(Outcome(out=json.dumps(data)), "docker", "info", "--format", "{{json .}}")

    def change_info(self, **changes: Any) -> None:
        self.info({**json.loads(fixture("docker/info_26.json")), **changes})

    def without_gpu(self) -> None:
        self.smi(Outcome(rc=127, missing=True))
        self.pci("0000:19:00.0", vendor="0x8086", driver="i915")
        self.remove("proc/driver/nvidia/version")

    def run(self, argv: Sequence[str], timeout: float) -> Outcome:
        return self.answers.get(tuple(argv), Outcome(rc=127, err="No such file or directory", missing=True))

    def facts(self) -> dict[str, Any]:
        return host_facts(self.root, self.run, 1.0, {"driver", "engine", "toolkit"}, self.gpus)

    def driver(self, expected: str = "auto", **requirements: Any) -> list[tuple[str, str]]:
        return shown(assess_driver(self.facts(), expected, {**CU124, **requirements}))

    def toolkit(self, required: bool = True) -> list[tuple[str, str]]:
        return shown(assess_toolkit(self.facts(), required))

    def engine(self, required: bool = True) -> list[tuple[str, str]]:
        return shown(assess_engine(self.facts(), required))


def shown(findings: list[dict[str, str]]) -> list[tuple[str, str]]:
    for item in findings:
        assert set(item) == {"id", "severity", "summary", "evidence", "remedy"}
        assert all(item.values()), f"{item['id']} leaves something unsaid: {item}"
    return [(item["id"], item["severity"]) for item in findings]

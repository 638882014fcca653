"""Read which of NVIDIA's devices are on the PCI bus, and judge what holds them."""

from __future__ import annotations

from pathlib import Path

from .files import entries, read_text
from .finding import Facts, Finding, finding
from .generations import modules_needed


def pci_devices(root: Path) -> list[dict[str, str]]:
    """NVIDIA display and 3D controllers on the PCI bus, with the kernel driver each is bound to."""
    found = []
    for device in entries(root / "sys/bus/pci/devices"):
        if read_text(device / "vendor").strip().lower() != "0x10de":
            continue
        pci_class = read_text(device / "class").strip().lower()
        if not pci_class.startswith("0x03"):
            continue
        link = device / "driver"
        found.append(
            {
                "address": device.name,
                "class": pci_class,
                "device": read_text(device / "device").strip().lower(),
                "driver": link.resolve().name if link.exists() else "",
            }
        )
    return found


def nvswitches(root: Path) -> int:
    """Count the NVSwitches on the PCI bus: bridges of vendor NVIDIA."""
    return sum(
        read_text(device / "vendor").strip().lower() == "0x10de"
        and read_text(device / "class").strip().lower().startswith("0x0680")
        for device in entries(root / "sys/bus/pci/devices")
    )


def assess_nouveau(facts: Facts) -> list[Finding]:
    """GPU002: nouveau holds a GPU."""
    bound = [device["address"] for device in facts["pci_devices"] if device["driver"] == "nouveau"]
    idle = [device["address"] for device in facts["pci_devices"] if device["driver"] != "nvidia"]
    if not bound and not (facts["driver"]["nouveau_loaded"] and idle):
        return []
    return [
        finding(
            "GPU002",
            "error",
            "The nouveau driver holds the GPU, so NVIDIA's cannot.",
            f"{', '.join(bound) or 'no device'} bound to nouveau; "
            f"module nouveau {'loaded' if facts['driver']['nouveau_loaded'] else 'not loaded'}",
            "Blacklist nouveau in /etc/modprobe.d, rebuild the initramfs, install NVIDIA's driver and reboot; "
            "set nvidia_driver_gpu to absent where this card is only for a screen.",
        )
    ]


def assess_flavour(facts: Facts) -> list[Finding]:
    """GPU005: the kernel modules of the other licence, which cannot drive this generation."""
    flavour = facts["driver"]["flavour"]
    listed = {short_address(gpu["pci_address"]) for gpu in facts["gpus"]}
    silent = [device for device in facts["pci_devices"] if short_address(device["address"]) not in listed]
    needed = facts["log"]["flavour_wanted"] or modules_needed(silent)
    if not flavour or not silent or needed in {flavour, "either"}:
        return []
    return [
        finding(
            "GPU005",
            "error",
            f"The {flavour} kernel modules are installed, but this host's GPU works only with the {needed} ones.",
            f"{', '.join(item['address'] for item in silent)} ({silent[0]['device']}) not seen by nvidia-smi; "
            f"the kernel's log {f'asks for the {needed} modules' if facts['log']['flavour_wanted'] else 'is silent'}",
            f"Install the {needed} modules of the same version (Ubuntu: nvidia-driver-BRANCH-server"
            f"{'-open' if needed == 'open' else ''}; RHEL family: stream BRANCH-"
            f"{'open' if needed == 'open' else 'dkms'}) and reboot.",
        )
    ]


def short_address(address: str) -> str:
    """PCI address as the kernel writes it: nvidia-smi gives the domain eight digits, /sys four."""
    domain, _, rest = address.lower().partition(":")
    return f"{domain[-4:]}:{rest}"

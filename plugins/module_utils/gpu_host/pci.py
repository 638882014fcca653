"""Read which of NVIDIA's devices are on the PCI bus, and judge what holds them."""

from __future__ import annotations

from pathlib import Path

from .files import entries, read_text
from .finding import Facts, Finding, finding
from .generations import modules_needed

# Drivers that keep a device for a virtual machine.
PASSED_THROUGH = ("vfio-pci", "pci-stub", "xen-pciback")
_FOREIGN = (*PASSED_THROUGH, "nouveau")


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


def assess_nouveau(facts: Facts, severity: str) -> list[Finding]:
    """GPU002: nouveau holds a GPU; a warning where every chosen one answers."""
    bound = [device["address"] for device in facts["pci_devices"] if device["driver"] == "nouveau"]
    idle = [item["address"] for item in facts["pci_devices"] if item["driver"] not in {"nvidia", *PASSED_THROUGH}]
    if not bound and not (facts["driver"]["nouveau_loaded"] and idle):
        return []
    return [
        finding(
            "GPU002",
            severity,
            "The nouveau driver holds the GPU, so NVIDIA's cannot."
            if severity == "error"
            else "The nouveau driver holds a GPU that the service does not use.",
            f"{', '.join(bound) or 'no device'} bound to nouveau; "
            f"module nouveau {'loaded' if facts['driver']['nouveau_loaded'] else 'not loaded'}",
            "Blacklist nouveau in /etc/modprobe.d, rebuild the initramfs, install NVIDIA's driver and reboot; "
            "set nvidia_driver_gpu to absent where this card is only for a screen."
            if severity == "error"
            else "Leave it so while this card is only for a screen: the GPUs that the service uses answer.",
        )
    ]


def assess_flavor(facts: Facts, severity: str) -> list[Finding]:
    """GPU005: the kernel modules of the other license cannot drive a GPU; a warning where every chosen one answers."""
    flavor = facts["driver"]["flavor"]
    listed = {short_address(gpu["pci_address"]) for gpu in facts["gpus"]}
    silent = [
        device
        for device in facts["pci_devices"]
        if short_address(device["address"]) not in listed and device["driver"] not in _FOREIGN
    ]
    needed = facts["log"]["flavor_wanted"] or modules_needed(silent)
    if not flavor or not silent or needed in {flavor, "either"}:
        return []
    return [
        finding(
            "GPU005",
            severity,
            f"The {flavor} kernel modules are installed, but this host's GPU works only with the {needed} ones."
            if severity == "error"
            else f"A GPU that the service does not use works only with the {needed} kernel modules.",
            f"{', '.join(item['address'] for item in silent)} ({silent[0]['device']}) not seen by nvidia-smi; "
            f"the kernel's log {f'asks for the {needed} modules' if facts['log']['flavor_wanted'] else 'is silent'}",
            f"Install the {needed} modules of the same version (Ubuntu: nvidia-driver-BRANCH-server"
            f"{'-open' if needed == 'open' else ''}; RHEL family: stream BRANCH-"
            f"{'open' if needed == 'open' else 'dkms'}) and reboot."
            if severity == "error"
            else f"Leave the {flavor} modules: those that would drive this card may not drive the GPUs that answer. "
            "Its place is in another host.",
        )
    ]


def assess_passed_through(facts: Facts, severity: str) -> list[Finding]:
    """GPU036: a GPU that is kept for a virtual machine."""
    kept = [device["address"] for device in facts["pci_devices"] if device["driver"] in PASSED_THROUGH]
    if not kept:
        return []
    drivers = {device["driver"] for device in facts["pci_devices"]}
    return [
        finding(
            "GPU036",
            "error" if severity == "error" else "info",
            f"GPU {', '.join(kept)} is kept for a virtual machine: this host cannot use it.",
            f"bound to {', '.join(sorted(drivers & set(PASSED_THROUGH)))}",
            "Deploy to the virtual machine that gets it, or give it back: take its ids out of the vfio-pci options in "
            "/etc/modprobe.d and of the kernel's command line, rebuild the initramfs and reboot.",
        )
    ]


def all_passed_through(facts: Facts) -> bool:
    """Whether every GPU on the bus is kept for virtual machines, so that nothing else about them matters."""
    devices = facts["pci_devices"]
    return bool(devices) and all(device["driver"] in PASSED_THROUGH for device in devices)


def short_address(address: str) -> str:
    """PCI address as the kernel writes it: nvidia-smi gives the domain eight digits, /sys four."""
    domain, _, rest = address.lower().partition(":")
    return f"{domain[-4:]}:{rest}"

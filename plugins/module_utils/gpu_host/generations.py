"""Generations of GPUs by their PCI device id: which kernel modules and which branches of the driver drive each."""

from __future__ import annotations

from dataclasses import dataclass

from .finding import Facts, Finding, finding


@dataclass(frozen=True)
class Generation:
    """One generation; `since` and `until` are the first and the last branch that drive it, 0 where there is none."""

    name: str
    modules: str
    since: int = 0
    until: int = 0


_OLDER = Generation("older than Fermi", "proprietary", until=340)
_FERMI = Generation("Fermi", "proprietary", until=390)
_KEPLER = Generation("Kepler", "proprietary", until=470)
_MAXWELL_TO_VOLTA = Generation("Maxwell, Pascal or Volta", "proprietary", until=580)
_TURING_AND_AMPERE = Generation("Turing or Ampere", "either")
_ADA_AND_HOPPER = Generation("Ada or Hopper", "either", since=525)
_BLACKWELL = Generation("Blackwell", "open", since=570)

# First and last PCI device id of each range, from the lists of supported products in the branches' own READMEs.
_RANGES = (
    (0x06C0, 0x06DF, _FERMI),
    (0x0DC0, 0x0F3F, _FERMI),
    (0x0FC0, 0x103F, _KEPLER),
    (0x1040, 0x109F, _FERMI),
    (0x1140, 0x117F, _FERMI),
    (0x1180, 0x11FF, _KEPLER),
    (0x1200, 0x127F, _FERMI),
    (0x1280, 0x12BF, _KEPLER),
    (0x1340, 0x1DFF, _MAXWELL_TO_VOLTA),
    (0x1E00, 0x22FF, _TURING_AND_AMPERE),
    (0x2300, 0x237F, _ADA_AND_HOPPER),
    (0x2380, 0x25FF, _TURING_AND_AMPERE),
    (0x2600, 0x28FF, _ADA_AND_HOPPER),
)

# No image here runs on a branch below this one, the floor of CUDA 12.
OLDEST_BRANCH = 525


def generation(device: str) -> Generation | None:
    """Generation of the GPU with this PCI device id (0x1e04); nothing where the id cannot be read."""
    try:
        number = int(device, 16)
    except ValueError:
        return None
    if number >= 0x2900:
        return _BLACKWELL
    for first, last, found in _RANGES:
        if first <= number <= last:
            return found
    return _OLDER if number else None


def legacy(device: str) -> Generation | None:
    """Generation of a GPU that no branch of today drives any more, or nothing."""
    found = generation(device)
    return found if found and 0 < found.until < OLDEST_BRANCH else None


def modules_needed(devices: list[dict[str, str]]) -> str:
    """Which kernel modules drive the GPUs on the bus: open, proprietary, or either; those beyond help have no say."""
    known = [generation(item["device"]) for item in devices if not legacy(item["device"])]
    wanted = {item.modules for item in known if item}
    # Blackwell has no other choice; the older cards beside it then do without.
    return "open" if "open" in wanted else "proprietary" if "proprietary" in wanted else "either"


def assess_legacy(facts: Facts) -> list[Finding]:
    """GPU029: every GPU is of a generation that the drivers of today dropped."""
    devices = facts["pci_devices"]
    old = [(item, found) for item in devices if (found := legacy(item["device"]))]
    if not old or len(old) < len(devices):
        return []
    last = max(found.until for _, found in old)
    return [
        finding(
            "GPU029",
            "error",
            "This host's GPU is too old: no driver that an image here can use supports it.",
            "; ".join(
                f"{item['address']} ({item['device']}) is {found.name}, last driven by branch {found.until}"
                for item, found in old
            ),
            f"Install no driver for it: branch {last} ends before CUDA 12, which needs {OLDEST_BRANCH} or newer. "
            "Use a GPU of the Maxwell generation or newer, or set nvidia_driver_gpu to absent to run on the CPU.",
        )
    ]

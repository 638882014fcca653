"""Choose the packages that bring a driver which computes to a host: module, CUDA libraries, tools, and kernel headers.

Only what a container needs is installed, no display: NVIDIA calls it the compute-only installation. Nothing in these
lists relies on recommended packages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .generations import Generation, generation, legacy, modules_needed

# Rebuilds of RHEL, as Ansible and /etc/os-release name them.
_EL = {"rhel", "rocky", "almalinux", "centos", "ol"}
_EL_RELEASES = (8, 9, 10)


@dataclass(frozen=True)
class Machine:
    """What a plan depends on; `images` are the host's installed kernel metapackages (linux-image-amd64)."""

    distribution: str
    release: int
    kernel: str
    devices: Sequence[Mapping[str, str]]
    headers: bool = False
    images: Sequence[str] = ()
    branch: int = 580


@dataclass
class Plan:
    """What to install, or why not; `headers` begins with the running kernel's, `stream` and `lock` are for dnf."""

    packages: list[str] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)
    same_version: list[str] = field(default_factory=list)
    stream: str = ""
    lock: str = ""
    refusal: str = ""


def draft(machine: Machine) -> Plan:
    """The packages that this kind of host needs, whether or not its package sources have them."""
    if machine.devices and all(item.get("driver") == "vfio-pci" for item in machine.devices):
        return Plan(
            refusal="Every GPU of this host is bound to vfio-pci, for virtual machines: a driver on the host cannot "
            "use it. Deploy to the virtual machine, or unbind the GPU and boot without that binding."
        )
    if machine.distribution == "debian":
        return _debian(machine)
    if machine.distribution == "ubuntu":
        return _ubuntu(machine)
    if machine.distribution in _EL and machine.release in _EL_RELEASES:
        return _enterprise_linux(machine)
    name = f"{machine.distribution} {machine.release or ''}".strip()
    return Plan(
        refusal=f"The role knows no driver packages for {name}. Name them in nvidia_driver_packages, or install the "
        "driver by hand and run again."
    )


def settle(plan: Plan, machine: Machine, offered: Mapping[str, str]) -> Plan:
    """Compare a draft with the versions that the package sources offer (an empty one: not at all)."""
    if plan.refusal:
        return plan
    plan.refusal = _no_source(plan, machine, offered) or _no_headers(plan, machine, offered)
    plan.refusal = plan.refusal or _unlike(plan, offered) or _not_driven(plan, machine, offered)
    # Headers that a package of another name or nobody's package brought are there already.
    plan.headers = [name for name in plan.headers if offered.get(name)]
    return plan


def kernel_flavor(kernel: str) -> str:
    """Flavor in the name of a kernel of Debian or Ubuntu: amd64, cloud-amd64, rt-arm64; generic, aws, generic-64k."""
    debian = re.search(r"-((?:cloud-|rt-)?(?:amd64|arm64)(?:-16k)?)$", kernel)
    if debian:
        return debian.group(1)
    ubuntu = re.match(r"\d+\.\d+\.\d+-\d+-([a-z][\w-]*)$", kernel)
    return ubuntu.group(1) if ubuntu else ""


def _debian_headers(machine: Machine) -> list[str]:
    flavor = kernel_flavor(machine.kernel)
    follows = []
    for image in machine.images:
        name = image.removeprefix("linux-image-")
        # A metapackage that rolls on with this kernel: generic-hwe-24.04 and virtual are generic, aws-lts-24.04 is aws.
        of_flavor = name == flavor or re.fullmatch(rf"{re.escape(flavor)}-(?:hwe|lts|edge|\d).*", name)
        virtual = flavor == "generic" and re.fullmatch(r"virtual(?:-(?:hwe|lts|edge|\d).*)?", name)
        if flavor and (of_flavor or virtual):
            follows.append(f"linux-headers-{name}")
    return [f"linux-headers-{machine.kernel}", *sorted(set(follows))]


def _debian(machine: Machine) -> Plan:
    needed = modules_needed([dict(item) for item in machine.devices])
    module = "nvidia-open-kernel-dkms" if needed == "open" else "nvidia-kernel-dkms"
    same = [module, "libcuda1", "libnvidia-nvvm4", "nvidia-smi"]
    # libcuda1 brings the PTX compiler, the daemon the library that it configures GPUs with.
    return Plan([*same, "nvidia-persistenced"], _debian_headers(machine), same)


def _ubuntu(machine: Machine) -> Plan:
    branch = f"{machine.branch}-server"
    ending = "" if modules_needed([dict(item) for item in machine.devices]) == "proprietary" else "-open"
    same = [
        f"nvidia-headless-{branch}{ending}",
        f"libnvidia-compute-{branch}",
        f"nvidia-compute-utils-{branch}",
        f"nvidia-utils-{branch}",
    ]
    return Plan(same, _debian_headers(machine), same)


def _enterprise_linux(machine: Machine) -> Plan:
    proprietary = modules_needed([dict(item) for item in machine.devices]) == "proprietary"
    module = "kmod-nvidia-latest-dkms" if proprietary else "kmod-nvidia-open-dkms"
    release, _, variant = machine.kernel.partition("+")
    base = "kernel-uek" if "uek" in release else f"kernel-{variant}" if variant in {"64k", "rt"} else "kernel"
    headers = [f"{base}-devel-{release}"]
    if base == "kernel-uek":
        headers.append("kernel-uek-devel")
    elif machine.release >= 9 and variant != "rt":
        # Upgrades of the kernel then bring the headers along.
        headers.append(f"{base}-devel-matched")
    plan = Plan(["nvidia-driver-cuda", module, "nvidia-persistenced"], headers, ["nvidia-driver-cuda", module])
    if machine.release < 10:
        plan.stream = f"nvidia-driver:{machine.branch}-{'dkms' if proprietary else 'open'}"
    else:
        # Modules of dnf are gone in this release; NVIDIA keeps hosts on a branch by a lock on its versions.
        plan.lock = f"*nvidia*{machine.branch}*"
    return plan


def _no_source(plan: Plan, machine: Machine, offered: Mapping[str, str]) -> str:
    missing = [name for name in plan.packages if not offered.get(name)]
    if machine.distribution in _EL and not missing and not offered.get("dkms"):
        return (
            "No package source of this host offers dkms, which builds the driver's module. Enable EPEL "
            "(dnf install epel-release, or its release package on RHEL) and run again."
        )
    if not missing:
        return ""
    where = {
        "debian": "They are in the components contrib, non-free and non-free-firmware of Debian",
        "ubuntu": f"They are in the component restricted of Ubuntu, for the branches that it has; {machine.branch} was "
        "asked for (nvidia_driver_branch)",
    }.get(machine.distribution, "They are in NVIDIA's repository")
    adds = "add them to the package sources of this host"
    if machine.distribution != "ubuntu":
        adds = f"let the role add them with nvidia_driver_sources=true, or {adds}"
    return f"No package source of this host offers {', '.join(missing)}. {where}: {adds}."


def _no_headers(plan: Plan, machine: Machine, offered: Mapping[str, str]) -> str:
    exact = plan.headers[0]
    if machine.headers or offered.get(exact):
        return ""
    says = (
        f"The headers of the running kernel {machine.kernel} are not installed, and no package source offers {exact} "
        "any more: the driver's module cannot be built for it."
    )
    flavor = kernel_flavor(machine.kernel)
    if machine.distribution in _EL:
        newest = "dnf upgrade " + exact.partition("-devel-")[0]
    elif flavor:
        # The metapackage that the host follows, or the one of this flavor.
        follows = plan.headers[1] if plan.headers[1:] else f"linux-headers-{flavor}"
        newest = f"apt-get update && apt-get install {follows.replace('-headers-', '-image-')}"
    else:
        return (
            f"{says} It is none of the distribution's: install its headers by hand, or boot one of the distribution's."
        )
    return f"{says} Boot the newest kernel first ({newest}, then a reboot), and run again."


def _unlike(plan: Plan, offered: Mapping[str, str]) -> str:
    versions = {name: upstream(offered[name]) for name in plan.same_version}
    if len(set(versions.values())) == 1:
        return ""
    return (
        "The package sources of this host offer parts of the driver in different versions, which do not work together: "
        f"{', '.join(f'{name} {version}' for name, version in versions.items())}. Wait until they agree, or name "
        "packages in nvidia_driver_packages."
    )


def _not_driven(plan: Plan, machine: Machine, offered: Mapping[str, str]) -> str:
    version = upstream(offered[plan.same_version[0]])
    branch = int(version.split(".")[0]) if version else machine.branch
    known = [(item, found) for item in machine.devices if (found := generation(item["device"]))]
    undriven = [(item, found) for item, found in known if not _drives(branch, found)]
    if not known or len(undriven) < len(machine.devices):
        return ""
    needs = "; ".join(
        f"{item['address']} ({item['device']}) is {found.name}, which needs "
        + (f"{found.since} or newer" if branch < found.since else f"{found.until} or older")
        for item, found in undriven
    )
    if all(legacy(item["device"]) for item, _ in undriven):
        advice = "No driver that an image here can use supports it: set nvidia_driver_gpu to absent to run on the CPU."
    elif machine.distribution == "debian":
        advice = "Install the driver from NVIDIA's own repository by hand, and run again."
    else:
        advice = "Choose another nvidia_driver_branch."
    return f"The package sources of this host offer driver {version}, which does not drive its GPU: {needs}. {advice}"


def _drives(branch: int, found: Generation) -> bool:
    return found.since <= branch and (not found.until or branch <= found.until)


def upstream(version: str) -> str:
    """Version of the driver in that of a package: 535.309.01 in 535.309.01-0+deb12u1 and in 3:535.309.01-1.el9."""
    match = re.match(r"(?:\d+:)?(\d+(?:\.\d+)*)", version)
    return match.group(1) if match else ""

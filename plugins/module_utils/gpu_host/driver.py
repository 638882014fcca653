"""Read the traces that the NVIDIA driver leaves on the host, and judge whether it can work."""

from __future__ import annotations

import gzip
import lzma
import re
from pathlib import Path
from typing import Any

from .commands import Outcome, Runner
from .files import entries, read_text
from .finding import Facts, Finding, finding
from .versions import older, version_key

PERSISTENCED_SOCKETS = ("run/nvidia-persistenced/socket", "var/run/nvidia-persistenced/socket")
_VERSION = r"(\d{3,}\.\d+(?:\.\d+)?)"
# Debian calls it nvidia-current or nvidia-current-open, that of one branch nvidia-tesla-535 or nvidia-legacy-390xx.
_MODULE = re.compile(
    r"nvidia(?:-(?:current|open|tesla|legacy|\d)[\w-]*)?"
    r"(?<!-drm)(?<!-uvm)(?<!-modeset)(?<!-peermem)\.ko(?:\.(?:xz|gz|zst))?"
)
_LIBRARY_FOLDERS = (
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib/x86_64-linux-gnu/nvidia/current",
    "usr/lib/aarch64-linux-gnu/nvidia/current",
    "usr/lib64",
    "usr/lib",
)
_DEVICE_NODES = ("nvidiactl", "nvidia-uvm")


def parse_loaded_driver(text: str) -> dict[str, str]:
    """Turn /proc/driver/nvidia/version into `{version, flavor}`; flavor is open, proprietary or empty."""
    match = re.search(r"^NVRM version:.*?\b" + _VERSION + r"\b", text, re.MULTILINE)
    if not match:
        return {"version": "", "flavor": ""}
    line = match.group(0)
    return {"version": match.group(1), "flavor": "open" if "Open Kernel Module" in line else "proprietary"}


def kernel_release(root: Path) -> str:
    """Name of the running kernel, or nothing when it is no name that a folder of modules can have."""
    text = read_text(root / "proc/sys/kernel/osrelease").strip()
    return text if re.fullmatch(r"[A-Za-z0-9][\w.+~-]{0,99}", text) else ""


def parse_modinfo(text: str) -> dict[str, str]:
    """Turn the output of modinfo into `{version, flavor, signer}`."""
    fields = dict(re.findall(r"^(version|license|signer):[ \t]*(.*)$", text, re.MULTILINE))
    version = re.search(_VERSION, fields.get("version", ""))
    # The open modules are licensed under both, the proprietary ones say NVIDIA.
    terms = fields.get("license", "")
    flavor = "open" if "GPL" in terms else "proprietary" if terms else ""
    return {
        "version": version.group(1) if version else "",
        "flavor": flavor,
        "signer": fields.get("signer", "").strip(),
    }


def module_on_disk(root: Path, run: Runner, timeout: float) -> dict[str, str]:
    """Version, flavor and signer of the nvidia module that the next boot would load; empty when there is none."""
    release = kernel_release(root)
    folder = root / "lib/modules" / release
    files = sorted(path for path in folder.rglob("nvidia*.ko*") if _MODULE.fullmatch(path.name)) if release else []
    if root == Path("/"):
        # By its plain name first: where several are installed, it is modprobe that chooses.
        for name in ("nvidia", *map(str, files)):
            outcome = run(["modinfo", name], timeout)
            if outcome.missing:
                break
            if outcome.ok and (found := parse_modinfo(outcome.out))["version"]:
                return found
    for path in files:
        # modinfo's fields stand in the file itself, each ended by a null byte.
        words = (b"\0" + _unpacked(path)).split(b"\0")
        pairs = (word.decode("latin-1").partition("=") for word in words if b"=" in word[:10])
        return parse_modinfo("\n".join(f"{name}: {value}" for name, _, value in pairs))
    return parse_modinfo("")


def _unpacked(path: Path) -> bytes:
    """Content of a module, which the distribution may have compressed; nothing where Python cannot read it."""
    try:
        content = path.read_bytes()
        return {".xz": lzma.decompress, ".gz": gzip.decompress}.get(path.suffix, bytes)(content)
    except (OSError, EOFError, lzma.LZMAError):
        return b""


def parse_dkms(text: str) -> list[dict[str, str]]:
    """Turn `dkms status`, of old and new releases, into `[{version, kernel, state}]` of the nvidia module.

    One that is added and built for no kernel has an empty one.
    """
    lines = re.findall(r"^nvidia[\w-]*(?:/|, )([\d.]+)(?:, ([^,:\s]+),[^:]*)?: *(\w+)", text, re.MULTILINE)
    return [{"version": version, "kernel": kernel, "state": state} for version, kernel, state in lines]


def parse_devices(text: str) -> dict[str, int]:
    """Turn /proc/devices into the major numbers that the kernel gave to the driver's devices."""
    pairs = re.findall(r"^ *(\d{1,9}) (nvidia[\w-]*)$", text, re.MULTILINE)
    return {name: int(number) for number, name in pairs}


def secure_boot(root: Path) -> bool | None:
    """Whether the firmware only starts what is signed; nothing is known without its variables."""
    for path in entries(root / "sys/firmware/efi/efivars", "SecureBoot-*"):
        try:
            return path.read_bytes()[-1:] == b"\x01"
        except OSError:
            return None
    return None


def user_space_version(root: Path) -> str:
    """Version of the driver's user-space libraries, from the name of the newest management library."""
    versions = []
    for folder in _LIBRARY_FOLDERS:
        for name in ("libnvidia-ml.so.", "libcuda.so."):
            for path in entries(root / folder, name + "*"):
                match = re.fullmatch(re.escape(name) + _VERSION, path.name)
                if match:
                    versions.append(match.group(1))
    return max(versions, key=version_key, default="")


def driver_facts(root: Path, run: Runner, timeout: float) -> dict[str, Any]:
    """Everything that is known about the driver without asking nvidia-smi."""
    loaded = parse_loaded_driver(read_text(root / "proc/driver/nvidia/version"))
    disk = module_on_disk(root, run, timeout)
    kernel = kernel_release(root)
    dkms = run(["dkms", "status"], timeout) if not loaded["version"] else Outcome(missing=True)
    return {
        "loaded_version": loaded["version"],
        "flavor": loaded["flavor"] or disk["flavor"],
        "disk_version": disk["version"],
        "disk_signer": disk["signer"],
        "user_version": user_space_version(root),
        "kernel": kernel,
        "kernel_headers": bool(kernel) and (root / "lib/modules" / kernel / "build").exists(),
        "dkms": parse_dkms(dkms.out) if dkms.ok else [],
        "secure_boot": secure_boot(root),
        "nouveau_loaded": (root / "sys/module/nouveau").is_dir(),
        "device_nodes": sorted(path.name for path in entries(root / "dev", "nvidia*") if not path.is_dir()),
        "device_majors": parse_devices(read_text(root / "proc/devices")),
        "modprobe_present": (root / "usr/bin/nvidia-modprobe").exists(),
        "persistenced_socket": any((root / path).exists() for path in PERSISTENCED_SOCKETS),
    }


def assess_versions(facts: Facts) -> list[Finding]:
    """GPU003, GPU004, GPU006, GPU007: whether a module is loaded, and whether it is the one of the libraries."""
    driver, smi = facts["driver"], facts["nvidia_smi"]
    loaded, disk, user = driver["loaded_version"], driver["disk_version"], driver["user_version"]
    evidence = f"loaded module {loaded or 'none'}, module on disk {disk or 'none'}, libraries {user or 'unknown'}"
    if not loaded and not smi["answered"]:
        if smi["timed_out"]:
            return []
        if disk:
            return [_rejected(facts, evidence) or _not_loaded(facts, evidence)]
        return [_not_built(facts, evidence)]
    differs = sorted({version for version in (disk, user) if version and loaded and version != loaded})
    if smi["mismatch"] or (differs and not smi["answered"] and not smi["timed_out"]):
        return [
            finding(
                "GPU006",
                "error",
                "The loaded NVIDIA module and its libraries have different versions: nothing can use the GPU.",
                f"{evidence}; nvidia-smi: {smi['message']}",
                "The driver's packages were upgraded while the old module stayed loaded. Drain this host, reboot it, "
                "then hold the packages (apt-mark hold, dnf versionlock).",
            )
        ]
    if differs:
        return [
            finding(
                "GPU007",
                "error",
                f"The driver was upgraded to {differs[-1]} but {loaded} is still loaded: "
                "what runs goes on, what starts next fails.",
                evidence,
                "Nothing was changed and the service goes on. Reboot this host in a quiet hour, then deploy.",
            )
        ]
    return []


def assess_age(facts: Facts, requirements: Facts) -> list[Finding]:
    """GPU009: a driver that is older than the image wants."""
    version, machine = facts["driver_version"], facts["machine"]
    built = [str(item) for item in requirements.get("machines") or []]
    if machine and built and machine not in built:
        return [
            finding(
                "GPU009",
                "error",
                f"The chosen image flavor is built for {', '.join(built)}, and this machine is {machine}.",
                f"uname -m says {machine}",
                "Serve on the CPU with inference_image_flavor=cpu, or bring an image of your own for this machine "
                "(inference_image_strategy=pull).",
            )
        ]
    minimum = str(requirements.get("min_driver") or "")
    recommended = str(requirements.get("recommended_driver") or "")
    cuda = str(requirements.get("cuda") or "")
    wanted = f"CUDA {cuda}" if cuda else "the chosen image flavor"
    if older(version, minimum):
        return [
            finding(
                "GPU009",
                "error",
                f"Driver {version} is too old for {wanted}, which needs {minimum} or newer.",
                f"driver {version}, minimum {minimum}, recommended {recommended or minimum}",
                f"Upgrade the driver to {recommended or minimum} or newer and reboot, "
                "or choose an inference_image_flavor built for an older CUDA.",
            )
        ]
    if older(version, recommended):
        return [
            finding(
                "GPU009",
                "warning",
                f"Driver {version} runs {wanted} only through minor-version compatibility; "
                f"{recommended} is recommended.",
                f"driver {version}, minimum {minimum or 'not stated'}, recommended {recommended}",
                f"Plan an upgrade of the driver to {recommended} or newer.",
            )
        ]
    return []


def assess_device_nodes(facts: Facts) -> list[Finding]:
    """GPU015: device nodes that containers open."""
    if not facts["nvidia_smi"]["answered"]:
        return []
    present = facts["driver"]["device_nodes"]
    missing = [f"/dev/{name}" for name in _DEVICE_NODES if name not in present]
    if not any(name.startswith("nvidia") and name[6:].isdigit() for name in present):
        missing.append("/dev/nvidia0")
    # A deploy that writes a specification makes this one first, and so does the runtime's hook.
    made_later = missing == ["/dev/nvidia-uvm"] and facts["driver"]["modprobe_present"]
    if not missing:
        return []
    return [
        finding(
            "GPU015",
            "warning" if made_later else "error",
            "Device nodes of the driver are missing, so containers cannot open the GPU.",
            f"missing {', '.join(missing)}",
            "Create them with `nvidia-modprobe -u -c=0` (or `nvidia-ctk system create-device-nodes "
            "--control-devices --load-kernel-modules`) and enable nvidia-persistenced, so that they come back at boot.",
        )
    ]


def _rejected(facts: Facts, evidence: str) -> Finding | None:
    driver, words = facts["driver"], facts["log"]["module_rejected"]
    if not words and (not driver["secure_boot"] or driver["disk_signer"]):
        return None
    state = {True: "on", False: "off", None: "unknown"}[driver["secure_boot"]]
    return finding(
        "GPU004",
        "error",
        "The kernel refuses NVIDIA's module, because it trusts no signature of it.",
        f"{evidence}; Secure Boot {state}, signed by {driver['disk_signer'] or 'nobody'}; "
        f"log: {words[0] if words else 'silent'}",
        "Use the distribution's signed modules (Ubuntu: linux-modules-nvidia-BRANCH-server-generic), or enrol the "
        "signing key: mokutil --import KEY, confirmed at the console during the next boot; or turn Secure Boot off.",
    )


def _not_loaded(facts: Facts, evidence: str) -> Finding:
    return finding(
        "GPU003",
        "error",
        "NVIDIA's driver is installed, but its kernel module is not loaded.",
        f"{evidence}; nvidia-smi: {facts['nvidia_smi']['message'] or 'not installed'}",
        "Reboot this host; if that does not help, read why the kernel refuses it: "
        "modprobe nvidia, then dmesg | grep -i nvidia.",
    )


def _not_built(facts: Facts, evidence: str) -> Finding:
    driver = facts["driver"]
    kernels = {item["kernel"] for item in driver["dkms"]} - {""}
    if driver["dkms"]:
        others = ", ".join(sorted(kernels - {driver["kernel"]}))
        none = "this kernel, but not installed" if kernels else "no kernel"
        headers = "are" if driver["kernel_headers"] else "are not"
        return finding(
            "GPU003",
            "error",
            f"NVIDIA's module was not built for the running kernel {driver['kernel']}.",
            f"{evidence}; dkms has it for {others or none}; headers of the running kernel {headers} there",
            f"Install the headers (Debian, Ubuntu: linux-headers-{driver['kernel']}; RHEL family: kernel-devel-"
            f"{driver['kernel']}), run dkms autoinstall and reboot, or boot a kernel that has the module.",
        )
    return finding(
        "GPU003",
        "error",
        "No NVIDIA driver is installed for the running kernel.",
        f"{evidence}; PCI devices {', '.join(item['address'] for item in facts['pci_devices'])}",
        "Install the driver (nvidia_driver_install=true does it on Debian, Ubuntu and the RHEL family) or the "
        "headers of the running kernel, then reboot; set nvidia_driver_gpu to absent to run on the CPU.",
    )

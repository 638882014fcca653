"""Judge the facts of a host: each problem becomes a finding with a stable id and a remedy.

docs/TROUBLESHOOTING.md explains every id.
"""

from __future__ import annotations

from .engine import cdi_by_default
from .finding import Facts, Finding, finding
from .flavors import runs_on
from .generations import assess_legacy
from .hardware import (
    assess_fabric,
    assess_flavour,
    assess_health,
    assess_persistence,
    assess_socket_in_specs,
    assess_vram,
)
from .toolkit import access_modes
from .upkeep import assess_pinning, assess_toolkit_packages, assess_uvm_number
from .versions import older

ENGINE_MINIMUM = "24.0"
STORAGE_MINIMUM_BYTES = 10 * 10**9
_SHM_DEFAULT = 64 * 2**20
_NOFILE_MINIMUM = 4096
_DEVICE_NODES = ("nvidiactl", "nvidia-uvm")


def gpu_present(facts: Facts) -> bool:
    """Whether the host has an NVIDIA GPU: one on the PCI bus, or one that nvidia-smi reports."""
    return bool(facts["pci_devices"] or facts["gpus"])


def assess_driver(facts: Facts, expected: str, requirements: Facts) -> list[Finding]:
    """Judge hardware and driver; `expected` is auto or required, `requirements` a row of the flavours table."""
    if not gpu_present(facts):
        return [
            finding(
                "GPU001",
                "error" if expected == "required" else "info",
                "This host has no NVIDIA GPU.",
                "no display controller of vendor 0x10de in /sys/bus/pci/devices, and nvidia-smi reports no GPU",
                "Check that the card is seated, or passed through to this machine; "
                "set nvidia_driver_gpu to absent where the host is meant to have none.",
            )
        ]
    found = assess_legacy(facts)
    if found:
        # Whatever else is wrong, nothing helps.
        return found
    found = _nouveau(facts)
    if not found:
        found = _versions(facts) or assess_flavour(facts) or _answers(facts)
    found += assess_pinning(facts)
    found += _driver_age(facts, requirements)
    found += _compute_capability(facts, requirements)
    found += _device_nodes(facts)
    found += assess_persistence(facts)
    found += _mig(facts)
    found += assess_fabric(facts)
    found += assess_health(facts)
    found += assess_vram(facts, requirements)
    return found


def assess_toolkit(facts: Facts, required: bool) -> list[Finding]:
    """Judge how containers reach the GPU; on a host without one there is nothing to judge."""
    if not gpu_present(facts):
        return []
    found = []
    engine, toolkit = facts["engine"], facts["toolkit"]
    modes = access_modes(engine, toolkit)
    severity = "error" if required else "warning"
    if engine["rootless"] or engine["snap"]:
        kind = "rootless" if engine["rootless"] else "from a snap"
        found.append(
            finding(
                "GPU011",
                severity,
                f"The Docker engine is {kind}, where GPU access needs settings that this project does not make.",
                f"data root {engine['data_root'] or 'unknown'}",
                "Install the engine from distribution or vendor packages: "
                "remove this one, then run the deploy with docker_engine_install=true.",
            )
        )
    if not modes and engine["version"]:
        found.append(_no_access(engine, toolkit, severity))
    of_specs = severity if modes[:1] == ["cdi"] else "warning"
    found += _stale_specs(facts, of_specs)
    found += _refresh_failed(facts)
    found += assess_uvm_number(facts, of_specs)
    found += assess_socket_in_specs(facts, of_specs)
    found += _mig_not_offered(facts, modes)
    found += _loses_devices(facts, modes)
    found += _restart_stops_containers(engine)
    found += _selinux(facts)
    found += assess_toolkit_packages(facts, modes)
    return found


def assess_engine(facts: Facts, required: bool) -> list[Finding]:
    """Judge the Docker engine itself; where it is about to be installed, what is missing is only a warning."""
    engine = facts["engine"]
    severity = "error" if required else "warning"
    install = "Run the deploy with docker_engine_install=true"
    if not engine["version"]:
        if not engine["cli_present"]:
            summary = "Docker is not installed."
            remedy = f"{install}, or install it by hand."
        elif engine["daemon_present"]:
            summary = "The Docker engine does not answer."
            remedy = (
                "Read its log (journalctl -u docker, or /var/log/dockerd.log without systemd), start it, and check "
                f"that this user may use its socket. {install} to have it started."
            )
        else:
            summary = "The docker command is here, but no Docker engine answers."
            remedy = f"{install}, or point DOCKER_HOST at the engine."
        return [finding("ENG001", severity, summary, engine["message"] or "docker info gave no answer", remedy)]
    found = []
    if older(engine["version"], ENGINE_MINIMUM):
        found.append(
            finding(
                "ENG002",
                "error",
                f"Docker {engine['version']} is too old: {ENGINE_MINIMUM} is the oldest that works here.",
                f"server version {engine['version']}",
                "Upgrade or remove the engine when its containers may stop, then run the deploy with "
                "docker_engine_install=true; an engine in use is never replaced by the playbook.",
            )
        )
    for identifier, name, package in (
        ("ENG003", "compose", "docker-compose-plugin"),
        ("ENG004", "buildx", "docker-buildx-plugin"),
    ):
        if not engine[f"{name}_version"]:
            found.append(
                finding(
                    identifier,
                    severity,
                    f"The docker command has no {name} plugin.",
                    f"docker {name} version gave no answer",
                    f"{install}, or install it by hand: {package} from the vendor's repository, "
                    f"docker-{name} from Debian's.",
                )
            )
    found += _limits(engine)
    free = engine["storage_free_bytes"]
    if 0 < free < STORAGE_MINIMUM_BYTES:
        found.append(
            finding(
                "ENG005",
                "warning",
                f"Only {free / 10**9:.1f} GB are free where Docker keeps its images.",
                f"data root {engine['data_root']}",
                "Free space (docker image prune removes images that nothing names) or move the data root; "
                "the GPU image alone needs about 5 GB.",
            )
        )
    return found


def _limits(engine: Facts) -> list[Finding]:
    tight = [
        f"{item['name']}: shared memory {item['shm_bytes'] // 2**20} MiB, open files {item['nofile'] or 'not stated'}"
        for item in engine["instances"]
        if item["shm_bytes"] <= _SHM_DEFAULT
        or (item["nofile"] or _NOFILE_MINIMUM) < _NOFILE_MINIMUM
        or (item["nofile"] is None and not older(engine["version"], "29"))
    ]
    if not tight:
        return []
    return [
        finding(
            "GPU022",
            "warning",
            "An instance of the service runs with the engine's own small limits.",
            "; ".join(tight),
            "Start it from docker-compose.yml, which states shm_size and ulimits, or set both where it is started: "
            "Docker 29 lets a container open 1024 files only.",
        )
    ]


def _nouveau(facts: Facts) -> list[Finding]:
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


def _versions(facts: Facts) -> list[Finding]:
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
    others = sorted({item["kernel"] for item in driver["dkms"] if item["kernel"] != driver["kernel"]})
    if driver["dkms"]:
        headers = "are" if driver["kernel_headers"] else "are not"
        return finding(
            "GPU003",
            "error",
            f"NVIDIA's module was not built for the running kernel {driver['kernel']}.",
            f"{evidence}; dkms has it for {', '.join(others) or 'this kernel, but not installed'}; "
            f"headers of the running kernel {headers} there",
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


def _answers(facts: Facts) -> list[Finding]:
    smi = facts["nvidia_smi"]
    if smi["timed_out"]:
        return [
            finding(
                "GPU027",
                "error",
                "nvidia-smi does not answer: the driver or a GPU hangs.",
                smi["message"],
                "Look for NVRM and Xid lines in dmesg, drain this host and reboot it; "
                "a GPU that hangs again needs service.",
            )
        ]
    if not smi["answered"]:
        return [
            finding(
                "GPU028",
                "error",
                "nvidia-smi gives no usable answer.",
                smi["message"] or "nvidia-smi is not installed",
                "Run nvidia-smi -q on the host; install the driver's utilities if the command is missing, "
                "and reboot if it says that no devices were found.",
            )
        ]
    return []


def _driver_age(facts: Facts, requirements: Facts) -> list[Finding]:
    version = facts["driver_version"]
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


def _compute_capability(facts: Facts, requirements: Facts) -> list[Finding]:
    supported = requirements.get("compute_capabilities") or []
    found = []
    for gpu in facts["gpus"]:
        if runs_on(gpu["compute_capability"], supported):
            continue
        listed = ", ".join(str(item) for item in requirements["compute_capabilities"])
        found.append(
            finding(
                "GPU009",
                "error",
                f"GPU {gpu['index']} ({gpu['name']}) has compute capability {gpu['compute_capability']}, "
                "for which the chosen image flavor holds no code.",
                f"the flavor is built for {listed}",
                "Choose an inference_image_flavor that lists this GPU's generation, "
                "or leave this GPU out of inference_service_gpus.",
            )
        )
    return found


def _device_nodes(facts: Facts) -> list[Finding]:
    if not facts["nvidia_smi"]["answered"]:
        return []
    present = facts["driver"]["device_nodes"]
    missing = [f"/dev/{name}" for name in _DEVICE_NODES if name not in present]
    if not any(name.startswith("nvidia") and name[6:].isdigit() for name in present):
        missing.append("/dev/nvidia0")
    if not missing:
        return []
    return [
        finding(
            "GPU015",
            "error",
            "Device nodes of the driver are missing, so containers cannot open the GPU.",
            f"missing {', '.join(missing)}",
            "Create them with `nvidia-modprobe -u -c=0` (or `nvidia-ctk system create-device-nodes "
            "--control-devices --load-kernel-modules`) and enable nvidia-persistenced, so that they come back at boot.",
        )
    ]


def _mig(facts: Facts) -> list[Finding]:
    found = []
    for gpu in facts["gpus"]:
        mig = gpu["mig"]
        if mig["pending"] is not None and mig["pending"] != mig["current"]:
            found.append(
                finding(
                    "GPU018",
                    "warning",
                    f"A change of MIG mode on GPU {gpu['index']} waits for a reset.",
                    f"current {_mode(mig['current'])}, pending {_mode(mig['pending'])}",
                    f"Stop what uses the GPU, then run nvidia-smi --gpu-reset -i {gpu['index']} or reboot.",
                )
            )
        elif mig["current"] and not mig["instances"]:
            found.append(
                finding(
                    "GPU018",
                    "error",
                    f"GPU {gpu['index']} is in MIG mode but has no MIG instance, so CUDA sees no device.",
                    f"uuid {gpu['uuid']}, 0 MIG devices",
                    f"Create instances (nvidia-smi mig -cgi PROFILE -C -i {gpu['index']}) or leave the mode "
                    f"(nvidia-smi -i {gpu['index']} -mig 0); refresh the CDI specification afterwards.",
                )
            )
    return found


def _mode(value: bool | None) -> str:
    return {True: "on", False: "off", None: "unknown"}[value]


def _no_access(engine: Facts, toolkit: Facts, severity: str) -> Finding:
    evidence = (
        f"toolkit {toolkit['version'] or 'not installed'}, CDI {'on' if engine['cdi_enabled'] else 'off'} "
        f"in Docker {engine['version']}, CDI devices {', '.join(toolkit['cdi_devices']) or 'none'}, "
        f"runtimes {', '.join(engine['runtimes']) or 'none'}"
    )
    if not toolkit["version"] and not toolkit["cdi_devices"]:
        return finding(
            "GPU010",
            severity,
            "The NVIDIA Container Toolkit is not installed: no container can get a GPU.",
            evidence,
            "Run the deploy with nvidia_container_toolkit_install=true, or install the toolkit by hand.",
        )
    if engine["cdi_enabled"]:
        return finding(
            "GPU012",
            severity,
            "Docker reads CDI specifications, but none offers a GPU.",
            evidence,
            "Write one: systemctl restart nvidia-cdi-refresh.service, or nvidia-ctk cdi generate "
            "--output=/var/run/cdi/nvidia.yaml.",
        )
    how = "" if cdi_by_default(engine["version"]) else " (docker_engine_cdi=true sets features.cdi)"
    return finding(
        "GPU010",
        severity,
        "Docker is not set up for GPUs: CDI is off and no nvidia runtime is registered.",
        evidence,
        f"Turn CDI on in daemon.json{how}, or register the runtime: "
        "nvidia-ctk runtime configure --runtime=docker; Docker must restart after either.",
    )


def _stale_specs(facts: Facts, severity: str) -> list[Finding]:
    running = facts["driver"]["loaded_version"] or facts["driver_version"]
    return [
        finding(
            "GPU012",
            severity,
            f"The CDI specification {spec['path']} was written for driver {spec['driver_version']}, "
            f"but {running} is running.",
            f"{spec['path']} names libraries of {spec['driver_version']}",
            "Write it anew: systemctl restart nvidia-cdi-refresh.service, or nvidia-ctk cdi generate "
            f"--output={spec['path']}; remove a copy that nothing refreshes.",
        )
        for spec in facts["toolkit"]["cdi_specs"]
        if running and spec["driver_version"] and spec["driver_version"] != running
    ]


def _refresh_failed(facts: Facts) -> list[Finding]:
    unit = facts["units"].get("nvidia-cdi-refresh.service", {})
    if not unit or unit["result"] in {"", "success"}:
        return []
    return [
        finding(
            "GPU012",
            "warning",
            "The service that writes the CDI specification failed the last time.",
            f"nvidia-cdi-refresh.service: {unit['active']}, result {unit['result']}",
            "Read why: journalctl -u nvidia-cdi-refresh.service; then systemctl restart nvidia-cdi-refresh.service.",
        )
    ]


def _loses_devices(facts: Facts, modes: list[str]) -> list[Finding]:
    engine, toolkit = facts["engine"], facts["toolkit"]
    # From 1.18 on, the runtime's mode auto tells the engine of the devices; the hook of an older one hides them.
    by_hook = toolkit["runtime_mode"] == "legacy" or (
        toolkit["runtime_mode"] == "auto" and older(toolkit["version"], "1.18.0")
    )
    if modes[:1] != ["nvidia"] or engine["cgroup_driver"] != "systemd" or not by_hook:
        return []
    return [
        finding(
            "GPU013",
            "warning",
            "Containers lose the GPU at the next systemctl daemon-reload: a hook gives it behind systemd's back.",
            f"runtime mode {toolkit['runtime_mode']}, toolkit {toolkit['version'] or 'unknown'}, cgroup driver systemd",
            "Let containers get the GPU through CDI (docker_engine_cdi=true), or upgrade the toolkit to 1.18 or newer; "
            "a container that says NVML: Unknown Error must be created anew.",
        )
    ]


def _restart_stops_containers(engine: Facts) -> list[Finding]:
    if not engine["version"] or engine["live_restore"] or engine["swarm_active"] or not engine["containers_running"]:
        return []
    return [
        finding(
            "GPU014",
            "warning",
            "A restart or upgrade of Docker would stop every container on this host.",
            f"live-restore is off, {engine['containers_running']} containers are running",
            'Set "live-restore": true in /etc/docker/daemon.json and reload (systemctl reload docker stops nothing); '
            "docker_engine_daemon_options does it, with a restart. Not for swarm.",
        )
    ]


def _selinux(facts: Facts) -> list[Finding]:
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


def _mig_not_offered(facts: Facts, modes: list[str]) -> list[Finding]:
    split = [gpu for gpu in facts["gpus"] if gpu["mig"]["current"] and gpu["mig"]["instances"]]
    # nvidia-ctk names a MIG device GPU:INSTANCE, or MIG-UUID when asked for uuids.
    offered = [name for name in facts["toolkit"]["cdi_devices"] if ":" in name or "MIG-" in name]
    if "cdi" not in modes or not split or offered:
        return []
    return [
        finding(
            "GPU018",
            "warning",
            "The CDI specification knows none of this host's MIG devices.",
            f"MIG is on for GPU {', '.join(str(gpu['index']) for gpu in split)}; "
            f"offered {', '.join(facts['toolkit']['cdi_devices'])}",
            "Write it anew after each change of MIG: systemctl restart nvidia-cdi-refresh.service.",
        )
    ]

"""Try GPU access as the service gets it: start its image with a GPU, let it compute, and judge what came of it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from typing import Any

from . import probe
from .commands import Outcome, Runner
from .finding import Facts, Finding, finding

# What Docker or its hooks print when the container does not start, in the order in which they are looked for.
_REFUSALS = (
    ("version mismatch", "GPU006", "the loaded driver and its libraries differ"),
    ("permission denied while trying to connect", "ENG001", "this user may not use Docker's socket"),
    ("Cannot connect to the Docker daemon", "ENG001", "Docker does not answer"),
    ("no space left on device", "ENG005", "there is no room for it"),
    ("ldconfig.real", "GPU034", "the toolkit's settings name an ldconfig that this host does not have"),
    ("Runtime Hook directly", "GPU034", "the toolkit's settings have its hook refuse to work"),
    ("bpf", "GPU034", "the hook may not let it use the devices: the kernel refuses its filter"),
    ("rpc error: timed out", "GPU027", "the driver takes too long to answer the hook"),
    ("driver error: timed out", "GPU027", "the driver takes too long to answer the hook"),
    ("rpc error: failed to process", "GPU028", "the driver does not answer the hook"),
    ("driver not loaded", "GPU003", "the driver's kernel module is not loaded"),
    ("libnvidia-ml.so", "GPU003", "the driver's libraries are not installed, or not found"),
    ("libcuda.so", "GPU003", "the driver's libraries are not installed, or not found"),
    ("gpu is lost", "GPU020", "the GPU is lost"),
    ("GPU is lost", "GPU020", "the GPU is lost"),
    ("unknown device", "GPU030", "there is no such device"),
    ("conflicting device", "GPU012", "two CDI specifications offer the device"),
    ('nvidia-container-runtime": executable file not found', "GPU010", "the nvidia runtime is not installed"),
    ("nvidia-container-runtime: no such file", "GPU010", "the nvidia runtime is not installed"),
    ("nvidia-persistenced/socket", "GPU017", "the socket of nvidia-persistenced is not there"),
    ("nvidia-uvm", "GPU015", "a device node of the driver is missing"),
    ("unresolvable CDI devices", "GPU012", "no CDI specification offers the device"),
    ("could not select device driver", "GPU010", "Docker has no way to give it a GPU"),
    ("unknown or invalid runtime name", "GPU010", "Docker knows no nvidia runtime"),
    ("unsatisfied condition: cuda", "GPU009", "the driver is too old for the image"),
    ("ermission", "GPU025", "something forbids the device, often SELinux"),
)
# Codes of cuInit (CUDA) and of nvmlInit.
_CUDA = {
    100: ("GPU013", "no device is left in the container although the host has one"),
    222: ("GPU009", "the driver cannot read code that a newer compiler wrote"),
    802: ("GPU019", "the NVLink fabric is not ready"),
    803: ("GPU006", "the driver's module and its libraries differ"),
    804: ("GPU009", "the driver is too old, and this GPU allows no compatibility package"),
    35: ("GPU009", "the driver is too old"),
}
_REMEDIES = {
    "ENG001": "Start Docker (systemctl start docker) and run the playbook with become: root may use its socket.",
    "ENG005": "Free space where images and containers lie: docker system df.",
    "GPU003": "Make nvidia-smi work on the host first: playbooks/verify.yml says what is missing.",
    "GPU020": "Drain this host and reboot it; a GPU that is lost again needs service.",
    "GPU027": "systemctl enable --now nvidia-persistenced: without it each start initializes every GPU again.",
    "GPU030": "nvidia-smi -L lists what there is; name that in inference_service_gpus.",
    "GPU034": "Let containers get the GPU through CDI, which needs no hook: docker_engine_cdi=true.",
    "GPU006": "Reboot this host; its driver was upgraded while the old one stayed loaded.",
    "GPU009": "Upgrade the driver, or choose an inference_image_flavor built for an older CUDA.",
    "GPU010": "Run the deploy with nvidia_container_toolkit_install=true.",
    "GPU012": "Write the specification again: systemctl restart nvidia-cdi-refresh.service.",
    "GPU013": "Recreate the container and let it get the GPU through CDI, which survives systemctl daemon-reload.",
    "GPU015": "Run nvidia-modprobe -u -c=0 on the host and write the CDI specification again.",
    "GPU017": "systemctl restart nvidia-persistenced, then write the CDI specification again.",
    "GPU018": "Write the CDI specification again after each change of MIG, and ask for devices that it offers.",
    "GPU019": "Install the Fabric Manager of exactly the driver's version and start it.",
    "GPU024": "Write the CDI specification again; if it stays, change all four toolkit packages to another version "
    "(nvidia_container_toolkit_version), which users report to help.",
    "GPU025": "Let containers use devices: setsebool -P container_use_devices on.",
    "GPU028": "Start the image by hand in the same way, and read what it says.",
}


def command(image: str, driver: str, devices: Sequence[str]) -> list[str]:
    """Command that asks Docker for GPUs as docker-compose.gpu.yml does, and runs the probe in the image."""
    if driver == "cdi":
        gpus = [part for name in devices for part in ("--device", name)]
    else:
        # The value is a line of CSV, and the list of devices is one field of it.
        gpus = ["--gpus", f'"device={",".join(devices)}",driver=nvidia']
    limits = ["--network", "none", "--read-only", "--tmpfs=/tmp", "--cap-drop", "ALL"]
    limits += ["--security-opt", "no-new-privileges"]
    script = inspect.getsource(probe)
    return ["docker", "run", "--rm", "--pull", "never", *limits, *gpus, "--entrypoint", "python", image, "-c", script]


def try_access(image: str, driver: str, devices: Sequence[str], run: Runner, timeout: float) -> list[Finding]:
    """Start the image with these devices and judge what it found."""
    return assess_access(run(command(image, driver, devices), timeout), len(devices))


def parse_probe(text: str) -> dict[str, Any]:
    """The last line of the probe's output that is its answer, or nothing."""
    for line in reversed([item for item in text.splitlines() if item.startswith("{")]):
        try:
            data = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(data, dict) and all(
            isinstance(data.get(name), dict) for name in ("management", "cuda", "kernel")
        ):
            return data
    return {}


def assess_access(outcome: Outcome, expected: int) -> list[Finding]:
    """Judge one run of the probe, in a container that was given so many devices."""
    answer = parse_probe(outcome.out)
    if not answer:
        return [_not_started(outcome)]
    management, cuda, kernel = answer["management"], answer["cuda"], answer["kernel"]
    devices = cuda.get("devices") if isinstance(cuda.get("devices"), list) else []
    evidence = (
        f"in the container: NVML {_code(management)}, cuInit {_code(cuda)}, {len(devices)} of {expected} devices, "
        f"kernel ran on {kernel.get('ran', 0)}"
    )
    if cuda.get("code") is None:
        return [_failed("GPU010", "it holds no libcuda: nothing of the driver was mounted into it", evidence)]
    if management.get("code") == 4:
        return [_failed("GPU025", "it may not open the device", evidence)]
    if cuda["code"] == 999 and management.get("code") == 0:
        return [_failed("GPU024", "nvidia-smi would work in it, but CUDA does not start", evidence)]
    if cuda["code"] == 46 or "busy or unavailable" in str(kernel.get("error")):
        return [_busy(evidence)]
    if cuda["code"] == 2 or "out of memory" in str(kernel.get("error")).lower():
        return [_full(evidence)]
    if cuda["code"] != 0:
        identifier, reason = _CUDA.get(cuda["code"], ("GPU013", "CUDA does not start in it"))
        return [_failed(identifier, reason, evidence)]
    if len(devices) < expected:
        return [_failed("GPU018", "CUDA sees fewer devices than it was given", evidence)]
    if kernel.get("error"):
        code = "GPU009" if "no kernel image" in str(kernel["error"]) or "PTX" in str(kernel["error"]) else "GPU013"
        return [_failed(code, "CUDA starts, but nothing can be computed", f"{evidence}; {kernel['error']}")]
    return []


def _not_started(outcome: Outcome) -> Finding:
    said = outcome.text[-400:] or "it said nothing"
    for words, identifier, reason in _REFUSALS:
        if words in outcome.text:
            return _failed(identifier, reason, said)
    reason = "it did not answer in time" if outcome.timed_out else f"it ended with code {outcome.rc} and no answer"
    return _failed("GPU028", reason, said)


def _full(evidence: str) -> Finding:
    """No fault of the access: what serves uses the memory, and a release that replaces it will have that."""
    return finding(
        "GPU023",
        "warning",
        "A container reaches the GPU, but there is no free memory in which to compute anything.",
        evidence,
        "nvidia-smi names what uses it. If that is the release that serves, the new one can only replace it "
        "(inference_service_strategy); anything else must go or use another GPU.",
    )


def _busy(evidence: str) -> Finding:
    """As with memory: in exclusive mode the release that serves has the GPU, and the new one takes its place."""
    return finding(
        "GPU032",
        "warning",
        "A container reaches the GPU, but another process has it for itself.",
        evidence,
        "If that is the release that serves, the new one replaces it; nvidia-smi names process and compute mode.",
    )


def _failed(identifier: str, reason: str, evidence: str) -> Finding:
    summary = f"A container that gets the GPU as the service does cannot use it: {reason}."
    return finding(identifier, "error", summary, evidence, _REMEDIES[identifier])


def _code(part: Facts) -> str:
    return "is not there" if part.get("code") is None else f"answers {part['code']}"

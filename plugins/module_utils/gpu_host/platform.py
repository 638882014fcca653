"""Read which kind of machine this is, where GPUs work in a way of their own, and say so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .commands import Runner
from .files import read_text
from .finding import Facts, Finding, finding

WSL2 = "WSL2"
JETSON = "Jetson"


def platform_facts(root: Path, run: Runner, timeout: float) -> dict[str, Any]:
    """Name of the platform, or nothing, and the machine as `uname -m` calls it."""
    machine = run(["uname", "-m"], timeout)
    tegra = (root / "etc/nv_tegra_release").exists() or "nvidia,tegra" in read_text(
        root / "proc/device-tree/compatible"
    )
    wsl = "microsoft" in read_text(root / "proc/sys/kernel/osrelease").lower() and (root / "dev/dxg").exists()
    return {
        "platform": JETSON if tegra else WSL2 if wsl else "",
        # Windows brings its libraries where its driver knows the GPU.
        "windows_driver": wsl and (root / "usr/lib/wsl/lib/libcuda.so.1").exists(),
        "machine": machine.out.strip()[:40] if machine.ok else "",
    }


def assess_platform(facts: Facts, expected: str) -> list[Finding]:
    """GPU035: WSL2, where Windows has the driver, and Jetson, whose GPU no image here has code for."""
    if facts["platform"] == JETSON:
        return [
            finding(
                "GPU035",
                "error" if expected == "required" or facts["gpus"] else "info",
                "This is a Jetson: no image flavor here has code for its built-in GPU, which needs the vendor's own.",
                f"platform Jetson, {facts['machine'] or 'machine unknown'}",
                "Serve on its CPU: nvidia_driver_gpu=absent with inference_image_flavor=cpu. Install no driver: "
                "JetPack brings its own.",
            )
        ]
    if facts["platform"] == WSL2 and not facts["gpus"]:
        known = facts["windows_driver"]
        return [
            finding(
                "GPU035",
                "error" if expected == "required" or known else "info",
                "This is WSL2, where the driver is that of Windows: no GPU of it answers here.",
                f"/dev/dxg is there, /usr/lib/wsl/lib/libcuda.so.1 is {'there' if known else 'not there'}; "
                f"nvidia-smi: {facts['nvidia_smi']['message'] or 'not installed'}",
                "Install or upgrade NVIDIA's driver in Windows, then wsl --shutdown there. Install no driver in here: "
                "its libraries would hide those of Windows.",
            )
        ]
    return []

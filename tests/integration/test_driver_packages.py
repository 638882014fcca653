"""Debian's own driver packages, really installed by the role: from a plain host to one whose CUDA libraries load.

The machine is a container with a simulated card and, from the second step on, the name of Debian's newest kernel. The
module is built for that kernel and cannot be loaded; everything else is as on a host with a GPU.

For the RHEL family it is the plan that is tried, by the dnf 4 that Debian has, on packages that stand in for NVIDIA's.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import NAME
from tests.integration.support.playbooks import ROOT, Run

pytestmark = pytest.mark.trial

PYTHON = "ansible_python_interpreter=/usr/bin/python3"
PLAYBOOK = [{"hosts": "all", "gather_facts": False, "roles": ["gpu_hosts.timm.nvidia_driver"]}]
LOAD = """
namespace = {"__name__": "probe"}
exec(PROBE, namespace)
libraries = ("libcuda.so.1", "libnvidia-ptxjitcompiler.so.1", "libnvidia-ml.so.1")
print([bool(namespace["load"](name)) for name in libraries])
"""


@dataclass
class Machine:
    """A container that the role is run on."""

    name: str
    folder: Path

    def shell(self, script: str, text: str = "") -> str:
        """Run a script in it, and return what it prints."""
        argv = ["docker", "exec", "--interactive", self.name, "sh", "-ec", script]
        process = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
        assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
        return process.stdout

    def kernel(self, name: str) -> None:
        """Let it say that it runs this kernel."""
        self.shell("cat > /run/osrelease && mount --bind /run/osrelease /proc/sys/kernel/osrelease", f"{name}\n")

    def role(self, **variables: Any) -> Run:
        """Run the role on it, for a driver that nothing can load here."""
        (self.folder / "driver.yml").write_text(json.dumps(PLAYBOOK), encoding="utf-8")
        inventory = f"{self.name} ansible_connection=community.docker.docker {PYTHON}\n"
        (self.folder / "hosts").write_text(inventory, encoding="utf-8")
        waived = [{"id": "GPU003", "reason": "a container loads no module"}]
        given = {"nvidia_driver_install": True, "nvidia_driver_waived_findings": waived, **variables}
        playbook = Path(sys.executable).with_name("ansible-playbook")
        process = subprocess.run(
            [playbook, "--inventory=hosts", "driver.yml", "--extra-vars", json.dumps(given)],
            cwd=self.folder,
            env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
            capture_output=True,
            text=True,
            check=False,
        )
        return Run(process.returncode, process.stdout + process.stderr)

    def plan(self, **options: Any) -> dict[str, Any]:
        """What the role's module plans for an L4 on it."""
        given = {"devices": [{"address": "0000:01:00.0", "device": "0x27b8"}], **options}
        words = f"all -i {self.name}, -c community.docker.docker -m gpu_hosts.timm.gpu_driver_plan -e {PYTHON}"
        process = subprocess.run(
            [Path(sys.executable).with_name("ansible"), *words.split(), "-a", json.dumps(given)],
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.returncode == 0, process.stdout + process.stderr
        return dict(json.loads(process.stdout.split("=>", 1)[1]))


@pytest.fixture(params=["bookworm", "trixie"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    suite, image = request.param, f"inference-base:{request.param}"
    subprocess.run([ROOT / "scripts/bootstrap-base.sh", image], env={**os.environ, "DEBIAN_SUITE": suite}, check=True)
    made = Machine(f"{NAME}-driver-{suite}", tmp_path)
    subprocess.run(
        ["docker", "run", "--detach", "--privileged", "--name", made.name, image, "sleep", "7200"], check=True
    )
    try:
        made.shell("cat > /plug-in && sh /plug-in", (ROOT / "molecule/shared/gpu/plug-in").read_text(encoding="utf-8"))
        yield made
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", made.name], check=True, capture_output=True)


def test_a_plain_debian_ends_with_libraries_that_cuda_needs(machine: Machine) -> None:
    # The component is asked for, and named where it is not.
    run = machine.role()
    assert run.code != 0
    assert "nvidia_driver_sources=true" in run.output, run.output[-3000:]
    assert "contrib, non-free and non-free-firmware" in run.output
    # A kernel that the archive has long forgotten.
    machine.kernel("6.1.0-1-cloud-amd64")
    run = machine.role(nvidia_driver_sources=True)
    assert run.code != 0
    assert "Boot the newest kernel first" in run.output, run.output[-3000:]
    assert "linux-image-cloud-amd64" in run.output

    headers = machine.shell("apt-cache depends linux-headers-$(dpkg --print-architecture)")
    kernel = headers.partition("Depends: linux-headers-")[2].split()[0]
    machine.kernel(kernel)
    run = machine.role(nvidia_driver_sources=True)
    assert run.code == 0, run.output[-6000:]
    assert "NVIDIA's driver is installed, but its kernel module is not loaded." in run.output
    assert "GPU008" not in run.output

    probe = (ROOT / "plugins/module_utils/gpu_host/probe.py").read_text(encoding="utf-8")
    assert machine.shell("python3 -", f"PROBE = {probe!r}\n{LOAD}") == "[True, True, True]\n"
    version = machine.shell(f"modinfo -k {kernel} -F version nvidia-current").strip()
    assert machine.shell("dpkg-query --show --showformat='${Version}' libcuda1").startswith(version)
    for program in ("nvidia-smi", "nvidia-persistenced", "nvidia-modprobe"):
        assert machine.shell(f"command -v {program}").endswith(f"bin/{program}\n")
    assert "xserver-xorg-core" not in machine.shell("dpkg-query --show")
    held = machine.shell("apt-mark showhold").split()
    assert {"libcuda1", "libnvidia-ptxjitcompiler1", "nvidia-kernel-dkms", "nvidia-smi"} <= set(held)

    run = machine.role(nvidia_driver_sources=True)
    assert (run.code, run.changed) == (0, 0), run.output[-6000:]


@pytest.mark.parametrize("release", [9, 10])
def test_dnf_takes_the_branch_that_is_planned(release: int, tmp_path: Path) -> None:
    subprocess.run([ROOT / "scripts/bootstrap-base.sh", "inference-base:trixie"], check=True)
    made = Machine(f"{NAME}-driver-el{release}", tmp_path)
    argv = ["docker", "run", "--detach", "--name", made.name, "inference-base:trixie", "sleep", "3600"]
    subprocess.run(argv, check=True)
    try:
        made.shell(
            "apt-get update && apt-get install --yes --no-install-recommends dnf dnf-plugins-core rpm createrepo-c"
        )
        script = (ROOT / "tests/integration/support/vendor_repository.sh").read_text(encoding="utf-8")
        made.shell(f"cat > /make && sh /make /stand-ins {'with' if release < 10 else 'without'}-streams", script)
        made.shell(f"mkdir -p /el/etc && printf 'ID=rocky\\nVERSION_ID={release}.1\\n' > /el/etc/os-release")
        plan = made.plan(root="/el", kernel="6.12.0-55.el.x86_64", branch=580)
        assert plan["refusal"] == ""
        assert plan["headers"] == ["kernel-devel-6.12.0-55.el.x86_64", "kernel-devel-matched"]
        # What the role does with it, on a machine that is of no release of its own.
        dnf = f"dnf --disablerepo=_dnf_local --releasever={release} --setopt=module_platform_id=platform:el{release}"
        made.shell("touch /etc/dnf/plugins/versionlock.list")
        if plan["stream"]:
            made.shell(f"{dnf} --assumeyes module enable {plan['stream']}")
        if plan["lock"]:
            made.shell(f"{dnf} versionlock add '{plan['lock']}'")
        chosen = made.shell(f"{dnf} --assumeno install {' '.join(plan['packages'])} || true")
        assert set(re.findall(r"nvidia\S* +x86_64 +(\S+)", chosen)) == {"3:580.173.02-1"}, chosen

        plan = made.plan(root="/el", kernel="6.12.0-1.el.x86_64", branch=580)
        assert "Boot the newest kernel first (dnf upgrade kernel, then a reboot)" in plan["refusal"]
        plan = made.plan(root="/el", kernel="6.12.0-55.el.x86_64", branch=575)
        assert "No package source of this host offers nvidia-driver-cuda" in plan["refusal"]
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", made.name], check=True, capture_output=True)

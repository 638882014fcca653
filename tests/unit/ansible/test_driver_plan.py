"""Which driver packages each kind of host gets, and which hosts get none.

Names and versions of Debian are those of its archive in November 2026; those of Ubuntu and of NVIDIA's repository are
from packages.ubuntu.com and docs.nvidia.com/datacenter/tesla/driver-installation-guide (compute-only installation).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.commands import Outcome
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.driver_plan import (
    Machine,
    Plan,
    draft,
    kernel_flavor,
    settle,
)
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.offers import (
    kernel_images,
    offers,
    parse_os_release,
    parse_policy,
)
from tests.unit.ansible.simulated_host import FIXTURES

KERNELS = {
    "debian": "6.1.0-31-amd64",
    "ubuntu": "6.8.0-55-generic",
    "rocky": "5.14.0-503.11.1.el9_5.x86_64",
}
VERSIONS = {"debian": "550.163.01-2", "ubuntu": "580.173.02-0ubuntu0.24.04.1", "rocky": "580.173.02"}
L4, TITAN_X, RTX_5090, GT_710 = "0x27b8", "0x17c2", "0x2b85", "0x128b"


def host(distribution: str = "debian", release: int = 13, *devices: str, **more: Any) -> Machine:
    cards = [{"address": f"0000:0{index}:00.0", "device": device} for index, device in enumerate(devices or (L4,))]
    return Machine(distribution, release, more.pop("kernel", KERNELS[distribution]), cards, **more)


def planned(machine: Machine, **versions: str) -> Plan:
    """The plan where the sources offer everything that is asked for, but for the versions given (none: not at all)."""
    plan = draft(machine)
    offered = dict.fromkeys([*plan.packages, *plan.headers, "dkms"], VERSIONS[machine.distribution])
    offered.update({name.replace("_", "-"): version for name, version in versions.items()})
    return settle(plan, machine, offered)


class TestPackages:
    @pytest.mark.parametrize("release", [12, 13])
    def test_debian_gets_a_set_that_computes(self, release: int) -> None:
        plan = planned(host("debian", release))
        assert plan.packages == [
            "nvidia-kernel-dkms",
            "libcuda1",
            "libnvidia-nvvm4",
            "nvidia-smi",
            "nvidia-persistenced",
        ]
        assert plan.headers == ["linux-headers-6.1.0-31-amd64"]
        assert plan.refusal == ""

    @pytest.mark.parametrize("release", [22, 24, 26])
    def test_ubuntu(self, release: int) -> None:
        plan = planned(host("ubuntu", release))
        assert plan.packages == [
            "nvidia-headless-580-server-open",
            "libnvidia-compute-580-server",
            "nvidia-compute-utils-580-server",
            "nvidia-utils-580-server",
        ]
        assert planned(host("ubuntu", 24, TITAN_X)).packages[0] == "nvidia-headless-580-server"

    @pytest.mark.parametrize("release", [8, 9, 10])
    @pytest.mark.parametrize(
        ("device", "module", "stream"),
        [
            (L4, "kmod-nvidia-open-dkms", "nvidia-driver:580-open"),
            (TITAN_X, "kmod-nvidia-latest-dkms", "nvidia-driver:580-dkms"),
        ],
    )
    def test_enterprise_linux_in_the_way_of_its_release(
        self, release: int, device: str, module: str, stream: str
    ) -> None:
        plan = planned(host("rocky", release, device))
        assert plan.packages == ["nvidia-driver-cuda", module, "nvidia-persistenced"]
        # Modules of dnf do not exist in release 10.
        assert (plan.stream, plan.lock) == ((stream, "") if release < 10 else ("", "*nvidia*580*"))

    @pytest.mark.parametrize(("name", "release"), [("rocky", 7), ("fedora", 44), ("amzn", 2023), ("sles", 15)])
    def test_others_are_refused(self, name: str, release: int) -> None:
        plan = draft(Machine(name, release, "6.1", [{"address": "0", "device": L4}]))
        assert plan.packages == []
        assert f"no driver packages for {name} {release}" in plan.refusal

    def test_an_old_card_beside_a_new_one_chooses_nothing(self) -> None:
        assert planned(host("ubuntu", 24, L4, GT_710)).packages[0] == "nvidia-headless-580-server-open"
        assert planned(host("ubuntu", 24, RTX_5090, TITAN_X)).packages[0] == "nvidia-headless-580-server-open"


class TestHeaders:
    @pytest.mark.parametrize(
        ("kernel", "flavor"),
        [
            ("6.1.0-31-amd64", "amd64"),
            ("6.1.0-31-cloud-amd64", "cloud-amd64"),
            ("6.1.0-31-rt-amd64", "rt-amd64"),
            ("6.12.43+deb13-cloud-arm64", "cloud-arm64"),
            ("6.12.43+deb13-arm64-16k", "arm64-16k"),
            ("6.12.9+bpo-amd64", "amd64"),
            ("6.8.0-55-generic", "generic"),
            ("6.8.0-1024-aws", "aws"),
            ("6.11.0-1012-azure", "azure"),
            ("6.8.0-1026-gcp", "gcp"),
            ("6.8.0-1021-oracle", "oracle"),
            ("6.8.0-1024-nvidia-64k", "nvidia-64k"),
            ("6.18.44-hand-made", ""),
        ],
    )
    def test_the_flavor_of_a_kernel(self, kernel: str, flavor: str) -> None:
        assert kernel_flavor(kernel) == flavor

    @pytest.mark.parametrize(
        ("distribution", "kernel", "images", "headers"),
        [
            ("debian", "6.1.0-31-amd64", ["amd64"], ["6.1.0-31-amd64", "amd64"]),
            ("debian", "6.1.0-31-cloud-amd64", ["cloud-amd64", "amd64"], ["6.1.0-31-cloud-amd64", "cloud-amd64"]),
            ("debian", "6.12.43+deb13-cloud-arm64", ["cloud-arm64"], ["6.12.43+deb13-cloud-arm64", "cloud-arm64"]),
            ("ubuntu", "6.8.0-1024-aws", ["aws"], ["6.8.0-1024-aws", "aws"]),
            ("ubuntu", "6.8.0-1024-aws", ["aws-lts-24.04"], ["6.8.0-1024-aws", "aws-lts-24.04"]),
            ("ubuntu", "6.11.0-1012-azure", ["azure", "azure-fde"], ["6.11.0-1012-azure", "azure"]),
            (
                "ubuntu",
                "6.8.0-55-generic",
                ["generic-hwe-22.04", "virtual", "lowlatency"],
                ["6.8.0-55-generic", "generic-hwe-22.04", "virtual"],
            ),
            ("ubuntu", "6.8.0-55-generic-64k", ["generic-64k", "generic"], ["6.8.0-55-generic-64k", "generic-64k"]),
        ],
    )
    def test_of_the_running_kernel_and_what_follows_it(
        self, distribution: str, kernel: str, images: list[str], headers: list[str]
    ) -> None:
        machine = host(distribution, 24, kernel=kernel, images=[f"linux-image-{name}" for name in images])
        assert planned(machine).headers == [f"linux-headers-{name}" for name in headers]

    @pytest.mark.parametrize(
        ("release", "kernel", "headers"),
        [
            (8, "4.18.0-553.el8_10.x86_64", ["kernel-devel-4.18.0-553.el8_10.x86_64"]),
            (9, "5.14.0-503.el9.x86_64", ["kernel-devel-5.14.0-503.el9.x86_64", "kernel-devel-matched"]),
            (9, "5.14.0-503.el9.aarch64+64k", ["kernel-64k-devel-5.14.0-503.el9.aarch64", "kernel-64k-devel-matched"]),
            (9, "5.14.0-503.el9.x86_64+rt", ["kernel-rt-devel-5.14.0-503.el9.x86_64"]),
            (9, "5.15.0-305.el9uek.x86_64", ["kernel-uek-devel-5.15.0-305.el9uek.x86_64", "kernel-uek-devel"]),
            (10, "6.12.0-55.el10_0.x86_64", ["kernel-devel-6.12.0-55.el10_0.x86_64", "kernel-devel-matched"]),
        ],
    )
    def test_of_enterprise_linux(self, release: int, kernel: str, headers: list[str]) -> None:
        assert planned(host("rocky", release, kernel=kernel)).headers == headers

    @pytest.mark.parametrize("distribution", list(KERNELS))
    def test_no_longer_in_the_archive(self, distribution: str) -> None:
        machine = host(distribution, 9)
        exact = draft(machine).headers[0]
        refusal = settle(draft(machine), machine, {**everything(machine), exact: ""}).refusal
        assert f"The headers of the running kernel {machine.kernel} are not installed" in refusal
        assert "Boot the newest kernel first" in refusal

    def test_the_kernel_to_boot_is_that_of_the_flavor(self) -> None:
        machine = host(kernel="6.1.0-31-cloud-amd64", images=["linux-image-cloud-amd64"])
        offered = {**everything(machine), "linux-headers-6.1.0-31-cloud-amd64": ""}
        assert "apt-get install linux-image-cloud-amd64," in settle(draft(machine), machine, offered).refusal

    def test_a_kernel_of_nobody(self) -> None:
        machine = host(kernel="6.18.44-hand-made")
        offered = {**everything(machine), "linux-headers-6.18.44-hand-made": ""}
        assert "install its headers by hand" in settle(draft(machine), machine, offered).refusal

    def test_headers_that_are_there_need_no_package(self) -> None:
        machine = host(kernel="6.18.44-hand-made", headers=True)
        plan = settle(draft(machine), machine, {**everything(machine), "linux-headers-6.18.44-hand-made": ""})
        assert (plan.headers, plan.refusal) == ([], "")


def everything(machine: Machine) -> dict[str, str]:
    plan = draft(machine)
    return dict.fromkeys([*plan.packages, *plan.headers, "dkms"], VERSIONS[machine.distribution])


class TestRefusals:
    def test_debian_without_its_other_components(self) -> None:
        refusal = planned(host(), libcuda1="", nvidia_kernel_dkms="").refusal
        assert "No package source of this host offers nvidia-kernel-dkms, libcuda1." in refusal
        assert "contrib, non-free and non-free-firmware" in refusal
        assert "nvidia_driver_sources=true" in refusal

    def test_a_branch_that_ubuntu_does_not_have(self) -> None:
        refusal = planned(host("ubuntu", 24, branch=575), **{"nvidia-utils-575-server": ""}).refusal
        assert "575 was asked for (nvidia_driver_branch)" in refusal
        assert "nvidia_driver_sources" not in refusal

    def test_enterprise_linux_without_dkms(self) -> None:
        assert "Enable EPEL" in planned(host("rocky", 9), dkms="").refusal

    def test_parts_of_different_versions(self) -> None:
        """Debian 12 in November 2026: the open modules did not follow a security update."""
        versions = {"nvidia-open-kernel-dkms": "535.261.03-1", "libcuda1": "535.309.01-0+deb12u1"}
        refusal = planned(host("debian", 12, RTX_5090), **versions).refusal
        assert "nvidia-open-kernel-dkms 535.261.03, libcuda1 535.309.01" in refusal

    def test_a_gpu_that_virtual_machines_have(self) -> None:
        cards = [{"address": "0000:01:00.0", "device": L4, "driver": "vfio-pci"}]
        assert "bound to vfio-pci" in draft(Machine("debian", 13, KERNELS["debian"], cards)).refusal
        both = [*cards, {"address": "0000:02:00.0", "device": L4, "driver": ""}]
        assert draft(Machine("debian", 13, KERNELS["debian"], both)).refusal == ""

    def test_a_gpu_newer_than_the_driver(self) -> None:
        refusal = planned(host("debian", 13, RTX_5090)).refusal
        assert "offer driver 550.163.01, which does not drive its GPU" in refusal
        assert "(0x2b85) is Blackwell, which needs 570 or newer" in refusal
        assert planned(host("debian", 13, RTX_5090, L4), **{"nvidia-kernel-dkms": ""}).refusal == ""

    def test_a_gpu_older_than_the_driver(self) -> None:
        machine = host("ubuntu", 24, TITAN_X, branch=595)
        refusal = settle(draft(machine), machine, dict.fromkeys(everything(machine), "595.71.05-0ubuntu1")).refusal
        assert "is Maxwell, Pascal or Volta, which needs 580 or older. Choose another nvidia_driver_branch." in refusal

    @pytest.mark.parametrize(("device", "last"), [(GT_710, 470), ("0x102d", 470), ("0x1086", 390)])
    def test_a_gpu_that_no_driver_of_today_knows(self, device: str, last: int) -> None:
        refusal = planned(host("ubuntu", 24, device)).refusal
        assert f"which needs {last} or older. No driver that an image here can use supports it" in refusal


class TestOffers:
    def test_what_apt_says(self) -> None:
        text = (FIXTURES / "packages/policy_trixie").read_text(encoding="utf-8")
        assert parse_policy(text) == {"libcuda1": "550.163.01-2", "linux-headers-6.12.118+deb13-amd64": "6.12.118-1"}

    def test_what_dnf_says(self) -> None:
        text = (
            "nvidia-driver-cuda 580.173.02 nvidia-driver-cuda-580.173.02-1.el10.x86_64\n"
            "kernel-devel 6.12.0 kernel-devel-6.12.0-55.el10_0.x86_64\n"
            "kernel-devel-matched 6.12.0 kernel-devel-matched-6.12.0-55.el10_0.x86_64\n"
        )
        asked: list[list[str]] = []

        def run(argv: Any, timeout: float) -> Outcome:
            asked.append(list(argv))
            return Outcome(out=text)

        found = offers(host("rocky", 10), ["nvidia-driver-cuda", "kernel-devel-6.12.0-55.el10_0.x86_64"], run)
        assert found["nvidia-driver-cuda"] == "580.173.02"
        assert found["kernel-devel-6.12.0-55.el10_0.x86_64"] == "6.12.0"
        # The newest version of a package may be of another branch.
        assert asked[0][-3:] == ["nvidia-driver-cuda-580.*", "kernel-devel-6.12.0-55.el10_0.x86_64", "dkms"]

    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ('PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nID=debian\nVERSION_ID="13"\n', ("debian", 13)),
            ('ID="rocky"\nVERSION_ID="9.5"\n', ("rocky", 9)),
            ("ID=debian\n", ("debian", 0)),
        ],
    )
    def test_the_distribution(self, text: str, found: tuple[str, int]) -> None:
        assert parse_os_release(text) == found

    def test_kernels_that_are_installed(self, tmp_path: Path) -> None:
        status = "\n\n".join(
            f"Package: {name}\nStatus: {state} installed\nVersion: 1"
            for name, state in (
                ("linux-image-6.1.0-31-amd64", "install ok"),
                ("linux-image-amd64", "install ok"),
                ("linux-image-cloud-amd64", "deinstall ok not-"),
            )
        )
        assert kernel_images(status.replace("not- installed", "not-installed")) == ["linux-image-amd64"]

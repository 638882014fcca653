"""The rest of the catalog of failures: each finding on a host that shows it, and its absence on one that does not."""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.access import (
    assess_access,
    command,
    parse_probe,
    try_access,
)
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.cdi import parse_spec
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.commands import Outcome
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.driver import (
    parse_devices,
    parse_dkms,
    parse_loaded_driver,
    parse_modinfo,
)
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.engine import parse_instances
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.findings import assess_driver, assess_toolkit
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.flavors import choose_flavor
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.generations import (
    generation,
    legacy,
    modules_needed,
)
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.kernel_log import parse_kernel_log
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.nvidia_smi import parse_report
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.packages import (
    parse_automatic_upgrades,
    parse_dpkg_status,
    parse_rpm_list,
    parse_vendor_sources,
)
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.toolkit import parse_runtime_mode
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.units import UNITS, parse_units
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.upkeep import known_flaws
from tests.unit.ansible.simulated_host import CU124, NO_DRIVER, PROPERTIES, Host, fixture, shown

CU130 = {
    "cuda": "13.0",
    "min_driver": "580.65.06",
    "recommended_driver": "580.65.06",
    "compute_capabilities": ["7.5", "8.0", "9.0", "10.0", "12.0"],
    "vram_mib": 2048,
}
FLAVORS: dict[str, dict[str, Any]] = {"cpu": {"cuda": ""}, "cu124": {**CU124, "vram_mib": 2048}, "cu130": CU130}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def of(identifier: str, findings: list[tuple[str, str]]) -> list[str]:
    return [severity for found, severity in findings if found == identifier]


def unloaded(host: Host) -> None:
    """The module is on disk, but nothing is loaded."""
    host.smi(NO_DRIVER)
    host.remove("proc/driver/nvidia/version")


def by_runtime(host: Host, mode: str = "auto", toolkit: str = "1.17.8", **changes: Any) -> None:
    """Containers get the GPU through Docker's nvidia runtime."""
    host.change_info(CDISpecDirs=[], Runtimes={"nvidia": {}, "runc": {}}, **{"CgroupDriver": "systemd", **changes})
    host.answer(Outcome(out=f"NVIDIA Container Toolkit CLI version {toolkit}\n"), "nvidia-ctk", "--version")
    host.write("etc/nvidia-container-runtime/config.toml", fixture(f"toolkit/config_{mode}.toml"))


def cuda_answers(code: int, error: str = "") -> Outcome:
    """What the probe prints where the management library is content and cuInit answers this code."""
    answer = json.loads(fixture("probe/works.json"))
    devices = [] if code else answer["cuda"]["devices"]
    kernel = {"ran": 0, "error": error}
    return Outcome(out=json.dumps({**answer, "cuda": {"code": code, "devices": devices}, "kernel": kernel}))


class TestReports:
    @pytest.mark.parametrize(
        ("name", "driver", "cuda", "product", "memory"),
        [
            ("gtx1080ti_470", "470.223.02", "11.4", "GeForce GTX 1080 Ti", 11178),
            ("t4_535", "535.183.01", "12.2", "Tesla T4", 15360),
            ("a10_550", "550.127.08", "12.4", "NVIDIA A10", 23028),
            ("h100_550", "550.144.03", "12.4", "NVIDIA H100 80GB HBM3", 81559),
            ("l4_570", "570.133.20", "12.8", "NVIDIA L4", 23034),
            ("h100_fabric_575", "575.57.08", "12.9", "NVIDIA H100 80GB HBM3", 81559),
            ("b200_580", "580.95.05", "13.0", "NVIDIA B200", 183359),
        ],
    )
    def test_each_generation_and_branch(self, name: str, driver: str, cuda: str, product: str, memory: int) -> None:
        report = parse_report(fixture(f"nvidia_smi/{name}.xml"))
        assert (report["driver_version"], report["cuda_version"]) == (driver, cuda)
        gpu = report["gpus"][0]
        assert (gpu["name"].removeprefix("NVIDIA "), gpu["memory_total_mib"]) == (
            product.removeprefix("NVIDIA "),
            memory,
        )

    def test_health_of_a_gpu_that_wants_a_reset(self) -> None:
        (gpu,) = parse_report(fixture("nvidia_smi/l4_570.xml"))["gpus"]
        assert gpu["health"] == {
            "uncorrected_errors": 2,
            "remap_pending": True,
            "remap_failure": False,
            "retirement_pending": None,
            "reset_required": False,
            "recovery_action": "Reset",
        }

    def test_an_old_generation_retires_pages_instead(self) -> None:
        (gpu,) = parse_report(fixture("nvidia_smi/t4_535.xml"))["gpus"]
        assert gpu["health"]["retirement_pending"] is False
        assert gpu["health"]["remap_pending"] is None
        assert gpu["health"]["uncorrected_errors"] == 0

    def test_the_oldest_format_of_memory_errors(self) -> None:
        text = (
            "<nvidia_smi_log><gpu><ecc_errors><volatile><double_bit><total>3</total></double_bit></volatile>"
            "</ecc_errors></gpu></nvidia_smi_log>"
        )
        assert parse_report(text)["gpus"][0]["health"]["uncorrected_errors"] == 3

    def test_fabric(self) -> None:
        gpus = parse_report(fixture("nvidia_smi/h100_fabric_575.xml"))["gpus"]
        assert [gpu["fabric"] for gpu in gpus] == [
            {"state": "Completed", "status": "Success"},
            {"state": "In Progress", "status": ""},
        ]

    def test_loaded_modules(self) -> None:
        assert parse_loaded_driver(fixture("proc/open_575")) == {"version": "575.57.08", "flavor": "open"}
        assert parse_loaded_driver(fixture("proc/proprietary_535")) == {
            "version": "535.183.01",
            "flavor": "proprietary",
        }

    def test_modules_on_disk(self) -> None:
        assert parse_modinfo(fixture("modinfo/open_580")) == {
            "version": "580.82.07",
            "flavor": "open",
            "signer": "gpu-3 Secure Boot Module Signature key",
        }
        assert parse_modinfo(fixture("modinfo/proprietary_550")) == {
            "version": "550.144.03",
            "flavor": "proprietary",
            "signer": "",
        }

    @pytest.mark.parametrize("name", ["nvidia-current", "nvidia-current-open", "nvidia-tesla-535", "nvidia"])
    @pytest.mark.parametrize("packed", ["", ".xz", ".gz"])
    def test_a_module_on_disk_by_any_name_of_a_distribution(self, host: Host, name: str, packed: str) -> None:
        plain = host.root / "lib/modules/6.1.0-31-amd64/updates/dkms/nvidia.ko"
        packers: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".xz": lzma.compress, ".gz": gzip.compress}
        content = plain.read_bytes()
        plain.unlink()
        for part in ("", "-drm", "-modeset", "-peermem", "-uvm"):
            plain.with_name(f"{name}{part}.ko{packed}").write_bytes(
                packers[packed](content if not part else b"\0version=1.2\0")
            )
        assert host.facts()["driver"]["disk_version"] == "550.144.03"

    def test_generations(self) -> None:
        names = {"0x1381": "Maxwell, Pascal or Volta", "0x20b5": "Turing or Ampere", "0x2330": "Ada or Hopper"}
        assert {device: getattr(generation(device), "name", "") for device in names} == names
        assert generation("0x2b85") == generation("0x2901") == generation("0x2e12")
        assert generation("") is generation("0x0000") is None
        assert getattr(legacy("0x0a65"), "until", 0) == 340

    def test_dkms_in_both_formats(self) -> None:
        assert [item["kernel"] for item in parse_dkms(fixture("dkms/old_kernel"))] == [
            "6.1.0-28-amd64",
            "6.1.0-30-amd64",
        ]
        assert parse_dkms(fixture("dkms/old_format")) == [
            {"version": "470.223.02", "kernel": "5.4.0-174-generic", "state": "installed"}
        ]

    def test_specifications_of_several_toolkits(self) -> None:
        old = parse_spec(fixture("cdi/nvidia_570_ctk_1.17.yaml.txt"))
        assert (old["driver_version"], old["uvm_major"], old["persistenced"]) == ("570.133.20", None, True)
        assert old["devices"] == ["0", "GPU-6a0e7c18-54b2-4d9f-b3c7-92f1e8d0a645", "all"]
        new = parse_spec(fixture("cdi/nvidia_580_ctk_1.20.yaml.txt"))
        assert (new["driver_version"], new["uvm_major"], new["devices"]) == ("580.95.05", 510, ["0", "all"])
        assert parse_spec('{"x": [{"path": "/dev/nvidia-uvm", "major": 507}]}')["uvm_major"] == 507

    def test_device_numbers(self) -> None:
        assert parse_devices(fixture("proc/devices"))["nvidia-uvm"] == 509

    def test_runtime_mode(self) -> None:
        assert parse_runtime_mode(fixture("toolkit/config_auto.toml")) == "auto"
        assert parse_runtime_mode(fixture("toolkit/config_legacy.toml")) == "legacy"
        assert parse_runtime_mode("") == "auto"

    def test_units(self) -> None:
        units = parse_units(fixture("units/refresh_failed"))
        assert "nvidia-fabricmanager.service" not in units
        assert units["nvidia-cdi-refresh.service"] == {"load": "loaded", "active": "failed", "result": "exit-code"}


class TestModuleRefused:
    def test_gpu003_the_module_was_built_for_another_kernel(self, host: Host) -> None:
        unloaded(host)
        host.remove("lib/modules/6.1.0-31-amd64/updates/dkms/nvidia.ko")
        host.answer(Outcome(out=fixture("dkms/old_kernel")), "dkms", "status")
        (found,) = [item for item in assess_driver(host.facts(), "auto", CU124) if item["id"] == "GPU003"]
        assert "not built for the running kernel 6.1.0-31-amd64" in found["summary"]
        assert "dkms has it for 6.1.0-28-amd64, 6.1.0-30-amd64" in found["evidence"]
        assert "headers of the running kernel are not there" in found["evidence"]

    def test_gpu003_the_module_was_built_for_no_kernel(self, host: Host) -> None:
        """Debian's packages without headers: dkms knows the module and has built nothing."""
        unloaded(host)
        host.remove("lib/modules/6.1.0-31-amd64/updates/dkms/nvidia.ko")
        host.answer(Outcome(out=fixture("dkms/added")), "dkms", "status")
        (found,) = [item for item in assess_driver(host.facts(), "auto", CU124) if item["id"] == "GPU003"]
        assert "not built for the running kernel 6.1.0-31-amd64" in found["summary"]
        assert "dkms has it for no kernel" in found["evidence"]

    def test_gpu004_secure_boot_and_nobody_signed(self, host: Host) -> None:
        unloaded(host)
        path = host.root / "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"\x06\0\0\0\x01")
        assert host.driver() == [("GPU004", "error")]
        path.write_bytes(b"\x06\0\0\0\0")
        assert host.driver() == [("GPU003", "error")]

    def test_gpu004_the_kernel_says_so(self, host: Host) -> None:
        unloaded(host)
        host.log("key_rejected")
        (found,) = assess_driver(host.facts(), "auto", CU124)
        assert found["id"] == "GPU004"
        assert "Key was rejected by service" in found["evidence"]

    @pytest.mark.parametrize(
        ("log", "module", "device"),
        [("open_cannot", "open_580", "0x1b06"), ("open_needed", "proprietary_550", "0x2b85")],
    )
    def test_gpu005_modules_of_the_other_license(self, host: Host, log: str, module: str, device: str) -> None:
        self.foreign(host, module, device)
        assert of("GPU005", host.driver()) == ["error"]
        host.log(log)
        (found,) = [item for item in assess_driver(host.facts(), "auto", CU124) if item["id"] == "GPU005"]
        assert "the kernel's log asks for" in found["evidence"]

    def test_gpu005_turing_to_hopper_work_with_either(self, host: Host) -> None:
        self.foreign(host, "open_580", "0x2330")
        assert of("GPU005", host.driver()) == []
        assert modules_needed([{"device": "0x1eb8"}]) == "either"

    @pytest.mark.parametrize(
        ("device", "words", "branch"),
        [("0x128b", "Kepler", 470), ("0x102d", "Kepler", 470), ("0x1180", "Kepler", 470), ("0x0dc4", "Fermi", 390)],
    )
    @pytest.mark.parametrize("driver", ["nouveau", ""])
    def test_gpu029_a_generation_that_no_driver_of_today_knows(
        self, host: Host, device: str, words: str, branch: int, driver: str
    ) -> None:
        unloaded(host)
        host.pci("0000:19:00.0", device=device, driver=driver)
        (found,) = assess_driver(host.facts(), "auto", CU124)
        assert (found["id"], found["severity"]) == ("GPU029", "error")
        assert f"is {words}, last driven by branch {branch}" in found["evidence"]
        assert "Install no driver" in found["remedy"]
        assert "reboot" not in found["remedy"]

    def test_gpu029_not_beside_a_card_that_works(self, host: Host) -> None:
        host.pci("0000:65:00.0", device="0x128b", driver="")
        assert of("GPU029", host.driver()) == []
        assert host.facts()["flavor_needed"] == "either"

    @staticmethod
    def foreign(host: Host, module: str, device: str) -> None:
        version = "580.82.07" if module.startswith("open") else "550.144.03"
        host.write(
            "proc/driver/nvidia/version", fixture("proc/open_580" if module[0] == "o" else "proc/proprietary_550")
        )
        host.module(version)
        host.write(f"usr/lib/x86_64-linux-gnu/libnvidia-ml.so.{version}", "")
        host.pci("0000:19:00.0", device=device)
        host.smi(Outcome(rc=6, out="No devices were found"))


class TestUpkeep:
    def test_gpu008_held_packages_are_fine(self, host: Host) -> None:
        assert of("GPU008", host.driver()) == []

    def test_gpu008_loose_packages(self, host: Host) -> None:
        host.write("var/lib/dpkg/status", fixture("packages/status_loose"))
        assert of("GPU008", host.driver()) == ["info"]

    def test_gpu008_automatic_upgrades_make_it_a_warning(self, host: Host) -> None:
        host.write("var/lib/dpkg/status", fixture("packages/status_loose"))
        for name in ("20auto-upgrades", "50unattended-upgrades"):
            host.write(f"etc/apt/apt.conf.d/{name}", fixture(f"packages/{name}"))
        assert of("GPU008", host.driver()) == ["warning"]
        host.write("etc/apt/apt.conf.d/51nvidia", 'Unattended-Upgrade::Package-Blacklist { "nvidia-"; };\n')
        assert of("GPU008", host.driver()) == []

    def test_gpu008_on_the_rhel_family(self, host: Host) -> None:
        host.remove("var/lib/dpkg/status")
        query = ("rpm", "-qa", "--queryformat", r"%{NAME} %{VERSION}-%{RELEASE}\n", "*nvidia*")
        host.answer(Outcome(out=fixture("packages/rpm_list")), *query)
        assert of("GPU008", host.driver()) == ["info"]
        host.write("etc/dnf/automatic.conf", "[commands]\napply_updates = yes\n")
        assert of("GPU008", host.driver()) == ["warning"]
        host.write("etc/dnf/plugins/versionlock.list", fixture("packages/versionlock.list"))
        assert of("GPU008", host.driver()) == []

    def test_packages_as_they_are_listed(self) -> None:
        held = parse_dpkg_status(fixture("packages/status_held"))
        assert held["nvidia-driver-550-server"] == {"version": "550.144.03-0ubuntu0.24.04.1", "held": True}
        assert "nvidia-driver-535" not in held
        rpm = parse_rpm_list(fixture("packages/rpm_list"), fixture("packages/versionlock.list"))
        assert rpm["nvidia-driver"]["held"]
        assert not rpm["nvidia-container-toolkit"]["held"]

    def test_every_part_of_debians_driver_is_a_package_of_the_driver(self, host: Host) -> None:
        """As installed on Debian 13; a hold on the module alone lets the libraries run ahead of it (GPU006)."""
        parts = ["firmware-nvidia-gsp", "libcuda1", "libnvidia-ml1", "nvidia-kernel-dkms", "nvidia-smi"]
        others = ["glx-alternative-nvidia", "libnvidia-container1", "nvidia-container-toolkit", "libcurl4"]
        host.write(
            "var/lib/dpkg/status",
            "\n\n".join(f"Package: {name}\nStatus: install ok installed\nVersion: 1" for name in parts + others),
        )
        assert sorted(host.facts()["packages"]["driver"]) == parts

    def test_settings_of_automatic_upgrades(self) -> None:
        text = fixture("packages/50unattended-upgrades")
        assert parse_automatic_upgrades([text]) == {"enabled": False, "nvidia_left_out": False}
        entry = 'Unattended-Upgrade::Package-Blacklist:: "nvidia";'
        assert parse_automatic_upgrades([text, entry])["nvidia_left_out"]

    @pytest.mark.parametrize(
        ("version", "mode", "first"),
        [
            ("1.16.1", "nvidia", "CVE-2024-0132"),
            ("1.16.1", "cdi", "CVE-2024-0134"),
            ("1.17.3", "nvidia", "CVE-2025-23359"),
            ("1.17.4", "nvidia", "CVE-2026-24260"),
            ("1.17.4", "cdi", "CVE-2025-23266"),
            ("1.17.7", "nvidia", "CVE-2025-23266"),
            ("1.17.8", "cdi", "CVE-2026-24260"),
            ("1.19.0", "cdi", "CVE-2026-24260"),
        ],
    )
    def test_gpu021_flaws_of_a_version_and_a_way_of_access(self, version: str, mode: str, first: str) -> None:
        assert known_flaws(version, mode)[0].name == first

    def test_gpu021_an_old_toolkit(self, host: Host) -> None:
        assert of("GPU021", host.toolkit()) == []
        host.answer(Outcome(out="NVIDIA Container Toolkit CLI version 1.17.4"), "nvidia-ctk", "--version")
        (found,) = [item for item in assess_toolkit(host.facts(), True) if item["id"] == "GPU021"]
        assert found["severity"] == "warning"
        assert "1.19.1 or newer" in found["remedy"]

    def test_gpu026_two_sources_with_different_keys(self, host: Host) -> None:
        for name in ("nvidia-container-toolkit.list", "libnvidia-container.list"):
            host.write(f"etc/apt/sources.list.d/{name}", fixture(f"packages/{name}"))
        assert of("GPU026", host.toolkit()) == ["warning"]
        host.remove("etc/apt/sources.list.d/libnvidia-container.list")
        assert of("GPU026", host.toolkit()) == []

    def test_gpu026_a_superseded_source(self, host: Host) -> None:
        host.write("etc/apt/sources.list.d/nvidia-docker.list", fixture("packages/nvidia-docker.list"))
        assert of("GPU026", host.toolkit()) == ["warning"]

    def test_sources_in_the_newer_format(self) -> None:
        text = (
            "Types: deb\nURIs: https://nvidia.github.io/libnvidia-container/stable/deb/amd64\nSuites: /\n"
            "Signed-By: /etc/apt/keyrings/nvidia.asc\n"
        )
        assert (
            parse_vendor_sources({"/etc/apt/sources.list.d/a.sources": text})[0]["key"]
            == "/etc/apt/keyrings/nvidia.asc"
        )

    def test_gpu024_packages_of_different_versions(self, host: Host) -> None:
        host.write("var/lib/dpkg/status", fixture("packages/status_unequal"))
        assert of("GPU024", host.toolkit()) == ["warning"]


class TestEngineAndToolkit:
    def test_gpu012_the_refresh_service_failed(self, host: Host) -> None:
        host.answer(Outcome(out=fixture("units/refresh_failed")), "systemctl", "show", PROPERTIES, *UNITS)
        assert of("GPU012", host.toolkit()) == ["warning"]

    def test_gpu013_a_hook_and_systemd_cgroups(self, host: Host) -> None:
        by_runtime(host)
        assert of("GPU013", host.toolkit()) == ["warning"]
        by_runtime(host, toolkit="1.20.1")
        assert of("GPU013", host.toolkit()) == ["warning"]
        by_runtime(host, toolkit="1.20.1", mode="legacy")
        assert of("GPU013", host.toolkit()) == ["warning"]
        by_runtime(host, CgroupDriver="cgroupfs")
        assert of("GPU013", host.toolkit()) == []

    def test_gpu014_a_restart_would_stop_containers(self, host: Host) -> None:
        host.change_info(LiveRestoreEnabled=False, ContainersRunning=3)
        assert of("GPU014", host.toolkit()) == ["warning"]
        host.change_info(LiveRestoreEnabled=False, ContainersRunning=0)
        assert of("GPU014", host.toolkit()) == []
        host.change_info(LiveRestoreEnabled=False, ContainersRunning=3, Swarm={"LocalNodeState": "active"})
        assert of("GPU014", host.toolkit()) == []

    def test_gpu017_the_specification_mounts_a_socket_that_is_gone(self, host: Host) -> None:
        host.write("etc/cdi/nvidia.yaml", fixture("cdi/nvidia_570_ctk_1.17.yaml.txt"))
        assert of("GPU017", host.toolkit()) == []
        host.remove("run/nvidia-persistenced/socket")
        assert of("GPU017", host.toolkit()) == ["error"]

    def test_gpu022_limits_of_an_instance(self, host: Host) -> None:
        listing = ("docker", "ps", "--quiet", "--filter", "label=inference-service.instance")
        host.answer(Outcome(out="4be100000000\n"), *listing)
        host.answer(Outcome(out=fixture("docker/inspect_instances.json")), "docker", "inspect", "4be100000000")
        assert host.engine() == []
        host.answer(Outcome(out=fixture("docker/inspect_by_hand.json")), "docker", "inspect", "4be100000000")
        assert host.engine() == [("GPU022", "warning")]

    def test_limits_as_they_are_read(self) -> None:
        assert parse_instances(fixture("docker/inspect_instances.json")) == [
            {"name": "timm-classifier-blue-0-api-1", "shm_bytes": 2**30, "nofile": 16384}
        ]

    def test_gpu024_the_specification_has_a_wrong_device_number(self, host: Host) -> None:
        host.write("etc/cdi/nvidia.yaml", fixture("cdi/nvidia_580_ctk_1.20.yaml.txt"))
        (found,) = [item for item in assess_toolkit(host.facts(), True) if item["id"] == "GPU024"]
        assert found["severity"] == "error"
        assert "says major 510, /proc/devices says 509" in found["evidence"]
        host.write("proc/devices", fixture("proc/devices").replace("509", "510"))
        assert of("GPU024", host.toolkit()) == []

    def test_gpu025_selinux(self, host: Host) -> None:
        host.write("sys/fs/selinux/enforce", "1")
        assert of("GPU025", host.toolkit()) == []
        host.change_info(SecurityOptions=["name=seccomp,profile=builtin", "name=selinux"])
        assert of("GPU025", host.toolkit()) == ["warning"]
        host.write("sys/fs/selinux/booleans/container_use_devices", "1 1")
        assert of("GPU025", host.toolkit()) == []


class TestHardware:
    def test_gpu016_persistence_mode_is_off(self, host: Host) -> None:
        host.smi(Outcome(out=fixture("nvidia_smi/t4_535.xml")))
        assert of("GPU016", host.driver()) == ["warning"]

    def test_gpu017_the_daemon_runs_without_its_socket(self, host: Host) -> None:
        host.remove("run/nvidia-persistenced/socket")
        assert host.driver() == [("GPU017", "warning")]

    def test_gpu019_a_gpu_has_not_joined_the_fabric(self, host: Host) -> None:
        host.smi(Outcome(out=fixture("nvidia_smi/h100_fabric_575.xml")))
        (found,) = [item for item in assess_driver(host.facts(), "auto", {}) if item["id"] == "GPU019"]
        assert "GPU 1: In Progress" in found["evidence"]

    def test_gpu019_switches_without_their_manager(self, host: Host) -> None:
        host.pci("0000:05:00.0", pci_class="0x068000", device="0x22a3", driver="nvidia-nvswitch")
        assert host.driver() == [("GPU019", "error")]
        host.answer(Outcome(out=fixture("units/fabric_manager")), "systemctl", "show", PROPERTIES, *UNITS)
        assert host.driver() == []

    def test_gpu019_a_manager_of_another_version(self, host: Host) -> None:
        host.pci("0000:05:00.0", pci_class="0x068000", device="0x22a3", driver="nvidia-nvswitch")
        host.answer(Outcome(out=fixture("units/fabric_manager")), "systemctl", "show", PROPERTIES, *UNITS)
        host.answer(Outcome(out="Fabric Manager version is : 550.127.08\n"), "nv-fabricmanager", "--version")
        (found,) = assess_driver(host.facts(), "auto", {})
        assert found["id"] == "GPU019"
        assert "550.127.08 does not match driver 550.144.03" in found["summary"]

    @pytest.mark.parametrize(
        ("log", "severities"),
        [("xid_79", ["error"]), ("xid_memory", ["error", "warning", "warning"]), ("xid_application", ["info", "info"])],
    )
    def test_gpu020_events_of_the_kernel(self, host: Host, log: str, severities: list[str]) -> None:
        host.log(log)
        assert of("GPU020", host.driver()) == severities

    def test_gpu020_without_a_journal_the_kernel_is_asked(self, host: Host) -> None:
        host.answer(Outcome(out=fixture("log/xid_79.txt")), "dmesg")
        assert of("GPU020", host.driver()) == ["error"]

    def test_gpu020_repeated_events_are_counted(self) -> None:
        xids = parse_kernel_log(fixture("log/xid_memory.txt"))["xids"]
        assert [(item["code"], item["count"]) for item in xids] == [(94, 1), (63, 1), (48, 2)]

    def test_gpu020_memory_errors(self, host: Host) -> None:
        host.smi(Outcome(out=fixture("nvidia_smi/l4_570.xml")))
        (found,) = [item for item in assess_driver(host.facts(), "auto", {}) if item["id"] == "GPU020"]
        assert found["severity"] == "error"
        assert "asks for a reset" in found["summary"]
        host.smi(Outcome(out=fixture("nvidia_smi/l4_570.xml").replace(">Reset<", ">Drain and Reset<")))
        (found,) = [item for item in assess_driver(host.facts(), "auto", {}) if item["id"] == "GPU020"]
        assert found["severity"] == "warning"
        assert "2 uncorrected" in found["evidence"]
        assert "recommends: Drain and Reset" in found["evidence"]

    def test_gpu020_memory_that_can_no_longer_be_replaced(self, host: Host) -> None:
        text = fixture("nvidia_smi/l4_570.xml").replace("failure>No<", "failure>Yes<")
        host.smi(Outcome(out=text))
        assert of("GPU020", host.driver()) == ["error"]

    def test_gpu023_memory_for_a_second_release(self, host: Host) -> None:
        assert of("GPU023", host.driver(vram_mib=2048)) == []
        assert of("GPU023", host.driver(vram_mib=20000)) == ["warning"]
        assert of("GPU023", host.driver(vram_mib=90000)) == ["error", "error"]


class TestAccess:
    """What the probe said in a container of the service's image."""

    @pytest.mark.parametrize(
        ("name", "identifier"),
        [
            ("lost", "GPU013"),
            ("cuda_unknown", "GPU024"),
            ("fabric", "GPU019"),
            ("too_old", "GPU006"),
            ("no_permission", "GPU025"),
            ("one_missing", "GPU018"),
            ("no_driver", "GPU010"),
            ("no_code", "GPU009"),
        ],
    )
    def test_each_answer_has_its_finding(self, name: str, identifier: str) -> None:
        assert shown(assess_access(Outcome(out=fixture(f"probe/{name}.json")), 2)) == [(identifier, "error")]

    @pytest.mark.parametrize(
        ("code", "identifier"),
        [(35, "GPU009"), (222, "GPU009"), (804, "GPU009"), (802, "GPU019"), (803, "GPU006"), (100, "GPU013")],
    )
    def test_each_code_of_cuda_has_its_finding(self, code: int, identifier: str) -> None:
        assert shown(assess_access(cuda_answers(code), 1)) == [(identifier, "error")]

    def test_gpu013_a_code_that_nobody_knows(self) -> None:
        assert shown(assess_access(cuda_answers(3), 1)) == [("GPU013", "error")]

    def test_gpu013_cuda_starts_but_computes_nothing(self) -> None:
        answer = cuda_answers(0, error="CUDA error: unspecified launch failure")
        (found,) = assess_access(answer, 1)
        assert (found["id"], "unspecified launch failure" in found["evidence"]) == ("GPU013", True)

    @pytest.mark.parametrize(
        "answer",
        [(2, ""), (0, "CUDA out of memory. Tried to allocate 2.00 MiB. GPU 0 has a total capacity of 22.03 GiB")],
    )
    def test_gpu023_what_serves_fills_the_memory(self, answer: tuple[int, str]) -> None:
        """Where a release only replaces the one before, that is how it should be."""
        assert shown(assess_access(cuda_answers(*answer), 1)) == [("GPU023", "warning")]

    def test_a_container_that_computes_has_none(self) -> None:
        answer = "warning: something unimportant\n" + fixture("probe/works.json")
        assert assess_access(Outcome(out=answer), 2) == []

    @pytest.mark.parametrize(
        ("said", "identifier"),
        [
            ('could not select device driver "" with capabilities: [[gpu]]', "GPU010"),
            ("CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=all", "GPU012"),
            ("nvidia-container-cli: initialization error: nvml error: driver/library version mismatch", "GPU006"),
            ("open /run/nvidia-persistenced/socket: no such file or directory", "GPU017"),
            ("stat /dev/nvidia-uvm: no such file or directory", "GPU015"),
            ("docker: Error response from daemon: unknown or invalid runtime name: nvidia", "GPU010"),
            ("requirement error: unsatisfied condition: cuda>=12.4", "GPU009"),
            ("initialization error: nvml error: insufficient permissions", "GPU025"),
            ("docker: Error response from daemon: no such image", "GPU028"),
            ("", "GPU028"),
        ],
    )
    def test_a_container_that_does_not_start(self, said: str, identifier: str) -> None:
        assert shown(assess_access(Outcome(rc=125, err=said), 2)) == [(identifier, "error")]

    def test_it_is_started_as_the_service_is(self) -> None:
        """The devices of docker-compose.gpu.yml, on Docker's command line."""
        line = command("image:1", "cdi", ["nvidia.com/gpu=0", "nvidia.com/gpu=1"])
        assert [line[index + 1] for index, word in enumerate(line) if word == "--device"] == [
            "nvidia.com/gpu=0",
            "nvidia.com/gpu=1",
        ]
        assert "--gpus" not in line
        line = command("image:1", "nvidia", ["0", "1"])
        assert line[line.index("--gpus") + 1] == '"device=0,1",driver=nvidia'
        compile(line[-1], "probe", "exec")

    def test_gpu013_the_whole_way(self, host: Host) -> None:
        devices = ["nvidia.com/gpu=0", "nvidia.com/gpu=1"]
        host.answer(Outcome(out=fixture("probe/lost.json")), *command("image:1", "cdi", devices))
        assert shown(try_access("image:1", "cdi", devices, host.run, 1)) == [("GPU013", "error")]

    def test_gpu018_a_device_is_missing(self, host: Host) -> None:
        devices = ["nvidia.com/gpu=0", "nvidia.com/gpu=1"]
        host.answer(Outcome(out=fixture("probe/one_missing.json")), *command("image:1", "cdi", devices))
        (found,) = try_access("image:1", "cdi", devices, host.run, 1)
        assert found["id"] == "GPU018"
        assert "1 of 2 devices" in found["evidence"]

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"cuda": 1, "management": {}, "kernel": {}}', "[" * 100000])
    def test_what_is_no_answer(self, text: str) -> None:
        assert parse_probe(text) == {}


class TestFlavors:
    def facts(self, driver: str, capability: str = "9.0", memory: int = 81559) -> dict[str, Any]:
        gpu = {"index": 0, "name": "GPU", "compute_capability": capability, "memory_total_mib": memory}
        return {"driver_version": driver, "gpus": [gpu]}

    def choose(self, facts: dict[str, Any], present: bool = True) -> tuple[str, bool]:
        chosen = choose_flavor(FLAVORS, facts, present)
        assert chosen["reason"]
        return chosen["name"], chosen["fits"]

    def test_the_newest_cuda_that_the_driver_allows(self) -> None:
        assert self.choose(self.facts("580.95.05")) == ("cu130", True)
        assert self.choose(self.facts("550.144.03")) == ("cu124", True)

    def test_the_generation_of_the_gpu_decides_too(self) -> None:
        assert self.choose(self.facts("580.95.05", "7.0")) == ("cu124", True)
        assert self.choose(self.facts("580.95.05", "12.0")) == ("cu130", True)

    def test_a_host_without_a_gpu_computes_on_the_cpu(self) -> None:
        assert self.choose({"driver_version": "", "gpus": []}, present=False) == ("cpu", True)

    def test_nothing_fits(self) -> None:
        assert self.choose(self.facts("470.223.02")) == ("cu124", False)
        assert self.choose(self.facts("580.95.05", memory=1024)) == ("cu124", False)
        assert "470.223.02 is older" in choose_flavor(FLAVORS, self.facts("470.223.02"), True)["reason"]

    def test_why_a_newer_one_was_passed_over(self) -> None:
        reason = choose_flavor(FLAVORS, self.facts("550.144.03"), True)["reason"]
        assert "not cu130, because driver 550.144.03 is older than 580.65.06" in reason


class TestTheProjectsOwnFlavors:
    """`inference_image_flavor: auto` on hosts of several years, with the table that a deploy reads."""

    ROLE = Path(__file__).resolve().parents[3] / "roles/inference_image"

    def table(self) -> dict[str, dict[str, Any]]:
        import yaml

        text = (self.ROLE / "vars/main.yml").read_text(encoding="utf-8")
        flavors: dict[str, dict[str, Any]] = yaml.safe_load(text)["inference_image_flavors"]
        return flavors

    def test_each_flavor_has_its_lock_and_says_all_that_is_compared(self) -> None:
        folder = self.ROLE.parents[1] / "requirements"
        for name, row in self.table().items():
            locked = (folder / f"{name}.lock").read_text(encoding="utf-8")
            assert f"\ntorch=={row['torch']}" in locked
            assert {"torch", "cuda", "min_driver", "recommended_driver", "compute_capabilities", "vram_mib"} <= set(row)

    def test_the_role_takes_each_of_them(self) -> None:
        import yaml

        text = (self.ROLE / "meta/argument_specs.yml").read_text(encoding="utf-8")
        choices = yaml.safe_load(text)["argument_specs"]["main"]["options"]["inference_image_flavor"]["choices"]
        assert set(choices) == {"auto", *self.table()}

    @pytest.mark.parametrize(
        ("generation", "driver", "capability", "flavor", "fits"),
        [
            ("Blackwell", "580.95.05", "10.0", "cu130", True),
            ("Blackwell RTX", "595.71.05", "12.0", "cu130", True),
            ("Blackwell with too old a driver", "570.133.20", "10.0", "cu124", False),
            ("Hopper with the current branch", "580.95.05", "9.0", "cu130", True),
            ("Hopper with an old branch", "535.183.01", "9.0", "cu124", True),
            ("Ada", "550.127.08", "8.9", "cu124", True),
            ("Ampere", "580.82.07", "8.6", "cu130", True),
            ("Turing", "580.65.06", "7.5", "cu130", True),
            ("Volta, which CUDA 13 has no code for", "580.95.05", "7.0", "cu124", True),
            ("Pascal, the same", "580.95.05", "6.1", "cu124", True),
            ("Pascal with a branch before CUDA 12", "470.223.02", "6.1", "cu124", False),
        ],
    )
    def test_auto(self, generation: str, driver: str, capability: str, flavor: str, fits: bool) -> None:
        gpu = {"index": 0, "name": generation, "compute_capability": capability, "memory_total_mib": 16384}
        chosen = choose_flavor(self.table(), {"driver_version": driver, "gpus": [gpu]}, True)
        assert (chosen["name"], chosen["fits"]) == (flavor, fits)
        assert fits or generation in chosen["reason"] or driver in chosen["reason"]

    @pytest.mark.parametrize(("flavor", "findings"), [("cu124", []), ("cu130", [("GPU009", "error")])])
    def test_gpu009_another_flavor_changes_the_verdict(
        self, host: Host, flavor: str, findings: list[tuple[str, str]]
    ) -> None:
        """Two H100 with driver 550 run CUDA 12.4, and not CUDA 13."""
        assert shown(assess_driver(host.facts(), "required", self.table()[flavor])) == findings


def test_the_json_of_the_probe_is_one_line() -> None:
    """The probe runs anywhere: without a driver it says so."""
    import subprocess
    import sys

    script = command("image", "cdi", ["nvidia.com/gpu=all"])[-1]
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["management"].keys() == {"code", "gpus"}

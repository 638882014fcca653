"""What operators report of their hosts, each rebuilt as a simulated one: what is said of it, and what is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.gpu_hosts.timm.plugins.filter.findings import host_report
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.access import assess_access
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.chosen import (
    choose,
    instances,
    is_choice,
    takes_two,
    views,
)
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.commands import Outcome
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.engine import assess_engine
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.findings import assess_driver, assess_toolkit
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.flavors import choose_flavor
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.nvidia_smi import parse_report, parse_slices
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.units import UNITS
from tests.unit.ansible.simulated_host import CU124, NO_DRIVER, PROPERTIES, Host, fixture, shown

REPOSITORY = Path(__file__).resolve().parents[3]
FIRST, SECOND = "GPU-0c3f6a11-6d0b-4f4e-9a53-0d8c1b8c3a10", "GPU-7fe2a9b4-2f9d-4c61-8e0a-5b1e7d0f4422"
SLICE = "MIG-b7f03a95-0c1d-5f1e-8a0f-31c6de5a9e42"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def of(identifier: str, findings: list[tuple[str, str]]) -> list[str]:
    return [severity for found, severity in findings if found == identifier]


def errors(host: Host, **requirements: Any) -> list[str]:
    return [found for found, severity in [*host.driver(**requirements), *host.toolkit()] if severity == "error"]


def second(host: Host, *changes: tuple[str, str]) -> None:
    """Change what nvidia-smi says of the second GPU; the first stays well."""
    first, mark, rest = fixture("nvidia_smi/h100_550.xml").partition('<gpu id="00000000:3B:00.0">')
    for old, new in changes:
        assert old in rest
        rest = rest.replace(old, new, 1)
    host.smi(Outcome(out=first + mark + rest))


def first(host: Host, *changes: tuple[str, str]) -> None:
    text = fixture("nvidia_smi/h100_550.xml")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    host.smi(Outcome(out=text))


def split(host: Host) -> None:
    """Two A100, the first split into two slices, the second whole; driver 580."""
    host.write("proc/driver/nvidia/version", fixture("proc/open_580"))
    host.module("580.82.07")
    host.write("usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.82.07", "")
    text = fixture("nvidia_smi/a100_mig_580.xml").replace("<pending_mig>Enabled", "<pending_mig>Disabled")
    host.smi(Outcome(out=text.replace("<pending_mig>Disabled", "<pending_mig>Enabled", 1)))
    host.answer(Outcome(out=fixture("nvidia_smi/a100_mig_list")), "nvidia-smi", "-L")
    specification = json.loads(fixture("cdi/nvidia_580.json"))
    edits = specification["devices"][0]["containerEdits"]
    names = ["0:0", "0:1", SLICE, "1", "all"]
    specification["devices"] = [{"name": name, "containerEdits": edits} for name in names]
    host.write("etc/cdi/nvidia.yaml", json.dumps(specification))


def by_hook(host: Host, config: str = "") -> None:
    """CDI is off and no runtime is registered: Docker found the toolkit's hook when it started."""
    host.change_info(CDISpecDirs=[], CgroupDriver="systemd")
    host.write("usr/bin/nvidia-container-runtime-hook", "")
    if config:
        host.write("etc/nvidia-container-runtime/config.toml", fixture(f"toolkit/{config}.toml"))


SPOILT: dict[str, Callable[[Host], None]] = {
    "too small": lambda host: second(host, ("<total>81559 MiB", "<total>1024 MiB")),
    "closed": lambda host: second(host, ("<compute_mode>Default", "<compute_mode>Prohibited")),
    "broken": lambda host: second(
        host, ("<compute_mode>", "<gpu_recovery_action>Reboot</gpu_recovery_action><compute_mode>")
    ),
    "gone": lambda host: host.log("gone_at_load"),
    "for the display": lambda host: host.answer(
        Outcome(out=f"{FIRST}, 9.0\n{SECOND}, 3.5\n"),
        *("nvidia-smi", "--query-gpu=uuid,compute_cap", "--format=csv,noheader"),
    ),
}


class TestChosenGpus:
    """Two GPUs of which one is not for the service."""

    @pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT.keys())
    def test_what_nobody_chose_is_a_remark(self, host: Host, spoil: Callable[[Host], None]) -> None:
        spoil(host)
        assert errors(host, vram_mib=2048)
        for gpus in ([0], [FIRST], ["GPU-0c3f"]):
            host.gpus = gpus
            assert errors(host, vram_mib=2048) == []
            assert "info" in [severity for _, severity in host.driver(vram_mib=2048)]
        host.gpus = [1]
        assert errors(host, vram_mib=2048)

    def test_the_flavor_fits_the_chosen_ones(self, host: Host) -> None:
        SPOILT["for the display"](host)
        table: dict[str, dict[str, Any]] = {"cpu": {"cuda": ""}, "cu124": dict(CU124)}
        host.gpus = [0]
        assert choose_flavor(table, views(host.facts())[0], True)["fits"]
        host.gpus = "all"
        chosen = choose_flavor(table, host.facts(), True)
        assert (chosen["fits"], "compute capability 3.5" in chosen["reason"]) == (False, True)

    @pytest.mark.parametrize(("driver", "device"), [("nouveau", "0x128b"), ("nvidia", "0x1b82")])
    def test_gpu002_gpu005_a_second_card_that_needs_another_driver(self, host: Host, driver: str, device: str) -> None:
        """A GT 710 on nouveau, a GTX 1070 Ti that the open modules do not drive, beside GPUs that answer."""
        host.write("proc/driver/nvidia/version", fixture("proc/open_575").replace("575.57.08", "550.144.03"))
        host.pci("0000:05:00.0", driver=driver, device=device)
        (host.root / "sys/module/nouveau").mkdir(parents=True)
        assert errors(host) == []
        found = [item for item in assess_driver(host.facts(), "auto", CU124) if item["id"] in {"GPU002", "GPU005"}]
        assert [item["severity"] for item in found] == ["warning"]
        assert found[0]["remedy"].startswith("Leave ")

    @pytest.mark.parametrize(
        ("value", "right"),
        [
            ("all", True),
            ([0, 1], True),
            (["GPU-0c3f6a11", "0:1", SLICE, "MIG-GPU-9b7c0c5e-3c41/7/0"], True),
            ("0", False),
            ([0, "0"], False),
            (["all"], False),
            (["GPU-"], False),
            (["0:"], False),
            (["a b"], False),
            (None, False),
        ],
    )
    def test_spellings(self, value: object, right: bool) -> None:
        assert is_choice(value) is right

    @pytest.mark.parametrize(
        ("gpus", "asked_for"),
        [
            ("all", ["nvidia.com/gpu=0:0", "nvidia.com/gpu=0:1", "nvidia.com/gpu=1"]),
            ([1], ["nvidia.com/gpu=1"]),
            (["0:1"], ["nvidia.com/gpu=0:1"]),
            ([SLICE], [f"nvidia.com/gpu={SLICE}"]),
            (["mig-b7f0"], [f"nvidia.com/gpu={SLICE}"]),
            # The specification has no UUID of this one.
            (["MIG-4d1be2c6"], ["nvidia.com/gpu=0:0"]),
            (["GPU-d41e8c66", "0:0"], ["nvidia.com/gpu=1", "nvidia.com/gpu=0:0"]),
        ],
    )
    def test_a_split_gpu_beside_a_whole_one(self, host: Host, gpus: object, asked_for: list[str]) -> None:
        split(host)
        host.gpus = gpus
        facts = host.facts()
        found = instances(gpus, facts["gpus"], "cdi", facts["toolkit"]["cdi_devices"])
        assert [item["gpu"] for item in found] == asked_for
        assert len({item["index"] for item in found}) == len(found)
        assert all(
            (item["index"].replace("-", "").isalnum() and item["index"].islower()) or item["index"][0].isdigit()
            for item in found
        )
        assert errors(host, min_driver="525") == []

    def test_by_the_runtime_a_slice_has_its_own_names(self, host: Host) -> None:
        split(host)
        gpus = host.facts()["gpus"]
        assert [item["gpu"] for item in instances("all", gpus, "nvidia", [])] == ["0:0", "0:1", "1"]
        assert [item["gpu"] for item in instances([SLICE], gpus, "nvidia", [])] == [SLICE]

    @pytest.mark.parametrize(
        ("gpus", "words"),
        [
            ([0], "is split by MIG"),
            (["GPU-9b7c0c5e"], "is split by MIG"),
            ([7], "names 7"),
            (["GPU-ffff"], "names GPU-ffff"),
            (["GPU-d41e8c66", 1], "names a GPU twice"),
            ([60], 'write "1:0"'),
            (["1:0"], "names 1:0"),
        ],
    )
    def test_gpu030_what_is_not_there(self, host: Host, gpus: object, words: str) -> None:
        split(host)
        host.gpus = gpus
        (found,) = [item for item in assess_driver(host.facts(), "auto", {}) if item["id"] == "GPU030"]
        assert found["severity"] == "error"
        assert words in found["summary"] + found["remedy"]

    def test_gpu012_gpu018_what_no_specification_offers(self, host: Host) -> None:
        host.write("etc/cdi/nvidia.yaml", fixture("cdi/nvidia_550.yaml.txt").replace('name: "1"', 'name: "7"'))
        host.gpus = [0]
        assert host.toolkit() == []
        host.gpus = "all"
        assert host.toolkit() == [("GPU012", "error")]
        split(host)
        host.write("etc/cdi/nvidia.yaml", fixture("cdi/nvidia_580.json").replace('"0:0"', '"1"'))
        assert host.toolkit() == [("GPU018", "error")]

    def test_slices_as_they_are_listed(self) -> None:
        known = parse_slices(fixture("nvidia_smi/a100_mig_list"))
        assert known["GPU-9b7c0c5e-3c41-49e4-b1f7-64a0d2b3f901", 1] == SLICE
        assert len(known) == 2

    def test_room_for_a_second_instance(self) -> None:
        gpus = parse_report(fixture("nvidia_smi/a100_mig_580.xml"))["gpus"]
        assert takes_two("nvidia.com/gpu=0:1", gpus)
        gpus[0]["slices"][1]["memory_free_mib"] = 3000
        assert not takes_two("nvidia.com/gpu=0:1", gpus)
        assert takes_two("nvidia.com/gpu=0:0", gpus)
        assert takes_two("nvidia.com/gpu=GPU-d41e8c66-9a7e-4f02-8a2b-cb2a97a10c55", gpus)
        assert takes_two("nvidia.com/gpu=9", gpus)
        gpus[1]["compute_mode"] = "Exclusive_Process"
        assert not takes_two("1", gpus)

    def test_a_slice_that_is_too_small(self, host: Host) -> None:
        split(host)
        assert of("GPU023", host.driver(vram_mib=9000, min_driver="525")) == []
        assert of("GPU023", host.driver(vram_mib=20000, min_driver="525")) == ["error"]
        host.gpus = [1]
        assert of("GPU023", host.driver(vram_mib=20000, min_driver="525")) == []
        assert choose([1], host.facts()["gpus"])["devices"][0]["memory_total_mib"] == 40960


class TestSpecifications:
    """Docker's own folders, their precedence and their conflicts."""

    def test_gpu012_a_later_folder_goes_first(self, host: Host) -> None:
        good = fixture("cdi/nvidia_550.yaml.txt")
        stale = good.replace("550.144.03", "535.183.01")
        host.write("etc/cdi/nvidia.yaml", stale)
        host.write("var/run/cdi/nvidia.yaml", good)
        assert host.toolkit() == []
        assert host.facts()["toolkit"]["spec_to_write"] == ""
        host.write("etc/cdi/nvidia.yaml", good)
        host.write("var/run/cdi/nvidia.yaml", stale)
        assert host.toolkit() == [("GPU012", "error")]
        assert host.facts()["toolkit"]["spec_to_write"] == "/var/run/cdi/nvidia.yaml"

    def test_gpu012_two_of_one_folder_cancel_each_other_out(self, host: Host) -> None:
        host.write("etc/cdi/other.yaml", fixture("cdi/nvidia_550.yaml.txt"))
        (found,) = assess_toolkit(host.facts(), True)
        assert (found["id"], found["severity"]) == ("GPU012", "error")
        assert "/etc/cdi/nvidia.yaml, /etc/cdi/other.yaml" in found["evidence"]
        assert host.facts()["toolkit"]["spec_to_write"] == ""
        # A folder that goes before settles it.
        host.write("var/run/cdi/nvidia.yaml", fixture("cdi/nvidia_550.yaml.txt"))
        assert host.toolkit() == []

    def test_one_of_another_kind_and_one_that_no_engine_reads(self, host: Host) -> None:
        host.write("etc/cdi/gds.json", fixture("cdi/gds.json"))
        host.write("etc/cdi/old.yml", fixture("cdi/nvidia_550.yaml.txt").replace("550.144.03", "535.183.01"))
        assert host.toolkit() == []
        host.remove("etc/cdi/nvidia.yaml")
        assert host.facts()["toolkit"]["spec_to_write"] == "/var/run/cdi/nvidia.yaml"
        host.write("var/run/cdi/nvidia.yaml", fixture("cdi/gds.json"))
        assert host.facts()["toolkit"]["spec_to_write"] == "/var/run/cdi/nvidia-gpu.yaml"

    def test_folders_of_the_engines_own(self, host: Host) -> None:
        host.change_info(CDISpecDirs=["/opt/cdi"])
        assert host.toolkit() == [("GPU012", "error")]
        assert host.facts()["toolkit"]["spec_to_write"] == "/opt/cdi/nvidia.yaml"
        host.write("opt/cdi/nvidia.yaml", fixture("cdi/nvidia_550.yaml.txt"))
        assert host.toolkit() == []


class TestEvents:
    @pytest.mark.parametrize(
        ("log", "severities"),
        [
            ("nvlink_fatal", ["info", "warning", "error", "error"]),
            ("gone_at_load", ["error"]),
            ("sxid", ["info", "error"]),
        ],
    )
    def test_gpu020_events_of_newer_generations(self, host: Host, log: str, severities: list[str]) -> None:
        host.log(log)
        assert of("GPU020", host.driver()) == severities

    @pytest.mark.parametrize(
        ("code", "text", "severity"),
        [
            (143, "GPU Initialization Failure", "error"),
            (145, "RLW_RXPIPE Nonfatal XC0 i0 Link 13", "warning"),
            (149, "NETIR Fatal XC0 i0 Link -1", "error"),
            (154, "GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)", "error"),
            (154, "GPU recovery action changed from 0x0 (None) to 0x4 (Drain and Reset)", "warning"),
            (154, "GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)", "info"),
            (13, "Graphics SM Warp Exception", "info"),
            (222, "Something new", "info"),
        ],
    )
    def test_gpu020_each_kind(self, host: Host, code: int, text: str, severity: str) -> None:
        host.answer(Outcome(out=f"[ 9.1] NVRM: Xid (PCI:0000:19:00): {code}, {text}\n"), "dmesg")
        (found,) = [item for item in assess_driver(host.facts(), "auto", {}) if item["id"] == "GPU020"]
        assert found["severity"] == severity
        assert ("application" in found["remedy"]) is (code == 13)
        assert ("does not know it" in found["remedy"]) is (code == 222)

    @pytest.mark.parametrize(
        ("action", "severity"), [("Reset", "error"), ("Reboot", "error"), ("Drain and Reset", "warning")]
    )
    def test_gpu020_the_recovery_that_the_driver_asks_for(self, host: Host, action: str, severity: str) -> None:
        first(host, ("<compute_mode>", f"<gpu_recovery_action>{action}</gpu_recovery_action><compute_mode>"))
        assert of("GPU020", host.driver()) == [severity]

    def test_gpu004_another_module_is_refused(self, host: Host) -> None:
        host.smi(NO_DRIVER)
        host.remove("proc/driver/nvidia/version")
        host.log("key_of_another")
        assert host.driver() == [("GPU003", "error")]


class TestGpus:
    @pytest.mark.parametrize(
        ("mode", "severities"),
        [
            ("Default", []),
            ("Exclusive_Process", ["warning"]),
            ("Exclusive_Thread", ["warning"]),
            ("Prohibited", ["error"]),
        ],
    )
    def test_gpu032_compute_mode(self, host: Host, mode: str, severities: list[str]) -> None:
        first(host, ("<compute_mode>Default", f"<compute_mode>{mode}"))
        assert of("GPU032", host.driver()) == severities

    def test_gpu032_the_probe_finds_the_gpu_taken(self) -> None:
        """In exclusive mode what serves has it: no fault of the access."""
        answer = json.loads(fixture("probe/works.json"))
        busy = {"ran": 0, "error": "CUDA error: CUDA-capable device(s) is/are busy or unavailable"}
        assert shown(assess_access(Outcome(out=json.dumps({**answer, "kernel": busy})), 2)) == [("GPU032", "warning")]

    @pytest.mark.parametrize(
        ("status", "severities"),
        [
            ("Licensed (Expiry: 2026-12-1 9:30:0 GMT)", []),
            ("Unlicensed (Unrestricted)", ["warning"]),
            ("Unlicensed (Restricted)", ["error"]),
            ("Unlicensed", ["error"]),
            ("N/A", []),
        ],
    )
    def test_gpu033_a_virtual_gpu_without_its_license(self, host: Host, status: str, severities: list[str]) -> None:
        name = "vgpu_software_licensed_product"
        product = f"<{name}><license_status>{status}</license_status></{name}>"
        first(host, ("<compute_mode>", f"{product}<compute_mode>"))
        assert of("GPU033", host.driver()) == severities

    @pytest.mark.parametrize("reasons", ["clocks_event_reasons", "clocks_throttle_reasons"])
    def test_gpu037_slowed_down(self, host: Host, reasons: str) -> None:
        one = f"{reasons[:-1]}_hw_thermal_slowdown"
        other = f"{reasons[:-1]}_gpu_idle"
        text = f"<{reasons}><{one}>Active</{one}><{other}>Active</{other}></{reasons}>"
        first(host, ("<compute_mode>", f"{text}<compute_mode>"))
        (found,) = [item for item in assess_driver(host.facts(), "auto", {}) if item["id"] == "GPU037"]
        assert "hw thermal slowdown." in found["summary"]
        first(host, ("<compute_mode>", f"{text.replace('Active', 'Not Active')}<compute_mode>"))
        assert of("GPU037", host.driver()) == []

    def test_gpu031_a_whole_report_with_a_corrupted_inforom(self, host: Host) -> None:
        host.smi(
            Outcome(
                rc=14, out=fixture("nvidia_smi/h100_550.xml"), err="WARNING: infoROM is corrupted at gpu 0000:19:00.0"
            )
        )
        assert host.driver() == [("GPU031", "warning")]
        host.smi(Outcome(rc=14, out="nothing else"))
        assert host.driver() == [("GPU028", "error")]

    def test_gpu027_names_persistence(self, host: Host) -> None:
        host.smi(Outcome(rc=124, err="no answer within 60 s", timed_out=True))
        (found,) = [item for item in assess_driver(host.facts(), "auto", {}) if item["id"] == "GPU027"]
        assert "nvidia-persistenced" in found["remedy"]
        assert "nvidia_driver_smi_timeout" in found["remedy"]

    def test_gpu015_the_module_for_unified_memory_is_loaded_later(self, host: Host) -> None:
        host.write("usr/bin/nvidia-modprobe", "")
        host.remove("dev/nvidia-uvm")
        assert host.driver() == [("GPU015", "warning")]

    def test_gpu019_blackwell_needs_a_subnet_manager(self, host: Host) -> None:
        """Its switches are no bridges of NVIDIA on the bus; the Fabric Manager is asked all the same."""
        first(host, ("<compute_mode>", "<fabric><state>In Progress</state><status>N/A</status></fabric><compute_mode>"))
        text = host.answers["nvidia-smi", "-q", "-x"].out
        host.smi(Outcome(out=text.replace(">Hopper<", ">Blackwell<")))
        host.answer(Outcome(out="Fabric Manager version is : 580.126.20\n"), "nv-fabricmanager", "--version")
        (found,) = [item for item in assess_driver(host.facts(), "auto", {}) if item["id"] == "GPU019"]
        assert "Fabric Manager 580.126.20" in found["evidence"]
        assert "nvlsm" in found["remedy"]
        host.smi(Outcome(out=text.replace("In Progress", "Not Supported")))
        assert of("GPU019", host.driver()) == []


class TestHook:
    def test_the_hook_alone_is_a_way(self, host: Host) -> None:
        """Docker takes it from PATH, without a registered runtime."""
        by_hook(host)
        assert host.facts()["toolkit"]["modes"] == ["nvidia"]
        assert of("GPU010", host.toolkit()) == []

    def test_gpu013_it_loses_gpus_whatever_its_version(self, host: Host) -> None:
        by_hook(host)
        (found,) = [item for item in assess_toolkit(host.facts(), True) if item["id"] == "GPU013"]
        assert "1.18" not in found["remedy"]
        assert "docker_engine_cdi=true" in found["remedy"]

    @pytest.mark.parametrize(("config", "word"), [("config_rootless", "no-cgroups"), ("config_cdi", 'mode = "cdi"')])
    def test_gpu034_settings_that_break_it(self, host: Host, config: str, word: str) -> None:
        by_hook(host, config)
        (found,) = [item for item in assess_toolkit(host.facts(), True) if item["id"] == "GPU034"]
        assert (found["severity"], word in found["evidence"]) == ("error", True)
        host.change_info()
        assert of("GPU034", host.toolkit()) == []

    @pytest.mark.parametrize(
        ("said", "identifier"),
        [
            (
                "nvidia-container-cli: ldcache error: open failed: /sbin/ldconfig.real: no such file or directory",
                "GPU034",
            ),
            (
                "invoking the NVIDIA Container Runtime Hook directly (e.g. the docker --gpus flag) is not supported",
                "GPU034",
            ),
            (
                "failed to add device rules: bpf_prog_query(BPF_CGROUP_DEVICE) failed: operation not permitted",
                "GPU034",
            ),
            ("nvidia-container-cli: initialization error: driver rpc error: timed out", "GPU027"),
            ("nvidia-container-cli: initialization error: nvcgo rpc error: timed out", "GPU027"),
            ("nvidia-container-cli: initialization error: driver error: timed out", "GPU027"),
            ("nvidia-container-cli: initialization error: driver rpc error: failed to process request", "GPU028"),
            ("nvidia-container-cli: initialization error: nvml error: driver not loaded", "GPU003"),
            ("initialization error: load library failed: libnvidia-ml.so.1: cannot open shared object file", "GPU003"),
            ("initialization error: load library failed: libcuda.so.1: cannot open shared object file", "GPU003"),
            ("nvidia-container-cli: device error: 0:3: unknown device", "GPU030"),
            ("nvidia-container-cli: detection error: nvml error: gpu is lost", "GPU020"),
            ('docker: failed to start: exec: "nvidia-container-runtime": executable file not found in $PATH', "GPU010"),
            ("fork/exec /usr/bin/nvidia-container-runtime: no such file or directory", "GPU010"),
            ('CDI device injection failed: conflicting device "nvidia.com/gpu=0"', "GPU012"),
            (
                "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock",
                "ENG001",
            ),
            ("permission denied while trying to connect to the docker API at unix:///var/run/docker.sock", "ENG001"),
            ("docker: Cannot connect to the Docker daemon at unix:///var/run/docker.sock.", "ENG001"),
            ("write /var/lib/docker/tmp/x: no space left on device", "ENG005"),
        ],
    )
    def test_each_text_has_its_cause(self, said: str, identifier: str) -> None:
        assert shown(assess_access(Outcome(rc=125, err=said), 1)) == [(identifier, "error")]

    @pytest.mark.parametrize("error", ["GPU is lost. Reboot the system to recover this GPU"])
    def test_gpu020_the_gpu_is_lost(self, error: str) -> None:
        assert shown(assess_access(Outcome(rc=1, err=error), 1)) == [("GPU020", "error")]


# What the probe's texts stand for, by finding, so that each place in the code has a test of its name.
@pytest.mark.parametrize("said", ["driver not loaded", "libnvidia-ml.so.1: cannot open", "libcuda.so.1: cannot open"])
def test_gpu003_said_by_the_hook(said: str) -> None:
    assert shown(assess_access(Outcome(rc=1, err=said), 1)) == [("GPU003", "error")]


@pytest.mark.parametrize(
    "said", ["/sbin/ldconfig.real: no such file", "the Runtime Hook directly", "bpf_prog_query failed"]
)
def test_gpu034_said_by_the_hook(said: str) -> None:
    assert shown(assess_access(Outcome(rc=1, err=said), 1)) == [("GPU034", "error")]


@pytest.mark.parametrize("said", ["driver rpc error: timed out", "driver error: timed out"])
def test_gpu027_said_by_the_hook(said: str) -> None:
    assert shown(assess_access(Outcome(rc=1, err=said), 1)) == [("GPU027", "error")]


@pytest.mark.parametrize(
    "said", ['nvidia-container-runtime": executable file not found', "nvidia-container-runtime: no such file"]
)
def test_gpu010_said_by_the_engine(said: str) -> None:
    assert shown(assess_access(Outcome(rc=1, err=said), 1)) == [("GPU010", "error")]


@pytest.mark.parametrize(
    ("said", "identifier"),
    [
        ("permission denied while trying to connect to the docker API", "ENG001"),
        ("Cannot connect to the Docker daemon at x", "ENG001"),
        ("x: no space left on device", "ENG005"),
        ("nvml error: gpu is lost", "GPU020"),
        ("GPU is lost", "GPU020"),
        ("0:3: unknown device", "GPU030"),
        ("rpc error: failed to process request", "GPU028"),
        ("conflicting device", "GPU012"),
    ],
)
def test_eng001_eng005_gpu012_gpu020_gpu028_gpu030_said_instead(said: str, identifier: str) -> None:
    assert shown(assess_access(Outcome(rc=1, err=said), 1)) == [(identifier, "error")]


class TestMachines:
    def test_gpu036_kept_for_a_virtual_machine(self, host: Host) -> None:
        host.smi(Outcome(rc=127, missing=True))
        host.remove("proc/driver/nvidia/version")
        host.pci("0000:19:00.0", driver="vfio-pci")
        assert host.driver() == [("GPU036", "error")]

    def test_gpu036_beside_one_that_is_used(self, host: Host) -> None:
        host.pci("0000:05:00.0", driver="vfio-pci", device="0x1b82")
        assert host.driver() == [("GPU036", "info")]

    def test_gpu035_wsl2_whose_driver_is_missing_in_windows(self, host: Host) -> None:
        host.without_gpu()
        host.write("proc/sys/kernel/osrelease", "6.6.87.2-microsoft-standard-WSL2\n")
        host.write("dev/dxg", "")
        assert host.driver() == [("GPU035", "info")]
        assert host.driver("required") == [("GPU035", "error")]
        host.write("usr/lib/wsl/lib/libcuda.so.1", "")
        (found,) = assess_driver(host.facts(), "auto", CU124)
        assert (found["severity"], "Install no driver in here" in found["remedy"]) == ("error", True)

    def test_wsl2_that_works(self, host: Host) -> None:
        """No module, no device nodes, and one device for all."""
        first(host)
        text = host.answers["nvidia-smi", "-q", "-x"].out
        start, end = text.index('\t<gpu id="00000000:3B'), text.rindex("</gpu>") + len("</gpu>\n")
        host.smi(Outcome(out=text[:start] + text[end:]))
        host.write("proc/sys/kernel/osrelease", "6.6.87.2-microsoft-standard-WSL2\n")
        host.write("dev/dxg", "")
        host.remove("proc/driver/nvidia/version")
        host.pci("0000:19:00.0", vendor="0x1414", driver="")
        for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
            host.remove(f"dev/{name}")
        only = fixture("cdi/nvidia_550.yaml.txt").replace('name: "0"', "name: x").replace('name: "1"', "name: y")
        host.write("etc/cdi/nvidia.yaml", only)
        assert errors(host) == []
        facts = host.facts()
        offered = facts["toolkit"]["cdi_devices"]
        assert [item["gpu"] for item in instances("all", facts["gpus"], "cdi", offered)] == ["nvidia.com/gpu=all"]

    def test_gpu035_jetson(self, host: Host) -> None:
        host.without_gpu()
        host.write("etc/nv_tegra_release", "# R36 (release), REVISION: 4.3\n")
        assert host.driver() == [("GPU035", "info")]
        assert host.driver("required") == [("GPU035", "error")]

    def test_eng006_podman_answers_to_docker(self, host: Host) -> None:
        host.answer(Outcome(out=fixture("docker/info_podman.json")), "docker", "info", "--format", "{{json .}}")
        assert host.engine() == [("ENG006", "error")]
        message = (
            "Emulate Docker CLI using podman. Create /etc/containers/nodocker to quiet msg.\nError: template: info"
        )
        host.answer(Outcome(rc=125, err=message), "docker", "info", "--format", "{{json .}}")
        assert host.engine() == [("ENG006", "error")]

    def test_eng001_a_user_who_may_not_use_the_socket(self, host: Host) -> None:
        message = "permission denied while trying to connect to the docker API at unix:///var/run/docker.sock"
        data = {"ServerVersion": "", "ServerErrors": [message]}
        host.answer(Outcome(rc=1, out=json.dumps(data)), "docker", "info", "--format", "{{json .}}")
        (found,) = assess_engine(host.facts(), True)
        assert "may not use Docker's socket" in found["summary"]

    @pytest.mark.parametrize(
        ("changes", "config", "folder"),
        [
            ({}, "", "/var/lib/docker"),
            ({"DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]]}, "", "/var/lib/containerd"),
            ({"DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]]}, 'root = "/data/c"\n', "/data/c"),
            (
                {
                    "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]],
                    "Containerd": {"Address": "/var/run/docker/containerd/containerd.sock"},
                },
                "",
                "/var/lib/docker/containerd/daemon",
            ),
            ({"DriverStatus": [["Backing Filesystem", "extfs"], "odd", [1, 2]]}, "", "/var/lib/docker"),
        ],
    )
    def test_where_images_lie(self, host: Host, changes: dict[str, Any], config: str, folder: str) -> None:
        host.change_info(**changes)
        host.write("etc/containerd/config.toml", config)
        assert host.facts()["engine"]["image_root"] == folder

    def arm(self, host: Host, capability: str, report: str) -> None:
        """A host with an arm64 processor, driver 580, its one GPU in domain 15 of the bus."""
        host.answer(Outcome(out="aarch64\n"), "uname", "-m")
        host.smi(Outcome(out=report))
        uuid = parse_report(report)["gpus"][0]["uuid"]
        query = ("nvidia-smi", "--query-gpu=uuid,compute_cap", "--format=csv,noheader")
        host.answer(Outcome(out=f"{uuid}, {capability}\n"), *query)

    def test_gpu009_gb10_and_gh200(self, host: Host) -> None:
        """Right facts of unified memory, and a flavor that says for which machines it is built."""
        text = (REPOSITORY / "roles/inference_image/vars/main.yml").read_text(encoding="utf-8")
        table = yaml.safe_load(text)["inference_image_flavors"]
        gb10, gh200 = fixture("nvidia_smi/gb10_580.xml"), fixture("nvidia_smi/h100_550.xml")
        for capability, report in (("12.1", gb10), ("9.0", gh200.replace("H100 80GB HBM3", "GH200 480GB"))):
            self.arm(host, capability, report)
            facts = host.facts()
            assert facts["machine"] == "aarch64"
            chosen = choose_flavor(table, facts, True)
            assert not chosen["fits"]
            assert "built for x86_64, and this machine is aarch64" in chosen["reason"]
            assert "error" in of("GPU009", shown(assess_driver(facts, "auto", table["cu130"])))
            # An image of one's own has no such row.
            assert of("GPU023", host.driver(vram_mib=2048, min_driver="525")) == []
        self.arm(host, "12.1", gb10)
        assert host.facts()["gpus"][0]["memory_total_mib"] is None


def test_gpu020_the_report_names_the_finding_to_begin_with(host: Host) -> None:
    """A host on which nearly everything is wrong, in the order of cause and effect."""
    host.log("xid_79")
    host.module("580.82.07")
    host.smi(Outcome(rc=18, out="Failed to initialize NVML: Driver/library version mismatch"))
    host.write("var/lib/dpkg/status", fixture("packages/status_loose"))
    host.answer(Outcome(out=fixture("units/refresh_failed")), "systemctl", "show", PROPERTIES, *UNITS)
    host.change_info(
        ServerVersion="20.10.24",
        SecurityOptions=["name=rootless"],
        CDISpecDirs=[],
        ClientInfo={},
        LiveRestoreEnabled=False,
        ContainersRunning=3,
    )
    findings = [
        *assess_driver(host.facts(), "required", {**CU124, "min_driver": "580"}),
        *assess_engine(host.facts(), True),
        *assess_toolkit(host.facts(), True),
    ]
    report = host_report({"verdict": "error", "findings": findings, "facts": {}}, "gpu-1")
    assert len(findings) >= 10
    # What the driver says of itself is not hidden by the event.
    assert [item["id"] for item in findings][:2] == ["GPU020", "GPU006"]
    assert report.endswith("Begin with GPU020: others may follow from it.")
    assert "Begin with" not in host_report({"verdict": "error", "findings": findings[:1], "facts": {}}, "gpu-1")

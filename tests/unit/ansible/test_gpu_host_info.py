"""What the host checks read, and what they make of it: each finding has a host that shows it and one that does not."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host import commands
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.cdi import parse_spec
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.commands import Outcome
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.driver import parse_loaded_driver
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.engine import (
    assess_engine,
    parse_images,
    parse_info,
)
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.findings import (
    assess_driver,
    assess_toolkit,
    gpu_present,
)
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.host import host_facts
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.nvidia_smi import (
    UnreadableOutputError,
    parse_compute_capabilities,
    parse_report,
)
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.toolkit import parse_toolkit_version
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.versions import older, version_key
from tests.unit.ansible.simulated_host import CU124, MISMATCH, NO_DRIVER, Host, fixture, shown

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


class TestParsers:
    def test_a_report_of_two_gpus(self) -> None:
        report = parse_report(fixture("nvidia_smi/h100_550.xml"))
        assert (report["driver_version"], report["cuda_version"]) == ("550.144.03", "12.4")
        assert [gpu["index"] for gpu in report["gpus"]] == [0, 1]
        second = report["gpus"][1]
        assert second["name"] == "NVIDIA H100 80GB HBM3"
        assert second["uuid"] == "GPU-7fe2a9b4-2f9d-4c61-8e0a-5b1e7d0f4422"
        assert (second["memory_total_mib"], second["memory_free_mib"]) == (81559, 10798)
        assert second["ecc_enabled"] is True
        assert second["mig"] == {"current": False, "pending": False, "instances": 0}

    def test_a_report_with_mig(self) -> None:
        first, second = parse_report(fixture("nvidia_smi/a100_mig_580.xml"))["gpus"]
        assert first["mig"] == {"current": True, "pending": True, "instances": 2}
        assert second["mig"] == {"current": False, "pending": True, "instances": 0}

    def test_a_report_of_a_card_that_knows_neither_ecc_nor_mig(self) -> None:
        (gpu,) = parse_report(fixture("nvidia_smi/gtx1080ti_470.xml"))["gpus"]
        assert gpu["ecc_enabled"] is None
        assert gpu["mig"] == {"current": None, "pending": None, "instances": 0}

    def test_words_around_the_report_do_no_harm(self) -> None:
        text = "WARNING: infoROM is corrupted\n" + fixture("nvidia_smi/h100_550.xml") + "\nWARNING: the same again\n"
        assert len(parse_report(text)["gpus"]) == 2

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("", "no nvidia_smi_log"),
            ("No devices were found", "no nvidia_smi_log"),
            ("<nvidia_smi_log><gpu>", "ends before"),
            ("<nvidia_smi_log><gpu></nvidia_smi_log>", "broken"),
        ],
    )
    def test_what_is_no_report_is_refused_with_the_reason(self, text: str, reason: str) -> None:
        with pytest.raises(UnreadableOutputError, match=reason):
            parse_report(text)

    def test_entities_are_not_expanded(self) -> None:
        bomb = '<!DOCTYPE a [<!ENTITY x "xxxx">]><nvidia_smi_log><driver_version>&x;</driver_version></nvidia_smi_log>'
        with pytest.raises(UnreadableOutputError, match="broken"):
            parse_report(bomb)

    def test_compute_capabilities(self) -> None:
        assert parse_compute_capabilities("GPU-a, 9.0\nGPU-b, [N/A]\n\nField is not valid") == {"GPU-a": "9.0"}

    @pytest.mark.parametrize(
        ("name", "version", "flavor"),
        [("proprietary_550", "550.144.03", "proprietary"), ("open_580", "580.82.07", "open")],
    )
    def test_the_loaded_driver(self, name: str, version: str, flavor: str) -> None:
        assert parse_loaded_driver(fixture(f"proc/{name}")) == {"version": version, "flavor": flavor}

    def test_specifications_as_yaml_and_as_json(self) -> None:
        assert parse_spec(fixture("cdi/nvidia_550.yaml.txt")) == {
            "kind": "nvidia.com/gpu",
            "devices": ["0", "1", "all"],
            "driver_version": "550.144.03",
            "uvm_major": None,
            "persistenced": False,
        }
        assert parse_spec(fixture("cdi/nvidia_580.json")) == {
            "kind": "nvidia.com/gpu",
            "devices": ["0", "0:0", "all"],
            "driver_version": "580.82.07",
            "uvm_major": None,
            "persistenced": False,
        }

    def test_a_specification_with_indented_lists_and_the_name_first(self) -> None:
        text = """
kind: 'nvidia.com/gpu'
devices:
  - name: "0"  # the only one
    containerEdits:
      env:
        - name: nothing
"""
        assert parse_spec(text)["devices"] == ["0"]
        assert parse_spec(text)["kind"] == "nvidia.com/gpu"

    def test_the_engine(self) -> None:
        engine = parse_info(fixture("docker/info_26.json"))
        assert engine["version"] == "26.1.5+dfsg1"
        assert engine["cdi_enabled"]
        assert engine["live_restore"]
        assert not engine["rootless"]
        assert "runc" in engine["runtimes"]
        assert (engine["compose_version"], engine["buildx_version"]) == ("2.26.1", "0.13.1")

    def test_images_that_have_a_name(self) -> None:
        listed = "timm-classifier:cpu-1 sha256:aa\n<none>:<none> sha256:bb\nhub:50/gateway:2 sha256:cc\n\na half line\n"
        assert parse_images(listed) == {"timm-classifier:cpu-1": "sha256:aa", "hub:50/gateway:2": "sha256:cc"}

    def test_versions(self) -> None:
        assert parse_toolkit_version("NVIDIA Container Toolkit CLI version 1.17.4\ncommit: 9b69590") == "1.17.4"
        assert version_key("26.1.5+dfsg1") == (26, 1, 5)
        assert older("525.60", than="525.60.13")
        assert not older("550.54.14", than="550.54.14")
        assert not older("24.0.0", than="24.0")
        assert not older("", than="525")


class TestDriverFindings:
    def test_a_healthy_host_has_none(self, host: Host) -> None:
        facts = host.facts()
        assert gpu_present(facts)
        assert facts["driver"]["disk_version"] == facts["driver"]["user_version"] == "550.144.03"
        assert [gpu["compute_capability"] for gpu in facts["gpus"]] == ["9.0", "9.0"]
        assert host.driver("required") == []

    def test_gpu001_no_gpu_is_an_error_only_where_one_is_required(self, host: Host) -> None:
        host.without_gpu()
        assert not gpu_present(host.facts())
        assert host.driver("auto") == [("GPU001", "info")]
        assert host.driver("required") == [("GPU001", "error")]

    def test_an_audio_function_of_a_card_is_no_gpu(self, host: Host) -> None:
        host.without_gpu()
        host.pci("0000:01:00.1", pci_class="0x040300", driver="snd_hda_intel")
        assert host.driver("auto") == [("GPU001", "info")]

    def test_a_gpu_that_only_nvidia_smi_knows_counts(self, host: Host) -> None:
        host.pci("0000:19:00.0", vendor="0x8086", driver="")
        assert gpu_present(host.facts())
        assert host.driver("required") == []

    def test_gpu002_nouveau_holds_the_device(self, host: Host) -> None:
        host.smi(NO_DRIVER)
        host.remove("proc/driver/nvidia/version")
        host.pci("0000:19:00.0", driver="nouveau")
        (host.root / "sys/module/nouveau").mkdir(parents=True)
        assert host.driver() == [("GPU002", "error")]

    def test_nouveau_without_a_device_of_its_own_is_no_problem(self, host: Host) -> None:
        (host.root / "sys/module/nouveau").mkdir(parents=True)
        assert host.driver() == []

    def test_gpu003_no_driver_is_installed(self, host: Host) -> None:
        host.smi(Outcome(rc=127, missing=True))
        host.remove("proc/driver/nvidia/version")
        host.remove("lib/modules/6.1.0-31-amd64/updates/dkms/nvidia.ko")
        host.pci("0000:19:00.0", driver="")
        facts = host.facts()
        (found,) = assess_driver(facts, "auto", CU124)
        assert found["id"] == "GPU003"
        assert "nvidia_driver_install=true" in found["remedy"]

    def test_gpu003_the_driver_waits_for_a_reboot(self, host: Host) -> None:
        host.smi(NO_DRIVER)
        host.remove("proc/driver/nvidia/version")
        (found,) = assess_driver(host.facts(), "auto", CU124)
        assert found["id"] == "GPU003"
        assert found["remedy"].startswith("Reboot this host")

    def test_gpu006_nvidia_smi_says_mismatch(self, host: Host) -> None:
        host.module("580.82.07")
        host.smi(MISMATCH)
        assert host.driver() == [("GPU006", "error")]

    def test_gpu006_without_the_words_of_nvidia_smi(self, host: Host) -> None:
        host.write("usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.82.07", "")
        host.smi(Outcome(rc=255, err="NVML: Unknown Error"))
        assert host.driver() == [("GPU006", "error")]

    def test_gpu007_all_is_well_until_the_next_start(self, host: Host) -> None:
        host.module("580.82.07")
        (found,) = assess_driver(host.facts(), "auto", CU124)
        assert (found["id"], found["severity"]) == ("GPU007", "error")
        assert "580.82.07" in found["summary"]
        assert "Reboot" in found["remedy"]

    def test_gpu009_too_old_for_the_image(self, host: Host) -> None:
        assert host.driver(min_driver="580.65.06", recommended_driver="") == [("GPU009", "error")]

    def test_gpu009_old_but_able(self, host: Host) -> None:
        assert host.driver(recommended_driver="560.28.03") == [("GPU009", "warning")]

    def test_gpu009_no_code_for_this_generation(self, host: Host) -> None:
        assert host.driver(compute_capabilities=["7.5", "8.0", "8.6"]) == [("GPU009", "error")] * 2
        assert host.driver(compute_capabilities=["9.5"]) == [("GPU009", "error")] * 2
        assert host.driver(compute_capabilities=[]) == []

    def test_an_image_without_requirements_judges_nothing(self, host: Host) -> None:
        assert host.driver(cuda="", min_driver="", recommended_driver="", compute_capabilities=[]) == []

    @pytest.mark.parametrize("name", ["nvidia-uvm", "nvidiactl"])
    def test_gpu015_a_device_node_is_missing(self, host: Host, name: str) -> None:
        host.remove(f"dev/{name}")
        assert host.driver() == [("GPU015", "error")]

    def test_gpu015_no_gpu_has_its_node(self, host: Host) -> None:
        host.remove("dev/nvidia0")
        host.remove("dev/nvidia1")
        assert host.driver() == [("GPU015", "error")]

    def test_gpu018_a_mig_change_waits_for_a_reset(self, host: Host) -> None:
        self.mig_host(host)
        assert host.driver() == [("GPU018", "warning")]

    def test_gpu018_mig_without_instances(self, host: Host) -> None:
        self.mig_host(host, fixture("nvidia_smi/a100_mig_580.xml").replace("mig_device>", "nothing>"))
        # The other GPU is there for the service.
        assert host.driver() == [("GPU018", "warning"), ("GPU018", "warning")]
        host.gpus = [0]
        assert [severity for found, severity in host.driver() if found == "GPU030"] == ["error"]
        host.gpus = "all"
        alone = host.answers["nvidia-smi", "-q", "-x"].out
        host.smi(Outcome(out=alone.replace("<current_mig>Disabled", "<current_mig>Enabled")))
        assert host.driver() == [("GPU018", "error"), ("GPU018", "error")]

    def test_gpu027_nvidia_smi_hangs(self, host: Host) -> None:
        host.smi(Outcome(rc=124, err="no answer within 10 s", timed_out=True))
        assert host.driver() == [("GPU027", "error")]

    @pytest.mark.parametrize(
        "outcome",
        [
            Outcome(out="<nvidia_smi_log><gpu id="),
            Outcome(out="\x00\xff\x13"),
            Outcome(rc=6, out="No devices were found"),
            Outcome(out="<nvidia_smi_log><attached_gpus>0</attached_gpus></nvidia_smi_log>"),
            Outcome(rc=127, missing=True),
        ],
    )
    def test_gpu028_nvidia_smi_gives_no_usable_answer(self, host: Host, outcome: Outcome) -> None:
        host.smi(outcome)
        assert host.driver() == [("GPU028", "error")]

    @staticmethod
    def mig_host(host: Host, report: str = "") -> None:
        host.write("proc/driver/nvidia/version", fixture("proc/open_580"))
        host.module("580.82.07")
        host.write("usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.82.07", "")
        host.smi(Outcome(out=report or fixture("nvidia_smi/a100_mig_580.xml")))


class TestToolkitFindings:
    def test_a_healthy_host_has_none_and_offers_cdi(self, host: Host) -> None:
        assert host.toolkit() == []
        toolkit = host.facts()["toolkit"]
        assert toolkit["modes"] == ["cdi"]
        assert toolkit["version"] == "1.20.1"
        assert toolkit["cdi_devices"] == ["nvidia.com/gpu=0", "nvidia.com/gpu=1", "nvidia.com/gpu=all"]

    def test_a_host_without_a_gpu_is_not_judged(self, host: Host) -> None:
        host.without_gpu()
        host.change_info(CDISpecDirs=[])
        assert host.toolkit() == []

    def test_gpu010_the_toolkit_is_not_installed(self, host: Host) -> None:
        host.remove("etc/cdi/nvidia.yaml")
        host.answer(Outcome(rc=127, missing=True), "nvidia-ctk", "--version")
        assert host.toolkit() == [("GPU010", "error")]
        assert host.toolkit(required=False) == [("GPU010", "warning")]

    def test_gpu010_the_engine_is_not_set_up(self, host: Host) -> None:
        host.change_info(CDISpecDirs=[])
        (found,) = assess_toolkit(host.facts(), True)
        assert found["id"] == "GPU010"
        assert "docker_engine_cdi=true" in found["remedy"]

    def test_the_nvidia_runtime_is_a_way_too(self, host: Host) -> None:
        host.change_info(CDISpecDirs=[], Runtimes={"nvidia": {}, "runc": {}})
        assert host.facts()["toolkit"]["modes"] == ["nvidia"]
        assert host.toolkit() == []

    @pytest.mark.parametrize(
        "changes", [{"SecurityOptions": ["name=rootless"]}, {"DockerRootDir": "/var/snap/docker/common/var-lib-docker"}]
    )
    def test_gpu011_rootless_or_snap(self, host: Host, changes: dict[str, Any]) -> None:
        host.change_info(**changes)
        assert host.toolkit() == [("GPU011", "error")]

    def test_gpu012_no_specification_offers_a_gpu(self, host: Host) -> None:
        host.remove("etc/cdi/nvidia.yaml")
        assert host.toolkit() == [("GPU012", "error")]

    def test_gpu012_the_specification_is_of_another_driver(self, host: Host) -> None:
        host.write("etc/cdi/nvidia.yaml", fixture("cdi/nvidia_580.json"))
        assert host.toolkit() == [("GPU012", "error")]
        host.change_info(CDISpecDirs=[], Runtimes={"nvidia": {}})
        assert host.toolkit() == [("GPU012", "warning")]

    def test_gpu018_the_specification_knows_no_mig_device(self, host: Host) -> None:
        TestDriverFindings.mig_host(host)
        host.write("etc/cdi/nvidia.yaml", fixture("cdi/nvidia_580.json").replace('"0:0"', '"1"'))
        assert host.toolkit() == [("GPU018", "error")]
        offered = fixture("cdi/nvidia_580.json").replace('"all"', '"0:1"').replace('"0",', '"1",')
        host.write("etc/cdi/nvidia.yaml", offered)
        assert host.toolkit() == []

    def test_a_specification_reached_by_two_names_is_read_once(self, host: Host) -> None:
        (host.root / "var").mkdir(exist_ok=True)
        (host.root / "run/cdi").mkdir()
        (host.root / "var/run").symlink_to(host.root / "run")
        (host.root / "etc/cdi/nvidia.yaml").rename(host.root / "run/cdi/nvidia.yaml")
        assert [spec["path"] for spec in host.facts()["toolkit"]["cdi_specs"]] == ["/var/run/cdi/nvidia.yaml"]


class TestEngineFindings:
    def test_a_healthy_engine_has_none(self, host: Host) -> None:
        assert host.engine() == []

    def test_eng001_not_installed(self, host: Host) -> None:
        host.answers.clear()
        host.remove("usr/sbin/dockerd")
        assert host.engine() == [("ENG001", "error")]
        assert host.engine(required=False) == [("ENG001", "warning")]

    def test_eng001_not_answering(self, host: Host) -> None:
        message = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"
        data = {"ServerVersion": "", "ServerErrors": [message]}
        host.answer(Outcome(rc=1, out=json.dumps(data)), "docker", "info", "--format", "{{json .}}")
        (found,) = assess_engine(host.facts(), True)
        assert (found["id"], found["evidence"]) == ("ENG001", message)

    def test_eng002_too_old_even_where_it_may_be_installed(self, host: Host) -> None:
        host.change_info(ServerVersion="20.10.24+dfsg1")
        assert host.engine(required=False) == [("ENG002", "error")]

    @pytest.mark.parametrize(("plugin", "identifier"), [("compose", "ENG003"), ("buildx", "ENG004")])
    def test_eng003_eng004_a_plugin_is_missing(self, host: Host, plugin: str, identifier: str) -> None:
        plugins = json.loads(fixture("docker/info_26.json"))["ClientInfo"]["Plugins"]
        host.change_info(ClientInfo={"Plugins": [item for item in plugins if item["Name"] != plugin]})
        assert host.engine() == [(identifier, "error")]
        assert host.engine(required=False) == [(identifier, "warning")]

    def test_eng005_little_room(self, host: Host) -> None:
        facts = host.facts()
        facts["engine"]["storage_free_bytes"] = 3 * 10**9
        assert shown(assess_engine(facts, True)) == [("ENG005", "warning")]


class TestCommands:
    def test_a_command_that_hangs_is_left_behind(self, tmp_path: Path) -> None:
        started = time.monotonic()
        # The child keeps the pipe open after its parent was killed, as a process stuck in the driver does.
        outcome = commands.run(["sh", "-c", "sleep 20 & sleep 20"], 0.3)
        assert outcome.timed_out
        assert not outcome.ok
        assert time.monotonic() - started < 5

    def test_gpu027_a_real_nvidia_smi_that_hangs(
        self, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A script in its place never answers; the rest of the host is still read and judged."""
        script = tmp_path / "bin/nvidia-smi"
        script.parent.mkdir()
        script.write_text("#!/bin/sh\nexec sleep 600\n", encoding="utf-8")
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{script.parent}:/usr/bin:/bin")
        facts = host_facts(host.root, commands.run, 0.5, {"driver"}, smi_timeout=0.5)
        assert facts["driver_version"] == "550.144.03"
        (found,) = [item for item in assess_driver(facts, "required", CU124) if item["id"] == "GPU027"]
        assert "no answer within 0.5 s" in found["evidence"]

    def test_a_command_that_is_not_there(self) -> None:
        assert commands.run(["no-such-command-here"], 1).missing

    def test_bytes_that_are_no_text(self) -> None:
        assert commands.run(["printf", r"\377ok"], 5).out.endswith("ok")


def test_every_finding_is_explained() -> None:
    """Each id in the code has its entry in docs/TROUBLESHOOTING.md, and no entry is about nothing."""
    folder = REPOSITORY / "plugins/module_utils/gpu_host"
    code = "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py")))
    text = (REPOSITORY / "docs/TROUBLESHOOTING.md").read_text(encoding="utf-8")
    emitted = set(re.findall(r'"((?:GPU|ENG)\d{3})"', code))
    explained = {line.split()[1].rstrip(":") for line in text.splitlines() if line.startswith(("### GPU", "### ENG"))}
    assert emitted == explained
    for entry in re.split(r"\n### ", text)[1:]:
        if entry.startswith(("GPU", "ENG")):
            parts = re.findall(r"^- \*\*([^*]+)\*\*:", entry, re.MULTILINE)
            assert parts[:5] == ["Symptom", "Why", "Confirm", "Fix", "The playbook"], entry.splitlines()[0]


@pytest.mark.parametrize("topics", [["driver", "engine", "toolkit"], ["engine"]])
def test_the_module_answers_as_ansible_runs_it(tmp_path: Path, topics: list[str]) -> None:
    """The module itself, with commands that a folder on PATH stands in for."""
    host = Host(tmp_path / "root")
    folder = tmp_path / "bin"
    folder.mkdir()
    for argv, outcome in host.answers.items():
        (folder / ("_".join(argv).replace("/", "") + ".out")).write_text(outcome.out, encoding="utf-8")
    for name in ("nvidia-smi", "nvidia-ctk", "docker"):
        script = folder / name
        script.write_text('#!/bin/sh\nIFS=_\nexec cat "$(dirname "$0")/$(basename "$0")_$*.out"\n', encoding="utf-8")
        script.chmod(script.stat().st_mode | stat.S_IEXEC)
    arguments = {"topics": topics, "gpu": "required", "requirements": CU124, "root": str(host.root)}
    ansible = Path(sys.executable).with_name("ansible")
    process = subprocess.run(
        [
            ansible,
            "localhost",
            "-i",
            "localhost,",
            "-c",
            "local",
            "-m",
            "gpu_hosts.timm.gpu_host_info",
            "-a",
            json.dumps(arguments),
        ],
        cwd=REPOSITORY,
        env={"PATH": f"{folder}:/usr/bin:/bin", "HOME": str(tmp_path), "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    answer = json.loads(process.stdout.split("=>", 1)[1])
    assert answer["findings"] == []
    assert answer["facts"]["engine"]["version"] == "26.1.5+dfsg1"
    assert answer["gpu_present"] is ("driver" in topics)

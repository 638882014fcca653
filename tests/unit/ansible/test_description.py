"""What a deploy makes serve: the same as before for the same host and variables, or a refusal with the next step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.nvidia_smi import parse_report
from ansible_collections.gpu_hosts.timm.plugins.module_utils.releases import release_id
from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.description import (
    DescriptionError,
    Host,
    check_settings,
    choose_instances,
    compose_files,
    describe,
)

FIXTURES = Path(__file__).parent / "fixtures"
GPUS = parse_report((FIXTURES / "nvidia_smi/h100_550.xml").read_text(encoding="utf-8"))["gpus"]
WITH_CDI = Host("gpu-1", gpus=GPUS, gpu_present=True, mode="cdi", cdi_devices=["nvidia.com/gpu=0", "nvidia.com/gpu=1"])


@pytest.mark.parametrize("recorded", ["cpu", "gpu"])
def test_a_release_of_before_keeps_its_identity(recorded: str, tmp_path: Path) -> None:
    """Recorded when templates put releases together: a host that serves one must not get another for the same."""
    known = json.loads((FIXTURES / f"release/{recorded}.json").read_text(encoding="utf-8"))
    asked, release = known["asked"], known["release"]
    for name, text in known["files"].items():
        (tmp_path / name).write_text(f"{text}\n\n")
    host = Host.of("gpu-1", asked["reports"])
    chosen = choose_instances(asked["gpus"], host, release["image"]["flavor"], preview=False)
    files = compose_files(tmp_path, known["files"]["docker-compose.managed.yml"], on_gpus=bool(chosen))
    found = describe(host, {**release, **asked}, chosen, files)
    assert files == known["files"]
    assert found == release
    assert release_id(found["image"]["id"], found["bundle"]["sha256"], found["settings"]) == known["release_id"]


@pytest.mark.parametrize("name", ["LOG_LEVEL", "api_log_level", "API_PORT", "API_BUNDLE_PATH"])
def test_settings_that_are_not_the_services_are_refused_by_name(name: str) -> None:
    check_settings({"API_LOG_LEVEL": "debug"})
    with pytest.raises(DescriptionError, match=f"inference_service_env has {name}. Only API_"):
        check_settings({"API_LOG_LEVEL": "debug", name: "1"})


@pytest.mark.parametrize(
    ("asked", "flavor", "host", "gpus"),
    [
        ("all", "cu124", WITH_CDI, ["nvidia.com/gpu=0", "nvidia.com/gpu=1"]),
        (["1"], "cu124", WITH_CDI, ["nvidia.com/gpu=1"]),
        # Who wants the CPU has it, whatever the host has.
        ("all", "cpu", WITH_CDI, []),
        ([], "cu124", WITH_CDI, []),
        ("all", "cu124", Host("bare"), []),
    ],
)
def test_each_gpu_that_is_asked_for_gets_an_instance(asked: Any, flavor: str, host: Host, gpus: list[str]) -> None:
    assert [item["gpu"] for item in choose_instances(asked, host, flavor, preview=False)] == gpus


@pytest.mark.parametrize(
    ("asked", "host", "said"),
    [
        (["0"], Host("gpu-1", gpus=GPUS, gpu_present=True), "asks for 0, but containers on gpu-1 get no GPU"),
        ("all", Host("gpu-1", gpus=GPUS, gpu_present=True), "asks for all, but containers on gpu-1 get no GPU"),
        (["0", "7"], WITH_CDI, "names 0, 7, the host has 0, 1. Run playbooks/verify.yml"),
        (["0"], Host("gpu-1", mode="nvidia"), "names 0, the host has no GPU"),
    ],
)
def test_gpus_that_nobody_can_have_are_refused(asked: Any, host: Host, said: str) -> None:
    with pytest.raises(DescriptionError, match=said):
        choose_instances(asked, host, "cu124", preview=False)


@pytest.mark.parametrize("host", [Host("gpu-1", gpu_present=True), Host("gpu-1", gpus=GPUS, gpu_present=True)])
def test_a_preview_does_not_miss_what_a_real_run_would_install(host: Host) -> None:
    assert len(choose_instances(["0"], host, "cu124", preview=True)) == len(host.gpus[:1])


def test_more_cores_than_the_host_has_are_cut_to_those() -> None:
    limits = {"cpus": 4, "memory": "8g", "pids": 512, "shm": "1g"}
    asked = {"image": {"flavor": "cpu"}, "bundle": {"name": "cats"}, "limits": limits, "env": {}, "derived": "/d"}
    for cores, said in ((2, "2.0"), (0, "4.0"), (64, "4.0")):
        assert describe(Host("h", cores=cores), asked, [], {})["settings"]["cpus"] == said

"""Candidates that must not serve: the live release goes on answering, one message says why, nothing is left over."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import MODEL
from tests.integration.support.bundles import SCRIPTS, Workshop
from tests.integration.support.load import LoadClient, get
from tests.integration.support.playbooks import Host, as_root, docker

NOT_TOUCHED = "Nothing was changed."


@pytest.fixture(scope="module")
def serving(host: Host) -> Host:
    """The host with release A live."""
    host.deploy()
    return host


@contextlib.contextmanager
def image(host: Host, workshop: Workshop, command: list[str]) -> Iterator[dict[str, str]]:
    """Make an image that is the service's but for its command; yield the variables that deploy it."""
    tag = f"{host.name}:broken"
    recipe = f"FROM {workshop.image}\nCOPY broken_service.py /opt/broken_service.py\nCMD {json.dumps(command)}\n"
    docker("build", "--tag", tag, "--file=-", str(SCRIPTS), stdin=recipe)
    # The gateway runs already, and keeps its image.
    references = {"inference_image_reference": tag, "inference_image_gateway_reference": tag}
    try:
        yield {"inference_image_strategy": "pull", **references}
    finally:
        docker("image", "rm", "--force", tag)


def refuse(host: Host, photograph: Path, *words: str, recorded: bool = False, **extra: Any) -> None:
    """Deploy something that must not serve; the live release answers all the while, and afterwards."""
    before, traces, records = host.instance(), host.traces(), len(host.records())
    with LoadClient(host.port, photograph) as client:
        said = host.deploy_expecting_failure(**extra)
    for word in words:
        assert word in " ".join(said.split()), said[-4000:]
    assert client.failures == []
    assert client.model_versions == ["A"]
    assert host.instance()["Id"] == before["Id"]
    status, _, headers = get(host.port, "/health/ready")
    assert (status, headers["X-Model-Version"]) == (200, "A")
    after = host.traces()
    assert {what: after[what] for what in ("containers", "networks")} == {
        what: traces[what] for what in ("containers", "networks")
    }
    assert not [name for name in set(after["files"]) - set(traces["files"]) if "/." in name], "half-written files"
    assert [record["result"] for record in host.records()[records:]] == ["failed"] * recorded


def test_a_flipped_byte_is_refused(serving: Host, photograph: Path) -> None:
    damaged = serving.models / MODEL / "damaged"
    shutil.copytree(serving.models / MODEL / "A", damaged)
    weights = damaged / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 0x01
    weights.write_bytes(content)
    refuse(serving, photograph, "model.safetensors", "damaged", model_bundle_version="damaged")


def test_a_model_that_answers_differently_is_refused(serving: Host, photograph: Path) -> None:
    wrong = serving.models / MODEL / "wrong"
    shutil.copytree(serving.models / MODEL / "A", wrong)
    # In order down to every checksum, but the recorded answers belong to another model.
    manifest = json.loads((wrong / "bundle.json").read_text())
    other = serving.models / MODEL / "B" / "golden" / "golden.json"
    golden = wrong / manifest["golden"]["file"]
    golden.write_bytes(other.read_bytes())
    manifest["golden"]["sha256"] = hashlib.sha256(golden.read_bytes()).hexdigest()
    manifest["golden"]["bytes"] = golden.stat().st_size
    manifest["version"] = "wrong"
    (wrong / "bundle.json").write_text(json.dumps(manifest))
    refuse(
        serving,
        photograph,
        "golden samples",
        "tolerance 0.01",
        "keeps serving",
        model_bundle_version="wrong",
        recorded=True,
    )


def test_settings_that_the_service_refuses_are_refused(serving: Host, photograph: Path) -> None:
    settings = {"API_MAX_BATCH": "many"}
    refuse(serving, photograph, "API_MAX_BATCH", "keeps serving", inference_service_env=settings, recorded=True)


def test_a_misspelt_variable_is_refused_by_name(serving: Host, photograph: Path) -> None:
    refuse(serving, photograph, "model_bundle_version", model_bundle_versoin="B")


@pytest.mark.parametrize(
    ("command", "words", "settings"),
    [
        pytest.param(
            ["python", "-c", "raise SystemExit('the app is broken')"],
            ["keeps crashing", "the app is broken"],
            {},
            id="crashes-at-start",
        ),
        pytest.param(
            ["python", "/opt/broken_service.py", "never-ready"],
            ["the model is still loading", "the 25 s of inference_service_ready_timeout are over"],
            {"inference_service_ready_timeout": 25},
            id="never-ready",
        ),
        pytest.param(
            ["python", "/opt/broken_service.py", "ready-crash"],
            ["exit code 3", "the process ends here"],
            {},
            id="ready-then-crash",
        ),
        pytest.param(
            ["python", "/opt/broken_service.py", "slow"],
            ["ms, the budget is 500 ms", "inference_service_latency_budget_ms"],
            {"inference_service_latency_budget_ms": 500},
            id="too-slow",
        ),
        pytest.param(
            ["python", "/opt/broken_service.py", "other-device"],
            ["it runs on cuda:0, expected cpu"],
            {},
            id="wrong-device",
        ),
        pytest.param(
            ["python", "/opt/broken_service.py", "gateway-refused"],
            ["The gateway does not reach the candidate", "docker logs"],
            {},
            id="gateway-cannot-reach-it",
        ),
        pytest.param(
            ["python", "/opt/broken_service.py", "gpu-full"],
            ["CUDA out of memory", "inference_service_strategy=recreate"],
            # The faulty service stays where the real one ends, so the wait must be over some time.
            {"inference_service_ready_timeout": 40},
            id="no-room-on-the-gpu",
        ),
    ],
)
def test_a_broken_image_is_refused(
    serving: Host, photograph: Path, workshop: Workshop, command: list[str], words: list[str], settings: dict[str, Any]
) -> None:
    with image(serving, workshop, command) as references:
        refuse(serving, photograph, *words, "keeps serving", recorded=True, **references, **settings)


def test_an_image_that_is_not_there_is_refused(serving: Host, photograph: Path) -> None:
    missing = "localhost:1/inference-test:missing"
    refuse(
        serving,
        photograph,
        f"{missing} cannot be pulled",
        "docker login",
        inference_image_strategy="pull",
        inference_image_reference=missing,
        inference_image_gateway_reference=missing,
    )


def test_a_candidate_that_gets_too_little_memory_is_refused(serving: Host, photograph: Path) -> None:
    words = ("keeps serving", "inference_service_memory")
    refuse(serving, photograph, *words, recorded=True, inference_service_memory="48m")


def test_a_disk_that_is_full_is_refused(serving: Host, photograph: Path) -> None:
    shutil.copytree(serving.models / MODEL / "B", serving.models / "large" / "B")
    manifest = serving.models / "large" / "B" / "bundle.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "name": "large"}))
    folder = serving.state_dir / "bundles" / "large"
    folder.mkdir()
    as_root("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder))
    try:
        words = (f"MB are free in {folder}", "will be needed", "Free space there", NOT_TOUCHED)
        refuse(serving, photograph, *words, model_bundle_name="large", model_bundle_version="B")
        assert list(folder.iterdir()) == []
    finally:
        as_root("umount", str(folder))


def test_a_port_that_somebody_has_is_refused(serving: Host, photograph: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = (f"listens on 127.0.0.1:{port}. Stop it, or set another inference_service_port.", NOT_TOUCHED)
        refuse(serving, photograph, *words, inference_service_port=port)
    assert serving.deploy().changed == 0


def test_a_name_whose_port_the_service_has_under_another_one_is_refused(serving: Host, photograph: Path) -> None:
    words = (
        f"The service {serving.name} of this host has 127.0.0.1:{serving.port}, and goes on serving.",
        f"playbooks/teardown.yml -e inference_service_name={serving.name}",
        NOT_TOUCHED,
    )
    refuse(serving, photograph, *words, inference_service_name=f"{serving.name}-renamed")
    assert serving.deploy().changed == 0


def test_a_configuration_that_haproxy_refuses_is_refused(serving: Host, photograph: Path) -> None:
    words = (
        "The gateway was not replaced",
        "timer overflow in argument '99999999s' to 'timeout server'",
        "keeps serving",
    )
    refuse(serving, photograph, *words, gateway_answer_seconds=99999999)
    assert serving.deploy().changed == 0


@pytest.mark.trial
def test_an_address_that_the_host_does_not_have_is_refused(serving: Host, photograph: Path) -> None:
    words = ("203.0.113.7 is no address of this host", "Set inference_service_bind", NOT_TOUCHED)
    refuse(serving, photograph, *words, inference_service_bind="203.0.113.7")
    assert serving.deploy().changed == 0


@pytest.mark.trial
def test_limits_of_the_gateway_that_docker_refuses_are_refused(serving: Host, photograph: Path) -> None:
    words = ("the new gateway does not start", "rlimit", "keeps serving")
    refuse(serving, photograph, *words, gateway_max_connections=1_000_000_000)
    assert serving.deploy().changed == 0


@pytest.mark.trial
@pytest.mark.parametrize(
    ("command", "words"),
    [
        pytest.param(["python", "-c", "raise SystemExit('no gateway')"], ["exit code 1", "no gateway"], id="ends"),
        pytest.param(["python", "-c", "import time; time.sleep(99)"], ["does not listen"], id="is-no-haproxy"),
    ],
)
def test_an_image_that_is_no_gateway_is_refused(
    serving: Host, photograph: Path, workshop: Workshop, command: list[str], words: list[str]
) -> None:
    with image(serving, workshop, command) as references:
        broken: dict[str, Any] = {"inference_image_reference": workshop.image, "gateway_upgrade": True}
        refuse(serving, photograph, "the new gateway", *words, "keeps serving", **{**references, **broken})
    assert serving.deploy().changed == 0


def test_a_first_deploy_whose_port_is_taken_leaves_nothing(serving: Host, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        newcomer = Host(
            tmp_path,
            f"{serving.name}-new",
            model_bundle_name=MODEL,
            model_bundle_version="A",
            inference_service_port=port,
        )
        shutil.copytree(serving.models / MODEL, newcomer.models / MODEL)
        said = " ".join(newcomer.deploy_expecting_failure().split())
    try:
        for word in (f"listens on 127.0.0.1:{port}", "inference_service_port", NOT_TOUCHED):
            assert word in said, said[-3000:]
        assert newcomer.containers() == []
        assert newcomer.traces()["networks"] == []
        assert not newcomer.state_dir.exists()
    finally:
        newcomer.remove()

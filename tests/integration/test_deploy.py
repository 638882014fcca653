"""Real playbooks on this machine's Docker: deploy, again, update, roll back, and everything that must not get through.

The tests run in the order of the file; each starts from the release that the one before left.
"""

from __future__ import annotations

import http.client
import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import ARCHITECTURE, MODEL
from tests.integration.support.bundles import Workshop
from tests.integration.support.load import LoadClient, get, post, post_body
from tests.integration.support.playbooks import ROOT, Host, docker

TOLERANCE = 1e-3
FORM_WITHOUT_FILE = b"--b\r\ncontent-disposition: form-data; name=x\r\n\r\n1\r\n--b--"


def assert_equals_reference(answer: dict[str, Any], reference: list[float]) -> None:
    """Compare an answer of the service with the probabilities that the libraries themselves give."""
    given = {item["class_id"]: item["confidence"] for item in answer["top_5_predictions"]}
    assert len(given) == 5
    best = max(range(len(reference)), key=reference.__getitem__)
    assert answer["top_5_predictions"][0]["class_id"] == best
    for class_id, confidence in given.items():
        assert confidence == pytest.approx(reference[class_id], abs=TOLERANCE)


def assert_nothing_lost(client: LoadClient) -> None:
    """Every request got a good answer, over kept and over new connections."""
    assert client.failures == []
    assert {answer.fresh_connection for answer in client.answers} == {True, False}


def test_check_mode_changes_nothing_on_a_clean_host(host: Host) -> None:
    run = host.deploy("--check", "--diff")
    assert run.failed == 0
    assert host.containers() == []
    assert not host.state_dir.exists()


def test_the_first_deploy_answers_as_timm_does(host: Host, workshop: Workshop, photograph: Path) -> None:
    run = host.deploy()
    assert run.changed > 0
    for said in (f"127.0.0.1:{host.port}", "Device:", f"{MODEL} A", "Release:", "Prediction:", "Took:"):
        assert said in run.output

    status, answer = post(host.port, photograph.read_bytes())
    assert status == 200
    made = json.loads((host.models / MODEL / "A" / "bundle.json").read_text())["input"]
    settings = {"input_size": made["size"], "num_classes": 67}
    settings |= {key: made[key] for key in ("mean", "std", "interpolation", "crop_pct")}
    weights = f"/shop/{ARCHITECTURE}-0-plain.pth"
    reference = workshop.expected(
        "reference_answer.py", "timm", ARCHITECTURE, weights, f"/shop/{photograph.name}", json.dumps(settings)
    )
    assert_equals_reference(answer, reference)
    # It started with what the image had made for this host's CPU.
    assert get(host.port, "/api/v1/model/info")[1]["derived_model"].startswith("/app/derived/")


def test_a_second_run_changes_nothing_and_loses_nothing(host: Host, photograph: Path) -> None:
    before = host.instance()
    with LoadClient(host.port, photograph) as client:
        run = host.deploy()
    assert run.changed == 0
    assert host.instance()["Id"] == before["Id"]
    assert host.instance()["State"]["StartedAt"] == before["State"]["StartedAt"]
    assert_nothing_lost(client)
    assert len(host.records()) == 1


def test_the_log_names_the_client_that_the_gateway_saw(host: Host) -> None:
    said = "203.0.113.9"
    connection = http.client.HTTPConnection("127.0.0.1", host.port, timeout=10)
    connection.request("GET", "/", headers={"X-Forwarded-For": said})
    request_id = connection.getresponse().headers["X-Request-ID"]
    connection.close()
    lines = (json.loads(line) for line in docker("logs", host.instance()["Id"]).splitlines())
    client = next(line["client"] for line in lines if line.get("request_id") == request_id)
    containers = {item["NetworkSettings"]["Networks"].get(host.name, {}).get("IPAddress") for item in host.containers()}
    assert client not in {said, "", *containers}


def test_a_gateway_that_was_tampered_with_is_put_in_order(host: Host) -> None:
    configuration = host.state_dir / "gateway" / "conf" / "haproxy.cfg"
    wanted = configuration.read_text()
    configuration.write_text(wanted + "# by hand\n")
    docker("rm", "--force", f"{host.name}-keeper")

    assert host.deploy().changed > 0
    assert configuration.read_text() == wanted
    names = {item["Name"].lstrip("/") for item in host.containers() if item["State"]["Running"]}
    assert {f"{host.name}-gateway", f"{host.name}-keeper"} <= names
    assert len(host.records()) == 1


def test_a_host_that_is_about_to_reboot_fails_its_health_check_only(host: Host, photograph: Path) -> None:
    for expected in (True, False):
        drained = host.drain("drained")
        assert (drained["changed"], drained["serves"], drained["undrained"]) == (expected, True, 0)
    assert get(host.port, "/health/ready")[:2] == (
        503,
        {"detail": "This host is about to restart. Ask another one.", "code": "drained"},
    )
    assert post(host.port, photograph.read_bytes())[0] == 200
    for expected in (True, False):
        assert host.drain("serving")["changed"] is expected
    assert get(host.port, "/health/ready")[0] == 200

    # A reboot ends it as well, and so would a restart of the gateway.
    host.drain("drained")
    docker("restart", f"{host.name}-gateway")
    assert host.drain("serving")["changed"] is False
    assert get(host.port, "/health/ready")[0] == 200


def test_an_update_by_variable_loses_nothing(host: Host, photograph: Path) -> None:
    before = host.instance()
    with LoadClient(host.port, photograph) as client:
        host.deploy(model_bundle_version="B")
        time.sleep(1)
    assert_nothing_lost(client)
    assert client.model_versions == ["A", "B"]

    after = host.instance()
    assert after["Id"] != before["Id"]
    assert after["Config"]["Labels"]["inference-service.color"] != before["Config"]["Labels"]["inference-service.color"]
    record = host.records()[-1]
    assert (record["action"], record["result"], record["bundle"]["version"]) == ("deploy", "ok", "B")
    assert record["previous"] == before["Config"]["Labels"]["inference-service.release"]


def test_a_rollback_brings_the_release_before_back(host: Host, photograph: Path) -> None:
    with LoadClient(host.port, photograph) as client:
        run = host.play("rollback")
        time.sleep(1)
    assert run.code == 0, run.output[-6000:]
    assert_nothing_lost(client)
    assert client.model_versions == ["B", "A"]
    assert host.instance()["Config"]["Labels"]["inference-service.bundle-version"] == "A"
    assert (host.records()[-1]["action"], host.records()[-1]["result"]) == ("rollback", "ok")


@pytest.fixture(scope="module")
def pictures(workshop: Workshop, photograph: Path) -> Path:
    """Pictures that no client should send, and unusual ones that it may."""
    workshop.run("python", "/scripts/make_pictures.py", f"/shop/{photograph.name}", "/shop/pictures")
    return workshop.folder / "pictures"


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        ("text.jpg", 400, "Invalid file type"),
        ("truncated.jpg", 400, ""),
        ("empty.jpg", 400, ""),
        ("one-pixel.png", 400, "too small"),
        ("bomb.png", 400, "too large"),
        ("eleven-megabytes.jpg", 413, ""),
        ("animated.webp", 200, ""),
        ("cmyk.jpg", 200, ""),
        ("sixteen-bit.png", 200, ""),
    ],
)
def test_unusual_pictures_get_the_documented_answer(
    host: Host, pictures: Path, name: str, status: int, said: str
) -> None:
    given, answer = post(host.port, (pictures / name).read_bytes())
    assert given == status, answer
    if status == 200:
        assert len(answer["top_5_predictions"]) == 5
    else:
        assert set(answer) == {"detail", "code"}
        assert said in answer["detail"]


@pytest.mark.parametrize(
    ("content_type", "body", "status", "code"),
    [
        (
            "multipart/form-data; boundary=b",
            b"--b\r\ncontent-disposition: form-data; name=x\r\n\r\n1\r\n--b--",
            422,
            "missing_file",
        ),
        ("text/plain", b"not a picture", 400, "invalid_file_type"),
        ("image/jpeg", b"", 400, "empty_file"),
    ],
)
def test_requests_without_a_picture_get_the_documented_answer(
    host: Host, content_type: str, body: bytes, status: int, code: str
) -> None:
    given, answer = post_body(host.port, body, content_type)
    assert (given, answer["code"]) == (status, code)


def test_bad_pictures_do_not_eat_memory(host: Host, pictures: Path) -> None:
    def used() -> int:
        counters = "cat /sys/fs/cgroup/memory/memory.stat 2>/dev/null || cat /sys/fs/cgroup/memory.stat"
        lines = docker("exec", host.instance()["Id"], "sh", "-c", counters).splitlines()
        values = dict(line.split() for line in lines)
        return int(values.get("total_rss") or values["anon"])

    names = ("bomb.png", "truncated.jpg", "eleven-megabytes.jpg", "text.jpg")
    for name in names:
        post(host.port, (pictures / name).read_bytes())
    before = used()
    for _ in range(15):
        for name in names:
            assert post(host.port, (pictures / name).read_bytes())[0] in {400, 413}
    assert used() - before < 32_000_000
    assert host.instance()["RestartCount"] == 0


@pytest.mark.parametrize(
    ("architecture", "size"), [("resnet50", 224), ("efficientnet_b3", 300), ("convnext_base", 224)]
)
def test_a_reference_checkpoint_deploys_by_variables_alone(
    host: Host, workshop: Workshop, photograph: Path, architecture: str, size: int
) -> None:
    checkpoint = workshop.checkpoint(architecture, classes=67, seed=3, shape="trainer")
    host.deploy(
        model_bundle_name=f"cats-{architecture.replace('_', '-')}",
        model_bundle_version="1",
        model_bundle_create={
            "checkpoint": str(checkpoint),
            "architecture": architecture,
            "labels": str(ROOT / "app" / "data" / "labels" / "cat_breeds.txt"),
            "image_size": size,
        },
    )
    status, answer = post(host.port, photograph.read_bytes())
    assert status == 200
    reference = workshop.expected(
        "reference_answer.py",
        "trainer",
        architecture,
        f"/shop/{checkpoint.name}",
        f"/shop/{photograph.name}",
        str(size),
    )
    assert_equals_reference(answer, reference)
    _, info, _ = get(host.port, "/api/v1/model/classes")
    assert info["num_classes"] == 67
    assert info["classes"][0] == {"id": 0, "name": "Abyssinian"}
    assert info["classes"][66] == {"id": 66, "name": "York Chocolate"}


def test_teardown_leaves_no_container(host: Host) -> None:
    run = host.play("teardown")
    assert run.code == 0, run.output[-6000:]
    assert host.containers() == []
    # Bundles, releases and records stay, for a deploy that goes back to them.
    assert host.records()
    assert "There is no service" not in run.output


def test_a_purge_leaves_nothing(host: Host) -> None:
    # As a person gives it: on the command line every value is a string.
    run = host.play("teardown", "--extra-vars=inference_service_purge=true")
    assert run.code == 0, run.output[-6000:]
    assert not host.state_dir.exists()
    # A misspelt name would look the same.
    assert f"There is no service {host.name} on localhost, so none is stopped." in " ".join(run.output.split())

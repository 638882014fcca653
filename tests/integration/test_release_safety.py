"""What keeps a release from hurting: the lock of a host, and the bake under real traffic.

The tests run in the order of the file; each starts from release A serving.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.gpu_hosts.timm.plugins.module_utils.deploy_lock import read_lock
from tests.integration.support.bundles import Workshop
from tests.integration.support.interruption import WatchedRun
from tests.integration.support.load import LoadClient, get, multipart
from tests.integration.support.playbooks import Host, docker

# Answers its golden samples right, and fails for everything that a real client sends as a form.
BROKEN = """FROM {image}
RUN python - <<'END'
from pathlib import Path
import app.http.application
path = Path(app.http.application.__file__)
path.write_text(path.read_text() + '''

_create_app = create_app


class Broken:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        headers = dict(scope.get("headers", []))
        if scope["type"] == "http" and headers.get(b"content-type", b"").startswith(b"multipart/"):
            await send({{"type": "http.response.start", "status": 500, "headers": [(b"content-length", b"0")]}})
            await send({{"type": "http.response.body", "body": b""}})
            return
        await self.app(scope, receive, send)


def create_app(*args, **kwargs):
    service = _create_app(*args, **kwargs)
    service.add_middleware(Broken)
    return service
''')
END
# The image's compiled modules are not compared with their sources.
RUN python -m compileall -q -f --invalidation-mode unchecked-hash /app/app/http/application.py
"""


@pytest.fixture
def broken_image(host: Host, workshop: Workshop) -> Iterator[str]:
    """An image that is accepted, and then fails."""
    name = f"{host.name}:fails-later"
    recipe = BROKEN.format(image=workshop.image).replace("RUN python", "USER 0:0\nRUN python") + "USER 1000:1000\n"
    docker("build", "--tag", name, "-", stdin=recipe)
    yield name
    docker("image", "rm", "--force", name)


def test_a_first_release(host: Host) -> None:
    # What is tested is that nobody who waits is lost, on machines that may be busy with something else.
    host.variables["gateway_queue_seconds"] = 55
    host.deploy()
    assert not (host.state_dir / "deploy.lock").exists()


def wait_for(path: Path, seconds: float = 180) -> None:
    """Wait until the file is there."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.05)


def test_a_living_run_keeps_others_away_and_the_bake_that_a_dead_one_left_is_waited_for(
    host: Host, photograph: Path, tmp_path: Path
) -> None:
    lock, note = host.state_dir / "deploy.lock", host.state_dir / "gateway" / "switch.json"
    first_release = host.records()[-1]["release_id"]
    update = host.command("deploy", model_bundle_version="B", inference_service_bake_seconds=15)
    with LoadClient(host.port, photograph) as client:
        first = WatchedRun(tmp_path, update)
        wait_for(lock)
        holder = json.loads(lock.read_text())
        said = " ".join(host.deploy_expecting_failure().split())
        assert f"{holder['owner']} (process {first.pid}) since {holder['since']}" in said
        assert "inference_service_break_lock=true" in said
        first.wait_until_started("Bake | Watch the new release through the gateway")
        while not read_lock(host.state_dir)["working"]:
            time.sleep(0.02)
        # The module that watches the bake lives on.
        first.lose_controller()
        # Nobody recorded the release, and both colors run.
        assert json.loads(lock.read_text()) == holder
        assert [record["release_id"] for record in host.records()] == [first_release]

        # The dead run's process is provably gone, so no help is needed; its bake is not gone.
        run = host.deploy(model_bundle_version="B", inference_service_bake_seconds=1)
    assert client.failures == []
    assert client.model_versions == ["A", "B"]
    assert f"left by the run of {holder['owner']} (process {first.pid})" in " ".join(run.output.split())
    assert not lock.exists()
    assert not note.exists()
    record = host.records()[-1]
    assert (record["result"], record["bundle"]["version"], record["previous"]) == ("ok", "B", first_release)
    assert host.instance()["Config"]["Labels"]["inference-service.bundle-version"] == "B"
    assert host.deploy(model_bundle_version="B").changed == 0


def test_a_candidate_that_a_dead_run_waits_for_is_waited_for(
    host: Host, photograph: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    live, update = host.instance()["Id"], host.command("deploy", model_bundle_version="A")
    with LoadClient(host.port, photograph) as client:
        first = WatchedRun(tmp_path_factory.mktemp("first"), update)
        first.wait_until_started("Start_candidate | Wait until its model is loaded")
        instances = (item for item in host.containers() if "inference-service.release" in item["Config"]["Labels"])
        candidate = next(item["Id"] for item in instances if item["Id"] != live)
        # Its model does not load before the next run has seen that somebody waits for it.
        docker("pause", candidate)
        try:
            first.lose_controller()
            second = WatchedRun(tmp_path_factory.mktemp("second"), update)
            second.wait_until_said("waits for process")
        finally:
            docker("unpause", candidate)
        run = second.finish()
        assert run.code == 0, run.output[-6000:]
    assert client.failures == []
    assert client.model_versions == ["B", "A"]
    assert host.deploy(model_bundle_version="A").changed == 0


def test_a_switch_that_is_killed_after_it_has_switched_is_switched_back(
    host: Host, photograph: Path, tmp_path: Path
) -> None:
    # Larger than the gateway keeps it, and not ended: the former release has a request, for which the switch waits.
    body, content_type = multipart(photograph.read_bytes() + b"\0" * 5_000_000)
    upload = http.client.HTTPConnection("127.0.0.1", host.port, timeout=60)
    with LoadClient(host.port, photograph) as client:
        run = WatchedRun(tmp_path, host.command("deploy", model_bundle_version="B"))
        run.wait_until_started("Accept | Ask the candidate its golden samples")
        upload.putrequest("POST", "/api/v1/predict")
        upload.putheader("Content-Type", content_type)
        upload.putheader("Content-Length", str(len(body)))
        upload.endheaders(body[:-1])
        live_map = host.state_dir / "gateway" / "conf" / "live.map"
        before = live_map.read_text()
        run.wait_until_started("Switch | Send new requests to the color")
        while live_map.read_text() == before:
            time.sleep(0.02)
        time.sleep(0.2)
        for pid in working(host):
            os.kill(pid, signal.SIGKILL)
        upload.send(body[-1:])
        assert upload.getresponse().status == 200
        ended = run.finish()
        assert ended.code != 0
        time.sleep(0.5)
    assert client.failures == []
    assert client.model_versions == ["A", "B"]
    assert get(host.port, "/health/ready")[2]["X-Model-Version"] == "A"
    assert live_map.read_text() == before
    assert host.deploy(model_bundle_version="A").changed == 0


def working(host: Host) -> list[int]:
    """Return the modules that work on this machine for a run: what holds the kernel's lock and is no shell."""
    lock = (host.state_dir / "writer.lock").stat()
    found = []
    for descriptor in Path("/proc").glob("[0-9]*/fd/9"):
        with contextlib.suppress(OSError):
            if os.path.samestat(descriptor.stat(), lock) and "python" in (descriptor.parents[1] / "comm").read_text():
                found.append(int(descriptor.parts[2]))
    return found


def test_a_lock_of_another_controller_is_broken_by_a_variable_only(host: Host) -> None:
    lock = host.state_dir / "deploy.lock"
    holder = {
        "run": "x",
        "owner": "ann@elsewhere",
        "controller": "elsewhere",
        "pid": 1,
        "since": "2026-01-01T00:00:00Z",
    }
    lock.write_text(json.dumps(holder))
    assert "ann@elsewhere (process 1) since 2026-01-01T00:00:00Z" in " ".join(host.deploy_expecting_failure().split())
    host.deploy(inference_service_break_lock=True)
    assert not lock.exists()


def test_a_release_that_fails_under_real_traffic_is_rolled_back(
    host: Host, photograph: Path, broken_image: str
) -> None:
    before = host.instance()
    with LoadClient(host.port, photograph) as client:
        said = host.deploy_expecting_failure(
            inference_image_strategy="pull",
            inference_image_reference=broken_image,
            inference_image_gateway_reference=broken_image,
            inference_service_bake_seconds=20,
        )
        time.sleep(0.5)
    assert "requests failed with 500 or 502" in " ".join(said.split())
    assert "keeps serving" in said
    assert host.instance()["Id"] == before["Id"]
    assert get(host.port, "/health/ready")[0] == 200
    record = host.records()[-1]
    assert (record["result"], record["bake"]["errors"] >= 3) == ("failed", True)
    # The former color is still warm, so going back is one word in the gateway's memory.
    assert 0 < record["bake"]["back_seconds"] < 2
    print(f"bake: went back in {record['bake']['back_seconds']} s, {record['bake']['seconds']} s after the switch")
    # It had failed, and after that never again.
    failed = [answer.at for answer in client.failures]
    assert failed
    assert {answer.status for answer in client.answers if answer.at > max(failed)} == {200}
    assert not (host.state_dir / "deploy.lock").exists()


def test_recreate_costs_waiting_and_no_request(host: Host, photograph: Path) -> None:
    with LoadClient(host.port, photograph) as client:
        host.deploy(model_bundle_version="B", inference_service_strategy="recreate")
        time.sleep(0.5)
    assert client.failures == []
    assert client.model_versions == ["A", "B"]
    # It had to wait: the two were never there at the same time.
    longest, phases = max(answer.seconds for answer in client.answers), host.records()[-1]["phases"]
    assert longest > phases["ready"]
    # The record states the wait; an answer took that and what a prediction takes.
    assert phases["ready"] < phases["held"] < host.variables["gateway_queue_seconds"]
    assert longest < phases["held"] + 5
    print(f"recreate: requests held for {phases['held']} s, longest answer {longest:.1f} s")


def test_recreate_brings_the_old_release_back(host: Host, photograph: Path) -> None:
    before = host.instance()
    with LoadClient(host.port, photograph) as client:
        said = host.deploy_expecting_failure(
            model_bundle_version="B",
            inference_service_strategy="recreate",
            inference_service_env={"API_MAX_BATCH": "many"},
        )
        time.sleep(0.5)
    assert "keeps serving" in said
    assert client.failures == []
    assert client.model_versions == ["B"]
    assert host.instance()["Id"] == before["Id"]
    assert host.deploy(model_bundle_version="B").changed == 0

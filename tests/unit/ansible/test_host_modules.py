"""What modules answer that look at a host, its containers and folders, and what they change there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpu_hosts.timm.plugins.module_utils.gateway_paths import map_of
from ansible_collections.gpu_hosts.timm.plugins.module_utils.releases import release_id
from ansible_collections.gpu_hosts.timm.plugins.module_utils.service_network import labels
from ansible_collections.gpu_hosts.timm.plugins.module_utils.state_folder import MARKER
from ansible_collections.gpu_hosts.timm.plugins.modules import (
    apt_sources_info,
    bundle_tool,
    derived_model,
    gpu_access,
    gpu_driver_plan,
    gpu_host_info,
    host_look,
    instance_ready,
    release_accept,
    release_answers,
    release_info,
    release_prepare,
    release_record,
    service_logs,
    service_network,
    state_folder,
)
from tests.unit.ansible.instance import RELEASE, Answers, serving
from tests.unit.ansible.module_run import Docker, run_module

TOP = [{"class_id": 3, "class_name": "Bengal", "probability": 0.6}]
PREDICTIONS = {"top_5_predictions": [{"class_id": 3, "class_name": "Bengal", "confidence": 0.6}]}
SETTINGS = {"compose_files": ["docker-compose.yml"]}
FILES = {
    "release.json": json.dumps(
        {"release_id": RELEASE, "bundle": {"sha256": "b" * 64}, "image": {"id": "sha256:1"}, "settings": SETTINGS}
    ),
    "docker-compose.yml": "services: {}",
    "release.env": "",
    "service.env": "",
}
DESIRED: dict[str, Any] = {
    "image": {"id": "sha256:1", "tag": "svc:1"},
    "bundle": {"name": "cats", "version": "1", "sha256": "b" * 64},
    "settings": {**SETTINGS, "env": {}, "device": "cpu", "instances": [{"index": "0", "gpu": "", "driver": ""}]},
}
READY = {"status": "ready", "model_name": "resnet50", "device": "cpu"}


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Docker:
    """A Docker that answers nothing until it is told what."""
    return Docker(tmp_path / "docker", monkeypatch)


class Service:
    """A release that answers over HTTP, and what Docker says of its containers."""

    def __init__(self, docker: Docker, port: int, answers: Answers) -> None:
        self.port, self.answers, self._docker = port, answers, docker
        self.url = f"http://127.0.0.1:{port}"

    def container(self, name: str, status: str = "running", **labels: str) -> None:
        """Let Docker list one container."""
        self._docker.says("ps", "c1\n")
        self._docker.says("events", "die 70\n" if status == "exited" else "")
        networks = {"svc": {"IPAddress": "127.0.0.1", "NetworkID": "n1", "Aliases": []}}
        inspected = {
            "Id": "c1",
            "Name": f"/{name}",
            "Config": {"Labels": {"inference-service.name": "svc", **labels}},
            "State": {"Status": status, "Running": status == "running", "ExitCode": 70 if status == "exited" else 0},
            "HostConfig": {
                "NetworkMode": "svc",
                "RestartPolicy": {"Name": "unless-stopped"},
                "PortBindings": {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(self.port)}]},
            },
            "NetworkSettings": {"Networks": networks},
        }
        self._docker.says("inspect", [inspected])


@pytest.fixture
def service(docker: Docker) -> Iterator[Service]:
    """A release that is ready, on a port of this machine."""
    answers: Answers = {
        "/health/ready": (200, READY),
        "/api/v1/model/info": (200, {"device": "cpu"}),
        "/api/v1/predict": (200, PREDICTIONS),
    }
    with serving(answers) as port:
        yield Service(docker, port, answers)


class TestReleaseAnswers:
    def test_what_serves_is_asked_at_its_published_address(self, service: Service) -> None:
        service.container("svc-gateway")
        found = run_module(release_answers, name="svc")
        assert (found["answers"], found["release"], found["model"]) == (True, RELEASE, "resnet50")
        assert (found["version"], found["device"], found["url"]) == ("2", "cpu", service.url)

    def test_why_it_does_not_answer_is_said(self, service: Service) -> None:
        service.answers["/health/ready"] = (503, {"detail": "The model is loading.", "code": "loading"})
        service.container("svc-gateway")
        assert run_module(release_answers, name="svc")["reason"] == f"{service.url} answers 503: The model is loading."
        service.container("svc-gateway", "exited")
        assert run_module(release_answers, name="svc")["reason"] == "svc-gateway is exited"

    def test_docker_that_does_not_answer_is_no_answer_of_the_service(self, docker: Docker) -> None:
        found = run_module(release_answers, name="svc")
        assert found["msg"].startswith("What svc answers cannot be known: Cannot connect")
        assert docker.asked


class TestInstanceReady:
    def test_one_that_is_ready(self, service: Service) -> None:
        service.container("svc-blue-0")
        found = run_module(instance_ready, container="svc-blue-0", port=service.port, timeout=5)
        assert found["base_url"] == service.url

    def test_a_reason_that_waiting_does_not_change_ends_it(self, service: Service, docker: Docker) -> None:
        service.container("svc-blue-0")
        docker.says("logs", '{"level": "error", "detail": "There is no GPU."}\n')
        service.answers["/health/ready"] = (503, {"detail": "A GPU is required.", "code": "gpu_required"})
        arguments = {"container": "svc-blue-0", "port": service.port, "final": ["gpu_required"]}
        found = run_module(instance_ready, **arguments)
        assert found["msg"] == "svc-blue-0 is not ready: A GPU is required. It said: There is no GPU."
        assert found["seconds"] < 10

    def test_one_that_ended(self, service: Service) -> None:
        service.container("svc-blue-0", "exited")
        found = run_module(instance_ready, container="svc-blue-0", port=service.port)
        assert found["msg"] == "svc-blue-0 is not ready: it exited with code 70."

    def test_one_that_takes_too_long_names_the_variable(self, service: Service) -> None:
        service.container("svc-blue-0")
        service.answers["/health/ready"] = (503, {"detail": "The model is loading.", "code": "loading"})
        found = run_module(instance_ready, container="svc-blue-0", port=service.port, timeout=1)
        assert "and the 1 s of inference_service_ready_timeout are over" in found["msg"]

    def test_one_that_docker_does_not_know(self, docker: Docker) -> None:
        found = run_module(instance_ready, container="svc-blue-0")
        assert found["msg"].startswith("svc-blue-0 cannot be inspected: ")
        assert docker.asked


class TestReleaseAccept:
    def accept(self, service: Service, bundle: Path, **arguments: Any) -> dict[str, Any]:
        wanted = {"base_urls": [service.url], "bundle": str(bundle), "release_id": RELEASE, **arguments}
        return run_module(release_accept, **wanted)

    @pytest.fixture
    def bundle(self, tmp_path: Path) -> Path:
        """A bundle with one golden sample."""
        (tmp_path / "golden").mkdir()
        (tmp_path / "golden" / "cat.jpg").write_bytes(b"jpeg")
        golden = {"tolerance": 0.01, "samples": [{"file": "golden/cat.jpg", "top": TOP}]}
        (tmp_path / "golden" / "golden.json").write_text(json.dumps(golden))
        return tmp_path

    def test_the_right_answer_of_the_right_release(self, service: Service, bundle: Path) -> None:
        found = self.accept(service, bundle, device="cpu")
        assert (found["device"], found["prediction"]["class_name"]) == ("cpu", "Bengal")

    def test_a_wrong_answer_comes_with_how_the_container_ended_and_what_it_said(
        self, service: Service, bundle: Path, docker: Docker
    ) -> None:
        service.container("svc-blue-0", "exited")
        docker.says("logs", "the last line\n")
        found = self.accept(service, bundle, release_id="b" * 12, device="cuda", containers=["svc-blue-0"])
        assert found["msg"].startswith("svc-blue-0: it exited with code 70; it runs on cpu, expected cuda; ")
        assert found["msg"].endswith(f"release {RELEASE} answered, expected {'b' * 12}")
        assert found["log"] == ["the last line"]

    def test_a_container_that_docker_does_not_know(self, service: Service, bundle: Path) -> None:
        found = self.accept(service, bundle, device="cuda", containers=["svc-blue-0"])
        assert found["msg"].startswith("svc-blue-0: it cannot be inspected (")

    def test_a_bundle_without_golden_samples_is_named(self, service: Service, tmp_path: Path) -> None:
        assert "golden.json cannot be read" in self.accept(service, tmp_path / "nowhere")["msg"]


class TestServiceLogs:
    def test_lines_are_merged_by_time_and_say_where_they_are_from(self, docker: Docker) -> None:
        docker.says("ps", f"svc-gateway\t\nsvc-blue-0\t{RELEASE}\n")
        docker.says("logs", "2026-11-28T10:00:00Z one\n2026-11-28T10:00:01Z two\n")
        found = run_module(service_logs, name="svc")
        assert found["lines"] == [
            f"svc-blue-0 {RELEASE}  one",
            "svc-gateway  one",
            f"svc-blue-0 {RELEASE}  two",
            "svc-gateway  two",
        ]
        later = run_module(service_logs, name="svc", since="2026-11-28T10:00:00Z", release=RELEASE)
        assert (later["lines"], later["until"]) == ([f"svc-blue-0 {RELEASE}  two"], "2026-11-28T10:00:01Z")

    def test_a_release_without_a_container_is_said_with_those_that_have_one(self, docker: Docker) -> None:
        docker.says("ps", f"svc-blue-0\t{RELEASE}\n")
        [line] = run_module(service_logs, name="svc", release="b" * 12)["lines"]
        assert line == f"No container of release {'b' * 12} is here; the releases with one: {RELEASE}."

    def test_docker_that_does_not_answer(self, docker: Docker) -> None:
        assert run_module(service_logs, name="svc")["msg"].startswith("The containers of svc cannot be asked for: ")
        assert docker.asked


class TestServiceNetwork:
    def test_a_network_in_order_is_left_alone(self, service: Service, docker: Docker) -> None:
        service.container("svc-gateway")
        docker.says("network ls", "n1\n")
        docker.says("network inspect", [{"Id": "n1", "Name": "svc", "Labels": labels("svc")}])
        assert run_module(service_network, name="svc")["changed"] is False

    def test_a_preview_says_what_is_missing(self, service: Service, docker: Docker) -> None:
        service.container("svc-gateway")
        docker.says("network ls", "")
        found = run_module(service_network, check=True, name="svc")
        assert found["done"] == ["the Docker network svc is missing"]
        assert not [line for line in docker.asked if line.startswith("network create")]

    def test_docker_that_does_not_answer(self, docker: Docker) -> None:
        found = run_module(service_network, name="svc")
        assert found["msg"].startswith("The Docker network svc cannot be repaired: ")
        assert docker.asked


class TestStateFolder:
    def run(self, folder: Path, state: str, check: bool = False) -> dict[str, Any]:
        return run_module(state_folder, check=check, state_dir=str(folder), name="svc", state=state)

    def test_it_is_marked_once_and_purged_of_what_is_the_services(self, tmp_path: Path) -> None:
        folder = tmp_path / "state"
        assert self.run(folder, "marked", check=True)["changed"] is True
        assert not folder.exists()
        assert [self.run(folder, "marked")["changed"] for _ in range(2)] == [True, False]
        for name in ("releases", "photographs"):
            (folder / name).mkdir()
        assert self.run(folder, "purged", check=True)["removed"] == [str(folder / "releases"), str(folder / MARKER)]
        assert (folder / "releases").is_dir()
        assert self.run(folder, "purged")["changed"] is True
        assert [path.name for path in folder.iterdir()] == ["photographs"]

    def test_a_folder_of_somebody_else_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "releases").mkdir()
        assert "Nothing was removed" in self.run(tmp_path, "purged")["msg"]
        assert (tmp_path / "releases").is_dir()

    def test_what_cannot_be_changed_is_said_with_the_next_step(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        found = self.run(tmp_path / "file" / "state", "marked")
        assert found["msg"].startswith(f"{tmp_path}/file/state cannot be changed: ")
        assert found["msg"].endswith("Fix that, then run again.")


class TestReleaseFolders:
    def test_a_release_is_written_with_its_instances(self, tmp_path: Path) -> None:
        instance = {"color": "blue", "index": "0", "driver": "cdi", "gpu": "", "env_file": f"{tmp_path}/i/blue-0.env"}
        arguments = {"state_dir": str(tmp_path), "release_id": RELEASE, "files": FILES, "instances": [instance]}
        assert [run_module(release_prepare, **arguments)["changed"] for _ in range(2)] == [True, False]
        assert (tmp_path / "releases" / RELEASE / "release.json").read_text() == FILES["release.json"]
        assert "RELEASE_COLOR=blue" in (tmp_path / "i/blue-0.env").read_text()

    def test_a_folder_that_cannot_be_written_is_said_with_the_next_step(self, tmp_path: Path) -> None:
        (tmp_path / "releases").touch()
        found = run_module(release_prepare, state_dir=str(tmp_path), release_id=RELEASE, files=FILES)
        assert found["msg"].startswith("The release cannot be written: ")

    def record(self, folder: Path, identity: str, version: str, result: str = "ok", keep: int = 2) -> dict[str, Any]:
        bundle = {"name": "cats", "version": version, "sha256": version * 64}
        release = {"release_id": identity, "bundle": bundle, "image": {"id": "sha256:1", "tag": "svc:1"}}
        release["settings"] = SETTINGS
        kept = folder / "releases" / identity
        kept.mkdir(parents=True, exist_ok=True)
        (folder / "bundles" / "cats" / version).mkdir(parents=True, exist_ok=True)
        for name, text in {**FILES, "release.json": json.dumps(release)}.items():
            (kept / name).write_text(text)
        what = {**release, "action": "deploy", "result": result}
        return run_module(release_record, state_dir=str(folder), record=what, started=0, keep=keep)

    def test_a_good_run_forgets_the_oldest_and_a_failed_one_nothing(self, tmp_path: Path, docker: Docker) -> None:
        docker.says("image inspect", "svc:1\n")
        for version in ("1", "2"):
            assert self.record(tmp_path, version * 12, version)["pruned"] == []
        assert self.record(tmp_path, "3" * 12, "3", result="failed")["pruned"] == []
        done = self.record(tmp_path, "4" * 12, "4")
        assert set(done["pruned"]) >= {f"release {'1' * 12}", "bundle cats 1"}
        written = json.loads(Path(done["path"]).read_text())
        assert (written["result"], written["started"], written["sequence"]) == ("ok", "1970-01-01T00:00:00Z", 4)
        # The image is that of the live release.
        assert not [line for line in docker.asked if line.startswith("image rm")]

    def test_records_that_cannot_be_written_are_named(self, tmp_path: Path) -> None:
        (tmp_path / "records").touch()
        assert f"The record in {tmp_path}/records could not be kept: " in self.record(tmp_path, RELEASE, "1")["msg"]


class TestReleaseInfo:
    def test_a_bare_host_gets_its_first_release(self, tmp_path: Path, docker: Docker) -> None:
        docker.says("ps", "")
        docker.says("network ls", "")
        found = run_module(release_info, name="svc", state_dir=str(tmp_path), desired=DESIRED)
        plan = found["plan"]
        assert (plan["first"], plan["rollout"], plan["color"]) == (True, True, "blue")
        assert plan["bundle"] == f"{tmp_path}/bundles/cats/1"
        assert found["release"]["release_id"] == plan["release_id"]
        assert (found["records"], found["kept"], found["instances"]) == ([], [], [])

    def test_a_rollback_without_a_release_to_go_back_to_is_refused(self, tmp_path: Path, docker: Docker) -> None:
        docker.says("ps", "")
        found = run_module(release_info, name="svc", state_dir=str(tmp_path), release="previous")
        assert found["failed"]
        assert found["msg"]

    def test_a_release_whose_image_is_gone_is_refused_with_the_next_step(self, tmp_path: Path, docker: Docker) -> None:
        docker.says("ps", "")
        folder = tmp_path / "releases" / RELEASE
        folder.mkdir(parents=True)
        for name, text in FILES.items():
            (folder / name).write_text(text)
        (folder / "release.json").write_text(json.dumps({**DESIRED, "release_id": RELEASE}))
        docker.says("image inspect", "[]")
        found = run_module(release_info, name="svc", state_dir=str(tmp_path), release=RELEASE)
        assert f"release {RELEASE} cannot be started: {tmp_path}/bundles/cats/1/bundle.json is missing" in found["msg"]
        assert "Nothing was changed." in found["msg"]

    def test_docker_that_does_not_answer(self, tmp_path: Path, docker: Docker) -> None:
        found = run_module(release_info, name="svc", state_dir=str(tmp_path))
        assert "Cannot connect to the Docker daemon" in found["msg"]
        assert docker.asked


class TestLiveRelease:
    """What is said of a host that serves, where nothing but containers and the map is left of it."""

    IDENTITY = release_id(DESIRED["image"]["id"], DESIRED["bundle"]["sha256"], DESIRED["settings"])

    @pytest.fixture
    def state(self, tmp_path: Path, service: Service, docker: Docker) -> Path:
        label = "inference-service."
        labeled = {f"{label}release": self.IDENTITY, f"{label}color": "blue", f"{label}instance": "0"}
        service.container("svc-blue-0", **labeled)
        docker.says("network ls", "n1\n")
        docker.says("network inspect", [{"Id": "n1", "Name": "svc", "Labels": labels("svc")}])
        map_of(tmp_path / "gateway").parent.mkdir(parents=True)
        map_of(tmp_path / "gateway").write_text("live blue\n")
        return tmp_path

    def test_a_look_names_every_part_that_is_lost(self, state: Path) -> None:
        found = run_module(release_info, name="svc", state_dir=str(state))
        assert (found["live"]["color"], found["live"]["release"]["release_id"]) == ("blue", self.IDENTITY)
        assert found["missing"] == [
            f"{state}/gateway/docker-compose.yml is missing",
            "svc-blue-0 is not on the Docker network svc",
            f"{state}/releases/{self.IDENTITY} of the live release is missing or damaged",
            "its record is missing",
            f"{state}/{MARKER} does not say that the folder is svc's",
        ]

    def test_a_release_that_is_there_lacks_what_it_was_made_of(self, state: Path) -> None:
        kept = state / "releases" / self.IDENTITY
        kept.mkdir(parents=True)
        release = {**DESIRED, "release_id": self.IDENTITY}
        release["settings"] = {**SETTINGS, "env": {"API_DERIVED_PATH": "/app/derived"}}
        for name, text in {**FILES, "release.json": json.dumps(release)}.items():
            (kept / name).write_text(text)
        (state / MARKER).write_text("svc\n")
        (state / "instances").touch()
        missing = run_module(release_info, name="svc", state_dir=str(state))["missing"]
        assert f"{state}/bundles/cats/1/bundle.json of the live release is missing" in missing
        assert f"{state}/instances is no folder" in missing
        [derived] = [words for words in missing if words.endswith("has no derived model for the live release")]
        assert derived.startswith(f"{state}/derived/")
        assert not [words for words in missing if str(kept) in words or MARKER in words]

    def test_a_deploy_of_what_serves_begins_nothing(self, state: Path) -> None:
        plan = run_module(release_info, name="svc", state_dir=str(state), desired=DESIRED)["plan"]
        assert (plan["release_id"], plan["color"], plan["live_color"]) == (self.IDENTITY, "blue", "blue")
        assert (plan["rollout"], plan["first"], plan["retired"], plan["servers"]) == (False, False, [], ["0"])
        assert plan["bundle"] == f"{state}/bundles/cats/1"


class TestTools:
    def test_a_bundle_is_made_in_the_image_and_its_notes_come_back(self, docker: Docker) -> None:
        docker.says("run", 'loading\n{"notes": ["labels from a file"]}\n')
        done = run_module(bundle_tool, image="svc:1", arguments=["create", "--name=a"], volumes=["/a:/b:ro"])
        assert (done["changed"], done["ok"], done["notes"]) == (True, True, ["labels from a file"])
        assert docker.asked[-1].endswith("--volume=/a:/b:ro svc:1 python -m app.bundle create --name=a")

    def test_a_bundle_that_fails_says_why(self, docker: Docker) -> None:
        done = run_module(bundle_tool, image="svc:1", arguments=["verify"], volumes=[])
        assert (done["changed"], done["ok"], done["reason"]) == (False, False, "Cannot connect to the Docker daemon")
        assert docker.asked

    def release(self) -> dict[str, Any]:
        settings = {"cpus": "2", "memory": "2g", "pids": "64", "env": {"API_DERIVED_PATH": "/app/derived"}}
        return {**DESIRED, "settings": settings}

    def test_a_derived_model_is_made_or_its_lack_is_a_warning(
        self, tmp_path: Path, docker: Docker, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = {"state_dir": str(tmp_path), "release": self.release(), "models": "/app/models"}
        done = run_module(derived_model, **arguments)
        assert done["changed"] is False
        # In the controller's own process Ansible shows a warning at once, in lines of its own.
        assert "No derived model: Cannot connect to the Docker daemon." in " ".join(capsys.readouterr().err.split())
        docker.says("run", '{"made": true, "engine": "openvino", "precision": "fp32", "reason": "It is faster."}\n')
        done = run_module(derived_model, **arguments)
        assert (done["changed"], done["engine"], done["reason"]) == (True, "openvino in fp32", "It is faster.")

    def test_a_gpu_that_no_container_reaches_is_a_finding(self, docker: Docker) -> None:
        arguments = {"image": "svc:1", "driver": "cdi", "devices": ["nvidia.com/gpu=0"]}
        assert run_module(gpu_access, check=True, **arguments)["findings"] == []
        assert docker.asked == []
        [found] = run_module(gpu_access, **arguments)["findings"]
        assert (found["id"], found["severity"]) == ("ENG001", "error")


class TestHost:
    def test_a_host_without_docker_has_that_as_a_finding(self, docker: Docker) -> None:
        found = run_module(gpu_host_info, gpu="absent", root="/nowhere")
        assert (found["gpu_present"], sorted(found["by_topic"])) == (False, ["engine"])
        assert "ENG001" in {item["id"] for item in found["findings"] if item["severity"] == "error"}
        assert docker.asked

    def test_a_gpu_that_nobody_can_mean_is_refused(self) -> None:
        found = run_module(gpu_host_info, gpus=["first"])
        assert found["msg"] == "gpus must be all, or a list such as [0, GPU-5e1d8f2a, '1:0'], not ['first']."

    def test_a_distribution_that_nobody_knows_gets_no_driver(self, tmp_path: Path) -> None:
        (tmp_path / "etc").mkdir()
        (tmp_path / "etc/os-release").write_text("ID=haiku\nVERSION_ID=1\n")
        arguments = {"devices": [], "kernel": "6.1.0-31-amd64", "branch": 580, "root": str(tmp_path)}
        plan = run_module(gpu_driver_plan, **arguments)
        assert plan["packages"] == []
        assert plan["refusal"]

    def test_another_engine_is_refused_before_anything_is_looked_at(self, tmp_path: Path, docker: Docker) -> None:
        arguments = {
            "name": "svc",
            "state_dir": str(tmp_path),
            "address": "127.0.0.1",
            "port": 1,
            "settings": "gateway",
        }
        docker.says("context inspect", "tcp://192.0.2.1:2375\n")
        [refused] = run_module(host_look, **arguments)["refused"]
        assert "talks to tcp://192.0.2.1:2375 instead of the host's own Docker" in refused

    def test_too_little_room_is_refused(self, tmp_path: Path, docker: Docker) -> None:
        docker.says("context inspect", "unix:///var/run/docker.sock\n")
        docker.says("ps", "")
        rooms = [{"path": str(tmp_path / "bundles"), "bytes": 10**18}, {"path": str(tmp_path), "bytes": 1}]
        arguments = {"name": "svc", "state_dir": str(tmp_path), "address": "127.0.0.1", "port": 47113}
        [refused] = run_module(host_look, settings="gateway", rooms=rooms, **arguments)["refused"]
        assert f"MB are free in {tmp_path}, and 1,000,000,000,000 MB will be needed." in refused

    def test_sources_of_packages_are_read_but_for_those_left_out(self) -> None:
        assert run_module(apt_sources_info, exclude=["*"])["texts"] == []
        found = [path for path in Path("/etc/apt").glob("sources.list*/*.sources") if path.is_file()]
        assert {path.read_text() for path in found} <= {*run_module(apt_sources_info)["texts"]}

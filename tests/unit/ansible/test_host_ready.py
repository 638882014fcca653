"""A host that a run could not finish is refused before anything is changed on any, with what to do."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpu_hosts.timm.plugins.action.host_ready import interpreters, no_python
from ansible_collections.gpu_hosts.timm.plugins.module_utils.docker_host import run_docker
from ansible_collections.gpu_hosts.timm.plugins.modules.host_look import lacking, other_engine
from tests.unit.ansible.playbook_run import REPOSITORY, run

LOOPBACK = "127.0.0.1"
NEEDED = 10**18
# Stands for one that wants a password.
SUDO = REPOSITORY / "tests/unit/ansible/fixtures/sudo"


@pytest.fixture
def taken() -> Iterator[int]:
    """A port of this machine that this process listens on."""
    with socket.create_server((LOOPBACK, 0)) as server:
        yield server.getsockname()[1]


def test_a_disk_without_room_is_refused_unless_what_needs_it_is_there(tmp_path: Path) -> None:
    room = {"path": str(tmp_path / "not/yet/there"), "bytes": NEEDED}
    assert lacking({**room, "bytes": 1}) == ""
    said = lacking(room)
    assert f"MB are free in {tmp_path}, and 1,000,000,000,000 MB will be needed. Free space there" in said
    (tmp_path / "bundle.json").touch()
    assert lacking({**room, "unless": str(tmp_path / "bundle.json")}) == ""
    assert lacking({**room, "unless": str(tmp_path / "other.json")}) != ""


def test_the_engines_storage_needs_room_unless_the_image_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert lacking({"path": "docker", "bytes": 1}) == ""
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\n[ "$4" = cats ] && echo 0123456789ab\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert lacking({"path": "docker", "bytes": NEEDED, "unless_image": "dogs"}) != ""
    assert lacking({"path": "docker", "bytes": NEEDED, "unless_image": "cats"}) == ""


def test_room_is_looked_for_where_the_images_really_lie(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "data/containerd/daemon").mkdir(parents=True)
    store: dict[str, Any] = {
        "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]],
        "DockerRootDir": str(tmp_path / "data"),
    }
    store["Containerd"] = {"Address": "/var/run/docker/containerd/containerd.sock"}
    docker = tmp_path / "docker"
    docker.write_text(f"#!/bin/sh\n[ $1 = info ] && echo '{json.dumps(store)}'\n")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert f"are free in {tmp_path}/data/containerd/daemon," in lacking({"path": "docker", "bytes": NEEDED})


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("", ""),
        ("unix:///var/run/docker.sock", ""),
        ("unix:///run/user/1000/docker.sock", "talks to unix:///run/user/1000/docker.sock instead of the host's own"),
        ("tcp://192.0.2.1:2375", "Unset DOCKER_HOST and DOCKER_CONTEXT in the environment"),
    ],
)
def test_another_engine_in_the_environment_is_refused(
    host: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", host)
    assert said in other_engine()
    assert bool(said) == bool(other_engine())


def test_another_context_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    run_docker(["context", "create", "other", "--docker", "host=tcp://192.0.2.1:2375"])
    run_docker(["context", "use", "other"])
    assert "tcp://192.0.2.1:2375" in other_engine()


def test_python_is_looked_for_where_ansible_looks() -> None:
    assert interpreters("/opt/python") == ["/opt/python"]
    assert "python3" in interpreters("auto_silent")
    assert "apt-get install python3" in no_python("gpu-1", interpreters("auto"))
    assert "correct ansible_python_interpreter" in no_python("gpu-1", ["/opt/python"])


def deploy(folder: Path, hosts: dict[str, dict[str, Any]], **everywhere: Any) -> tuple[int, str]:
    """Preview the real playbook on hosts that are this machine; return how it ended and what it said, in one line."""
    bundle = folder / "models/efficientnet-lite0-imagenet/1"
    bundle.mkdir(parents=True)
    empty = {"file": "empty", "bytes": 0, "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}
    manifest = dict.fromkeys(("weights", "labels", "golden"), empty)
    named = {"name": "efficientnet-lite0-imagenet", "version": "1", "golden_samples": []}
    (bundle / "empty").touch()
    (bundle / "bundle.json").write_text(json.dumps({**manifest, **named}))
    settings = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "ansible_become": False,
        "model_bundle_source": str(folder / "models"),
        # Not the default name: this machine may serve the demo.
        "inference_service_name": "svc",
        "inference_service_state_dir": str(folder / "state"),
        **everywhere,
    }
    inventory = {"inference_hosts": {"hosts": hosts, "vars": settings}}
    (folder / "hosts.json").write_text(json.dumps(inventory))
    return run(f"-i{folder}/hosts.json", "playbooks/deploy.yml", "--check")


def test_one_host_ends_the_run_for_all_before_anything_is_changed(taken: int, tmp_path: Path) -> None:
    hosts = {"gpu-1": {"inference_service_port": 1}, "gpu-2": {"inference_service_port": taken}}
    code, output = deploy(tmp_path, hosts)
    assert code != 0
    assert "gpu-2: " in output
    assert (
        f"listens on 127.0.0.1:{taken}. Stop it, or set another inference_service_port. Nothing was changed." in output
    )
    assert "lock" not in output


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"ansible_python_interpreter": "/nowhere/python"},
            "gpu-1 has no Python 3.8 or newer at /nowhere/python; correct ansible_python_interpreter. Nothing was",
        ),
        (
            {"ansible_become": True, "ansible_become_user": "daemon", "ansible_become_exe": str(SUDO)},
            "a password is required. Give the password with -K",
        ),
        (
            {"ansible_connection": "ssh", "ansible_host": LOOPBACK, "ansible_port": 1},
            "Nothing was changed. Bring it back, or leave it out with --limit '!gpu-1'.",
        ),
    ],
)
def test_a_host_that_cannot_be_worked_on_is_refused_with_what_to_do(
    settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    code, output = deploy(tmp_path, {"gpu-1": {}}, **settings)
    assert code != 0
    assert words in output


def test_what_was_said_in_place_of_a_modules_result_is_the_reason(tmp_path: Path) -> None:
    sudo = tmp_path / "sudo"
    sudo.write_text("#!/bin/sh\necho Welcome\necho 'sudo: sorry, you must have a tty to run sudo' >&2\nexit 1\n")
    sudo.chmod(0o755)
    settings = {"ansible_become": True, "ansible_become_user": "daemon", "ansible_become_exe": str(sudo)}
    code, output = deploy(tmp_path, {"gpu-1": {}}, **settings)
    assert code != 0
    assert "The host ran nothing: " in output
    assert "sudo: sorry, you must have a tty to run sudo" in output
    assert "Take requiretty out of the host's sudoers" in output

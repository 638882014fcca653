"""How a release's image is told to make its derived model, and what becomes of its answer."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpu_hosts.timm.plugins.module_utils.docker_host import DockerError
from ansible_collections.gpu_hosts.timm.plugins.module_utils.releases import derived_folder
from ansible_collections.gpu_hosts.timm.plugins.modules.derived_model import command, derive
from ansible_collections.gpu_hosts.timm.plugins.modules.release_info import is_underived

RELEASE: dict[str, Any] = {
    "image": {"id": f"sha256:{'a' * 64}"},
    "bundle": {"name": "cats", "version": "2", "sha256": "b" * 64},
    "settings": {
        "cpus": "2.0",
        "memory": "8g",
        "pids": "512",
        "env": {"API_DEVICE": "cpu", "API_DERIVED_PATH": "/app/derived", "API_MODEL_ARGS": '{"a": "b c"}'},
    },
}
DOCKER = """#!/bin/sh
echo '{"level": "warning"}'
echo '{"made": true, "engine": "openvino", "precision": "bf16", "reason": "It is faster."}'
exit 0
"""
FAILS = """#!/bin/sh
echo 'error[engine_refused]: The model cannot be served.' >&2
exit 1
"""


def put_docker(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    docker = folder / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(script)
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{docker.parent}:/usr/bin:/bin")


def test_the_image_gets_the_releases_settings_and_limits_and_one_folder_to_write_to(tmp_path: Path) -> None:
    arguments = command(tmp_path, RELEASE, "/app/models", 180)
    volumes = [argument for argument in arguments if argument.startswith("--volume")]
    assert volumes == [
        f"--volume={tmp_path}/bundles:/app/models:ro",
        f"--volume={tmp_path}/derived/{'b' * 12}-{'a' * 12}:/app/derived",
    ]
    assert [argument for argument in arguments if argument.startswith("--env")] == [
        "--env=API_BUNDLE_PATH=/app/models/cats/2",
        "--env=API_DERIVED_PATH=/app/derived",
        "--env=API_DEVICE=cpu",
        '--env=API_MODEL_ARGS={"a": "b c"}',
    ]
    assert {"--network=none", "--read-only", "--userns=host", "--cpus=2.0", "--memory=8g", "--pids-limit=512"} <= set(
        arguments
    )
    assert arguments[-6:] == [f"sha256:{'a' * 64}", "timeout", "180", "python", "-m", "app.derive"]


def test_what_the_image_says_last_is_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_docker(tmp_path, DOCKER, monkeypatch)
    before = os.umask(0o077)
    try:
        said = derive(tmp_path, RELEASE, "/app/models", 9)
    finally:
        os.umask(before)
    assert said == {
        "made": True,
        "engine": "openvino",
        "precision": "bf16",
        "reason": "It is faster.",
    }
    folder = derived_folder(tmp_path, RELEASE)
    assert [path.stat().st_mode & 0o777 for path in (folder.parent, folder)] == [0o755, 0o755]


def test_its_refusal_is_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_docker(tmp_path, FAILS, monkeypatch)
    with pytest.raises(DockerError, match="engine_refused"):
        derive(tmp_path, RELEASE, "/app/models", 9)


def test_a_live_release_that_lost_its_own_is_mended_by_the_next_deploy(tmp_path: Path) -> None:
    folder = derived_folder(tmp_path, RELEASE) / "0123"
    assert is_underived(tmp_path, RELEASE)
    folder.mkdir(parents=True)
    assert is_underived(tmp_path, RELEASE)
    (folder / "derived.json").touch()
    assert not is_underived(tmp_path, RELEASE)
    # One on a GPU, one from before there were any, and one of which only the name is known, look for none.
    for live in ({**RELEASE, "settings": {"env": {}}}, {"release_id": "0" * 12}):
        assert not is_underived(tmp_path / "elsewhere", live)


def test_a_bundle_and_an_image_have_one_folder_and_others_another(tmp_path: Path) -> None:
    folders = {
        derived_folder(tmp_path, {"image": {"id": image}, "bundle": {"sha256": bundle}})
        for image in (f"sha256:{'a' * 64}", f"sha256:{'c' * 64}")
        for bundle in ("b" * 64, "d" * 64)
    }
    assert len(folders) == 4
    assert json.dumps(sorted(path.name for path in folders)).count("-") == 4

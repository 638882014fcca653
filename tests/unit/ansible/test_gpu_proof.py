"""What `scripts/gpu-proof` does before and around its measurements; those are tried in the service's image."""

from __future__ import annotations

import base64
import hashlib
import importlib.machinery
import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[3] / "scripts" / "gpu-proof"


@pytest.fixture
def script() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("gpu_proof", str(SCRIPT))
    spec = importlib.util.spec_from_loader("gpu_proof", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def wheel(folder: Path, name: str) -> None:
    """A wheel with one module."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-1.dist-info"
    files = {
        f"{name}.py": b"VALUE = 7\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    digests = {path: base64.urlsafe_b64encode(hashlib.sha256(content).digest()) for path, content in files.items()}
    record = [f"{path},sha256={digest.decode().rstrip('=')},{len(files[path])}" for path, digest in digests.items()]
    with zipfile.ZipFile(folder / f"{name}-1-py3-none-any.whl", "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
        archive.writestr(f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,"]) + "\n")


def test_host_facts_are_skipped_for_want_of_pyyaml_and_the_reason_is_shown(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "site" / "yaml.py"
    missing.parent.mkdir()
    missing.write_text("raise ModuleNotFoundError(\"No module named 'yaml'\")\n")
    monkeypatch.setenv("PYTHONPATH", str(missing.parent))
    proof = script.Proof(tmp_path, 60)
    proof.step("host facts", proof.host)
    assert proof.summary["steps"]["host facts"]["result"] == "skipped"
    assert proof.failed() == []
    assert "host facts: PyYAML is missing" in capsys.readouterr().out


def test_without_time_a_step_is_skipped_and_says_so(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script.Proof(tmp_path, 1).step("anything", lambda: {"ok": True})
    assert "anything: no time is left" in capsys.readouterr().out


def test_a_bare_machine_gets_what_is_locked_from_the_wheelhouse(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "requirements").mkdir()
    lock = "pytest==0.1 \\\n    --hash=sha256:0\nbare_thing==1 \\\nodd==1 ; sys_platform == 'win32' \\\n"
    for name in script.LOCKS:
        (tmp_path / "requirements" / name).write_text(lock)
    monkeypatch.setattr(script, "ROOT", tmp_path)
    proof = script.Proof(tmp_path, 60)
    proof.step("packages", proof.packages)
    found = proof.summary["steps"]["packages"]
    assert (found["result"], found["missing"]) == ("failed", ["bare_thing==1"])
    assert "pip download" in found["remedy"]
    assert "-r requirements/common.lock -r requirements/test.lock -d wheelhouse" in found["remedy"]

    wheel(tmp_path / "wheelhouse", "bare_thing")
    proof.step("packages", proof.packages)
    assert proof.summary["steps"]["packages"]["installed"] == ["bare_thing==1"]
    code, said = proof.python("check.txt", ["-c", "import bare_thing; print(bare_thing.VALUE)"], 20)
    assert (code, said) == (0, "7\n")


def test_a_container_names_the_folder_as_the_host_does(tmp_path: Path) -> None:
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text('#!/bin/sh\necho "$@"\nexit 2\n')
    docker.chmod(0o755)
    out = tmp_path / "seen"
    environment = os.environ | {"PATH": f"{docker.parent}:{os.environ['PATH']}"}
    words = [sys.executable, str(SCRIPT), "--image", "service:test", "--out", str(out), "--seconds", "9"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"--volume={out}:{out}" in done.stdout
    assert f"service:test python scripts/gpu-proof --out {out} --seconds=9.0" in done.stdout


def test_the_files_with_marked_tests_are_found(script: ModuleType) -> None:
    names = {Path(file).name for file in script.marked()}
    assert {"test_graphs.py", "test_service.py", "test_real_gpu.py"} <= names
    assert "test_settings.py" not in names

"""The scripts say what is missing and what to do about it, and call Docker with the right words."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = ("bootstrap-base.sh", "docker-build.sh", "docker-run.sh", "docker-stop.sh", "lock.sh")
# What the scripts call beside docker: nothing else of the machine is on their PATH.
TOOLS = (
    "awk",
    "bash",
    "cat",
    "dirname",
    "env",
    "git",
    "grep",
    "head",
    "id",
    "mktemp",
    "chmod",
    "rm",
    "sed",
    "tail",
    "timeout",
)

FAKE_DOCKER = """#!/usr/bin/env bash
# Answers what it is told in the environment, and writes down every call.
echo "docker $*" >> "$CALLS"
case "$*" in
    info) exit "${FAKE_INFO:-0}" ;;
    "info --format {{.NCPU}}") echo "${FAKE_CORES:-2}" ;;
    "info --format {{json .CDISpecDirs}}") echo "${FAKE_CDI:-[]}" ;;
    "info --format {{json .Runtimes}}") echo "${FAKE_RUNTIMES:-{}}" ;;
    "buildx version") exit "${FAKE_BUILDX:-0}" ;;
    "compose version") exit "${FAKE_COMPOSE:-0}" ;;
    "buildx imagetools inspect"*) exit "${FAKE_REGISTRY:-0}" ;;
    "image inspect"*) exit "${FAKE_IMAGE:-0}" ;;
    "compose "*" up "*)
        echo "cpus=$SERVICE_CPUS image=$SERVICE_IMAGE gpu=${GPU_DRIVER:-}" >> "$CALLS"
        exit "${FAKE_UP:-0}"
        ;;
    "compose "*" logs "*) echo "the last words" ;;
    run*) exit "${FAKE_RUN:-1}" ;;
esac
"""


class Checkout:
    """A copy of what the scripts touch, with a Docker that only remembers what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "checkout"
        self.bin = folder / "bin"
        self.calls_file = folder / "calls"
        shutil.copytree(ROOT / "scripts", self.root / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "requirements", self.root / "requirements")
        (self.root / "app").mkdir()
        shutil.copy(ROOT / "app/__init__.py", self.root / "app")
        shutil.copy(ROOT / "Dockerfile", self.root)
        self.bin.mkdir()
        self.calls_file.touch()
        for tool in TOOLS:
            found = shutil.which(tool)
            if found:
                (self.bin / tool).symlink_to(found)
        self.tool("docker", FAKE_DOCKER)

    def tool(self, name: str, content: str) -> None:
        """Put a program on the scripts' PATH."""
        (self.bin / name).write_text(content, encoding="utf-8")
        (self.bin / name).chmod(0o755)

    def run(self, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(self.root / "scripts" / script), *arguments],
            env={"PATH": str(self.bin), "CALLS": str(self.calls_file), "CA_BUNDLE": os.devnull, **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    def env_file(self, *lines: str) -> None:
        (self.root / ".env").write_text("\n".join(lines) + "\n", encoding="utf-8")

    @property
    def calls(self) -> list[str]:
        return self.calls_file.read_text(encoding="utf-8").splitlines()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_needs_nothing(checkout: Checkout, script: str) -> None:
    (checkout.bin / "docker").unlink()
    done = checkout.run(script, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Usage: scripts/{script}")


@pytest.mark.parametrize("script", ["bootstrap-base.sh", "docker-build.sh", "docker-run.sh", "docker-stop.sh"])
def test_an_unknown_option_is_refused(checkout: Checkout, script: str) -> None:
    done = checkout.run(script, "--color")
    assert done.returncode == 64
    assert f"--color is not an option; see scripts/{script} --help" in done.stderr


@pytest.mark.parametrize("script", ["bootstrap-base.sh", "docker-build.sh", "docker-run.sh", "docker-stop.sh"])
def test_an_engine_that_is_down_is_named(checkout: Checkout, script: str) -> None:
    done = checkout.run(script, FAKE_INFO="1")
    assert done.returncode == 1
    assert "Docker does not answer; start it" in done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_stay_short(script: str) -> None:
    assert len((ROOT / "scripts" / script).read_text(encoding="utf-8").splitlines()) <= 90


class TestBootstrap:
    def test_does_nothing_when_the_base_works(self, checkout: Checkout) -> None:
        done = checkout.run("bootstrap-base.sh", "base:here", FAKE_RUN="0")
        assert done.returncode == 0
        assert done.stdout == "base:here is here already\n"
        assert not [call for call in checkout.calls if call.startswith("docker import")]

    def test_says_how_to_get_mmdebstrap(self, checkout: Checkout) -> None:
        done = checkout.run("bootstrap-base.sh")
        assert done.returncode == 1
        assert "sudo apt-get install mmdebstrap" in done.stderr

    def test_takes_the_mirror_that_it_is_given(self, checkout: Checkout) -> None:
        checkout.tool("mmdebstrap", "#!/bin/sh\nexit 1\n")
        done = checkout.run("bootstrap-base.sh", "--dry-run", DEBIAN_MIRROR="http://mirror.example/debian")
        assert done.returncode == 0, done.stderr
        assert "http://mirror.example/debian" in done.stdout
        assert done.stdout.rstrip().endswith("| docker import - inference-base:trixie")

    def test_takes_the_archives_of_this_machine(self, checkout: Checkout) -> None:
        checkout.tool("mmdebstrap", "#!/bin/sh\nexit 1\n")
        checkout.tool(
            "apt-get",
            "#!/bin/sh\n"
            "echo 'Vendor http://other.example/apt'\n"
            "echo 'Debian http://own.example/debian/'\n"
            "echo 'Debian-Security http://own.example/security/'\n",
        )
        done = checkout.run("bootstrap-base.sh", "--dry-run")
        assert "deb\\ http://own.example/debian/\\ trixie\\ main" in done.stdout
        assert "deb\\ http://own.example/security/\\ trixie-security\\ main" in done.stdout
        assert "other.example" not in done.stdout

    def test_unpacks_where_programs_may_run(self, checkout: Checkout, tmp_path: Path) -> None:
        checkout.tool("mmdebstrap", '#!/bin/sh\necho "below $TMPDIR" >&2\n')
        assert "below /var/tmp" in checkout.run("bootstrap-base.sh", TMPDIR="/proc").stderr
        assert f"below {tmp_path}" in checkout.run("bootstrap-base.sh", TMPDIR=str(tmp_path)).stderr


class TestBuild:
    def test_builds_on_the_registrys_base(self, checkout: Checkout) -> None:
        done = checkout.run("docker-build.sh")
        assert done.returncode == 0, done.stderr
        gateway, service = [call for call in checkout.calls if call.startswith("docker buildx build")]
        assert "--target gateway --tag timm-classifier-gateway:latest" in gateway
        assert "--target runtime --tag timm-classifier:cpu" in service
        for argument in ("RUNTIME_BASE=python:3.12-slim-bookworm", "TORCH_SOURCE=wheel", "FLAVOR=cpu"):
            assert f"--build-arg {argument}" in service

    @pytest.mark.parametrize(("flavor", "source"), [("cpu", "distribution"), ("cu124", "wheel")])
    def test_makes_a_base_where_no_registry_answers(self, checkout: Checkout, flavor: str, source: str) -> None:
        done = checkout.run("docker-build.sh", "--flavor", flavor, FAKE_REGISTRY="1", FAKE_RUN="0")
        assert done.returncode == 0, done.stderr
        assert "inference-base:trixie is here already" in done.stdout
        service = checkout.calls[-1]
        assert "--build-arg BUILDER_BASE=inference-base:trixie" in service
        assert f"--build-arg TORCH_SOURCE={source}" in service

    def test_takes_two_bases(self, checkout: Checkout) -> None:
        bases = ("--builder-base", "example/devel:1", "--runtime-base", "example/runtime:1")
        done = checkout.run("docker-build.sh", "--flavor", "cu124", *bases)
        assert done.returncode == 0, done.stderr
        assert "BUILDER_BASE=example/devel:1 --build-arg RUNTIME_BASE=example/runtime:1" in checkout.calls[-1]
        assert not [call for call in checkout.calls if "imagetools" in call]

    def test_hands_over_ca_pip_configuration_and_proxy(self, checkout: Checkout, tmp_path: Path) -> None:
        for name in ("ca.pem", "pip.conf"):
            (tmp_path / name).write_text("x\n", encoding="utf-8")
        checkout.run(
            "docker-build.sh",
            CA_BUNDLE=str(tmp_path / "ca.pem"),
            PIP_CONFIG_FILE=str(tmp_path / "pip.conf"),
            https_proxy="http://proxy.example:3128",
            PIP_NO_INDEX="1",
        )
        service = checkout.calls[-1]
        assert f"--secret id=ca,src={tmp_path}/ca.pem" in service
        assert f"--secret id=pipconf,src={tmp_path}/pip.conf" in service
        assert "--build-arg https_proxy=http://proxy.example:3128" in service
        assert "--build-arg PIP_NO_INDEX=1" in service

    def test_keeps_every_cuda_library_when_told_to(self, checkout: Checkout) -> None:
        checkout.run("docker-build.sh", "--flavor", "cu124", CUDA_LIBRARIES="whole")
        assert "--build-arg CUDA_LIBRARIES=whole" in checkout.calls[-1]

    def test_refuses_an_unknown_flavor(self, checkout: Checkout) -> None:
        done = checkout.run("docker-build.sh", "--flavor", "cu999")
        assert done.returncode == 64
        assert "there is no flavor 'cu999'" in done.stderr

    def test_says_how_to_get_buildx(self, checkout: Checkout) -> None:
        done = checkout.run("docker-build.sh", FAKE_BUILDX="1")
        assert done.returncode == 1
        assert "docker buildx is missing; install" in done.stderr

    def test_a_dry_run_builds_nothing(self, checkout: Checkout) -> None:
        done = checkout.run("docker-build.sh", "--dry-run")
        assert done.stdout.count("docker buildx build") == 2
        assert not [call for call in checkout.calls if call.startswith("docker buildx build")]


class TestRun:
    def test_starts_on_the_cpu_and_prints_the_address(self, checkout: Checkout) -> None:
        checkout.env_file("API_BUNDLE_PATH=/app/models/a/1", "SERVICE_PORT=9000")
        done = checkout.run("docker-run.sh")
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith("Ready on CPU: http://127.0.0.1:9000\n")
        assert "docker compose -f docker-compose.yml up --detach --wait --wait-timeout 300" in checkout.calls

    def test_never_asks_for_more_cores_than_there_are(self, checkout: Checkout) -> None:
        checkout.env_file("API_BUNDLE_PATH=/app/models/a/1", "SERVICE_CPUS=16")
        checkout.run("docker-run.sh", FAKE_CORES="2")
        assert checkout.calls[-1].startswith("cpus=2 ")
        checkout.run("docker-run.sh", FAKE_CORES="64", SERVICE_CPUS="0.5")
        assert checkout.calls[-1].startswith("cpus=0.5 ")

    def test_takes_a_gpu_that_the_nvidia_runtime_offers(self, checkout: Checkout) -> None:
        checkout.env_file("API_BUNDLE_PATH=/app/models/a/1")
        checkout.tool("nvidia-smi", "#!/bin/sh\nexit 0\n")
        done = checkout.run("docker-run.sh", FAKE_RUNTIMES='{"nvidia":{},"runc":{}}')
        assert done.returncode == 0, done.stderr
        assert checkout.calls[-1].endswith("image=timm-classifier:cu124 gpu=nvidia")
        assert "Ready on GPU 0: http://127.0.0.1:8000" in done.stdout

    def test_stays_on_the_cpu_when_told_to(self, checkout: Checkout) -> None:
        checkout.env_file("API_BUNDLE_PATH=/app/models/a/1")
        checkout.tool("nvidia-smi", "#!/bin/sh\nexit 0\n")
        checkout.run("docker-run.sh", "--cpu", FAKE_RUNTIMES='{"nvidia":{}}')
        assert checkout.calls[-1].endswith("image=timm-classifier:cpu gpu=")

    def test_insists_on_a_gpu_when_told_to(self, checkout: Checkout) -> None:
        done = checkout.run("docker-run.sh", "--gpu")
        assert done.returncode == 1
        assert "Docker can hand no GPU to a container; find out why with: make verify" in done.stderr

    def test_says_how_to_build_a_missing_image(self, checkout: Checkout) -> None:
        done = checkout.run("docker-run.sh", FAKE_IMAGE="1")
        assert done.returncode == 1
        assert "build it with: scripts/docker-build.sh --flavor cpu" in done.stderr

    def test_says_how_to_name_a_model(self, checkout: Checkout) -> None:
        done = checkout.run("docker-run.sh")
        assert done.returncode == 1
        assert ".env names no model (API_BUNDLE_PATH); start with: cp .env.example .env" in done.stderr

    def test_shows_the_last_lines_of_a_failed_start(self, checkout: Checkout) -> None:
        checkout.env_file("API_BUNDLE_PATH=/app/models/a/1")
        done = checkout.run("docker-run.sh", FAKE_UP="1")
        assert done.returncode == 1
        assert "the last words" in done.stderr
        assert "the service did not become ready" in done.stderr

    def test_a_dry_run_starts_nothing(self, checkout: Checkout) -> None:
        checkout.env_file("API_BUNDLE_PATH=/app/models/a/1")
        done = checkout.run("docker-run.sh", "--dry-run")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("docker compose -f docker-compose.yml up --detach --wait")
        assert not [call for call in checkout.calls if " up " in call]


class TestStop:
    def test_removes_container_and_network(self, checkout: Checkout) -> None:
        assert checkout.run("docker-stop.sh").returncode == 0
        assert checkout.calls[-1] == "docker compose -f docker-compose.yml down"

    def test_keeps_volumes_unless_told(self, checkout: Checkout) -> None:
        checkout.run("docker-stop.sh", "--volumes")
        assert checkout.calls[-1] == "docker compose -f docker-compose.yml down --volumes"

    def test_a_dry_run_stops_nothing(self, checkout: Checkout) -> None:
        done = checkout.run("docker-stop.sh", "--dry-run")
        assert done.stdout == "docker compose -f docker-compose.yml down\n"
        assert not [call for call in checkout.calls if call.endswith(" down")]


def test_locking_says_how_to_get_uv(checkout: Checkout) -> None:
    done = checkout.run("lock.sh")
    assert done.returncode == 1
    assert "uv is not on PATH; install it with: python3 -m pip install uv" in done.stderr


def test_every_locked_package_has_hashes() -> None:
    for lock in (ROOT / "requirements").glob("*.lock"):
        body = lock.read_text(encoding="utf-8")
        for requirement in (line for line in body.splitlines() if line and line[0].isalnum()):
            assert requirement.endswith(" \\"), f"{lock.name}: {requirement} has no hash"
        assert "--index-url" not in body

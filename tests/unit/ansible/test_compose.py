"""docker-compose*.yml describe the container once, and .env.example explains every variable of it."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.gpu_hosts.timm.plugins.filter.deadlines import grace_seconds
from ansible_collections.gpu_hosts.timm.plugins.modules import instance_ready

ROOT = Path(__file__).resolve().parents[3]
FILES = ("docker-compose.yml", "docker-compose.gpu.yml", "docker-compose.override.yml")
VARIABLE = re.compile(r"\$\{([A-Z_]+):-([^}]*)\}")


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def defaults(name: str) -> Any:
    """The file as YAML, every variable replaced by its default."""
    return yaml.safe_load(VARIABLE.sub(lambda match: match[2], text(name)))


@pytest.fixture(scope="module")
def api() -> dict[str, Any]:
    service: dict[str, Any] = defaults("docker-compose.yml")["services"]["api"]
    return service


def setting_names() -> set[str]:
    """The API_* variables that the service reads, found without importing it: it only runs inside the image."""
    tree = ast.parse(text("app/settings.py"))
    settings = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Settings")
    return {
        "API_" + node.target.id.upper()
        for node in settings.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


def documented() -> dict[str, str]:
    """Name and value of every line of .env.example, commented out or not."""
    return dict(re.findall(r"^#?([A-Z_]+)=(.*)$", text(".env.example"), flags=re.MULTILINE))


def test_there_is_one_service_with_a_default_for_every_variable() -> None:
    for name in FILES:
        assert list(defaults(name)["services"]) == ["api"]
        assert "${" not in VARIABLE.sub("", text(name)), f"{name} has a variable without a default"


def test_it_cannot_write_outside_its_volumes(api: dict[str, Any]) -> None:
    assert api["read_only"] is True
    assert api["user"] == "1000:1000"
    assert [volume.rsplit(":", 1)[-1] for volume in api["volumes"] if "/app/models" in volume] == ["ro"]
    assert [mount.split(":")[0] for mount in api["tmpfs"]] == [tempfile.gettempdir()]
    assert api["cap_drop"] == ["ALL"]
    assert api["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in api
    assert "cap_add" not in api


def test_it_is_limited(api: dict[str, Any]) -> None:
    assert api["deploy"]["resources"]["limits"] == {"cpus": 4, "memory": "8g", "pids": 512}
    assert api["shm_size"] == "1g"
    assert api["ulimits"]["nofile"]["soft"] > 1024
    assert api["logging"]["options"]["max-size"]


def test_it_is_published_on_this_machine_only(api: dict[str, Any]) -> None:
    assert api["ports"] == ["127.0.0.1:8000:8000"]


def test_it_restarts_and_may_take_its_time_to_start(api: dict[str, Any]) -> None:
    assert api["restart"] == "unless-stopped"
    assert api["healthcheck"]["test"] == ["CMD", "python", "-m", "app.healthcheck"]
    assert api["healthcheck"]["start_period"] == "60s"


def test_it_stops_after_it_has_drained(api: dict[str, Any]) -> None:
    assert api["stop_grace_period"] == f"{grace_seconds({})}s"
    assert grace_seconds({}) > int(documented()["API_DRAIN_SECONDS"])


def test_others_find_it_and_its_models_where_this_says(api: dict[str, Any]) -> None:
    (port,) = {mapping.rpartition(":")[2] for mapping in api["ports"]}
    gateway, service = (
        yaml.safe_load(text(f"roles/{name}/vars/main.yml")) for name in ("gateway", "inference_service")
    )
    waited_for = yaml.safe_load(instance_ready.DOCUMENTATION)["options"]["port"]["default"]
    assert {api["environment"]["API_PORT"], str(gateway["__gateway_target_port"]), str(waited_for)} == {port}
    assert f":{service['__inference_service_models']}:ro" in "".join(api["volumes"])


def test_production_has_no_development_settings(api: dict[str, Any]) -> None:
    development = defaults("docker-compose.override.yml")["services"]["api"]
    assert "--reload" in development["command"]
    assert development["environment"]["API_LOG_LEVEL"] == "debug"
    assert "./app:/app/app" in development["volumes"]
    assert "command" not in api
    assert "API_LOG_LEVEL" not in api["environment"]


def test_a_service_with_a_gpu_refuses_to_run_without_it() -> None:
    gpu = defaults("docker-compose.gpu.yml")["services"]["api"]
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "device_ids": ["0"], "capabilities": ["gpu"]}
    assert gpu["environment"]["API_REQUIRE_GPU"] is True


def test_every_variable_is_documented_with_its_default() -> None:
    used = dict(VARIABLE.findall(text("docker-compose.gpu.yml"))) | dict(VARIABLE.findall(text("docker-compose.yml")))
    used.pop("API_REQUIRE_GPU")  # a setting of the service, which has another default without a GPU
    explained = {name: value for name, value in documented().items() if not name.startswith("API_")}
    assert explained == used


def test_every_setting_of_the_service_is_documented() -> None:
    assert {name for name in documented() if name.startswith("API_")} == setting_names()


def test_the_image_stops_and_is_checked_like_the_container(api: dict[str, Any]) -> None:
    dockerfile = text("Dockerfile")
    assert "STOPSIGNAL SIGTERM" in dockerfile
    assert "USER 1000:1000" in dockerfile
    command = re.search(r"^HEALTHCHECK .*CMD (\[.*\])$", dockerfile, flags=re.MULTILINE)
    assert command is not None
    assert ["CMD", *yaml.safe_load(command[1])] == api["healthcheck"]["test"]


@pytest.mark.skipif(
    shutil.which("docker") is None
    or subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode != 0,
    reason="docker compose is not installed",
)
class TestRendered:
    """What Docker Compose itself makes of the files."""

    def render(self, *files: str, **variables: str) -> dict[str, Any]:
        arguments = [part for name in files for part in ("--file", name)]
        done = subprocess.run(
            ["docker", "compose", "--env-file", os.devnull, *arguments, "config"],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        service: dict[str, Any] = yaml.safe_load(done.stdout)["services"]["api"]
        return service

    def test_a_gpu_is_reserved_beside_the_limits(self) -> None:
        service = self.render(
            "docker-compose.yml", "docker-compose.gpu.yml", GPU_DRIVER="cdi", GPU_DEVICE_ID="nvidia.com/gpu=1"
        )
        resources = service["deploy"]["resources"]
        (device,) = resources["reservations"]["devices"]
        assert (device["driver"], device["device_ids"]) == ("cdi", ["nvidia.com/gpu=1"])
        assert float(resources["limits"]["cpus"]) == 4
        assert int(resources["limits"]["memory"]) == 8 * 1024**3
        assert service["image"] == "timm-classifier:cu124"

    def test_variables_reach_the_container(self) -> None:
        service = self.render(
            "docker-compose.yml", SERVICE_CPUS="1.5", SERVICE_MEMORY="2g", SERVICE_BIND="192.0.2.7", SERVICE_PORT="9000"
        )
        assert float(service["deploy"]["resources"]["limits"]["cpus"]) == 1.5
        assert (service["ports"][0]["host_ip"], service["ports"][0]["published"]) == ("192.0.2.7", "9000")

    def test_development_is_writable(self) -> None:
        service = self.render("docker-compose.yml", "docker-compose.override.yml")
        assert not service.get("read_only", False)
        assert service["cap_drop"] == ["ALL"]
        models = next(volume for volume in service["volumes"] if volume["target"] == "/app/models")
        assert not models.get("read_only", False)

"""Values that somebody might slip in end the run before a host is changed, or arrive where they belong as they are."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.gpu_hosts.timm.plugins.action.validate_variables import value_fault
from ansible_collections.gpu_hosts.timm.plugins.filter.balanced_hosts import balanced_hosts
from ansible_collections.gpu_hosts.timm.plugins.filter.env_file import env_file_value
from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.option_rules import PROSE
from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.options import read_options

REPOSITORY = Path(__file__).resolve().parents[3]
OPTIONS = {name: spec for owner in read_options(REPOSITORY).values() for name, spec in owner.items()}
# What a line, a shell, Compose, HAProxy or a path makes something else of.
BROKEN = ["{}\n", "{}\nuser: root", "{}\r", "{}\x00", "{}\x1b[2J", "{}\u2028next", "\n{}"]
ACTIVE = [
    "{} ",
    " {}",
    "$(touch x)",
    "{}`id`",
    "{};reboot",
    "{}|sh",
    "{}&",
    "${HOME}",
    "{}'",
    '{}"',
    "{}#x",
    "{}\\",
    "<{}>",
    "*",
    "{}é",
    "--privileged",
]
# A value that is right, for options whose default is none or empty.
SAMPLES: dict[str, Any] = {
    "gateway_name": "cats",
    "deploy_address": "gpu-1",
    "gateway_answer_seconds": 75,
    "gateway_awaited_hosts": ["gpu-1"],
    "gateway_trusted_proxies": ["192.0.2.0/24"],
    "logs_release": "0123456789ab",
    "gateway_hosts": [{"name": "gpu-1", "address": "192.0.2.1", "port": 8000}],
    "inference_service_env": {"API_QUEUE": "x"},
    "model_bundle_create": {"checkpoint": "x"},
    "nvidia_driver_packages": ["nvidia-driver"],
    "nvidia_driver_requirements": {"cuda": "x"},
    "nvidia_driver_flavors": {"cpu": {"cuda": "x"}},
    "nvidia_driver_waived_findings": [{"id": "GPU009", "reason": "tested"}],
    "nvidia_container_toolkit_waived_findings": [{"id": "GPU009", "reason": "tested"}],
    "docker_engine_daemon_options": {"log-driver": "x"},
    "verify_report": "/report.json",
}
# These may have any character that is no control character: why that harms nothing.
FREE = {
    "inference_image_source_dir": "a folder of the controller; given to programs as one word",
    "inference_service_source_dir": "a folder of the controller; opened, never run",
    "model_bundle_source": "a folder of the controller or a URL; given to programs as one word",
    "model_bundle_create": "files and options of the controller; given to a program in a container as words",
    "verify_report": "a file of the controller; opened, never run",
    "inference_service_env": "settings; escaped for Compose, which the test below shows",
    "docker_engine_daemon_options": "written as JSON",
    "nvidia_driver_requirements": "compared, never written",
    "nvidia_driver_flavors": "compared, never written",
    "nvidia_driver_waived_findings": "written as JSON",
    "nvidia_container_toolkit_waived_findings": "written as JSON",
}


def right(name: str) -> Any:
    """Return a value that the option may have."""
    default = OPTIONS[name].get("default")
    if name in SAMPLES:
        return SAMPLES[name]
    return "/srv/service" if "{{" in str(default) else default


def poisoned(value: Any, pattern: str) -> Any:
    """Return the value with its innermost texts made hostile."""
    if isinstance(value, dict):
        return {key: poisoned(item, pattern) for key, item in value.items()}
    if isinstance(value, list):
        return [poisoned(item, pattern) for item in value]
    return pattern.replace("{}", str(value))


def accepted(name: str, patterns: list[str]) -> list[Any]:
    """Return the hostile values that the option would take."""
    values = [poisoned(right(name), pattern) for pattern in patterns]
    return [value for value in values if not value_fault(name, OPTIONS[name], value, None)]


@pytest.mark.parametrize("name", OPTIONS)
def test_hostile_values_of_every_option_are_refused(name: str) -> None:
    assert value_fault(name, OPTIONS[name], right(name), None) == ""
    if name not in PROSE:
        assert accepted(name, BROKEN) == []
    if name not in FREE:
        assert accepted(name, ACTIVE) == []


def test_every_option_that_is_free_is_there() -> None:
    assert set(FREE) <= set(OPTIONS)
    assert set(PROSE) <= set(FREE)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("inference_service_env", {"API_port": 1}),
        ("inference_service_env", {"API_QUEUE\nAPI_PORT": 1}),
        ("inference_service_env", {"API_QUEUE": ["a"]}),
        ("inference_service_env", {"API_QUEUE": None}),
        ("inference_service_release", "../../etc"),
        ("inference_service_state_dir", "/srv/../etc"),
        ("inference_service_bind", "fe80::1%eth0"),
        ("inference_service_memory", "٣g"),
        ("inference_service_port", "8_000"),
        ("inference_image_ca_file", "/etc/ca.pem,src=/etc/shadow"),
        ("gateway_docker_socket", "/run/docker.sock:/etc"),
        ("model_bundle_create", {"checkpoint": "x", "--output": "/"}),
    ],
)
def test_values_that_mean_something_else_are_refused(name: str, value: Any) -> None:
    assert value_fault(name, OPTIONS[name], value, None) != ""


def test_compose_hands_on_every_setting_as_it_was_given(tmp_path: Path) -> None:
    """A `$` replaces nothing, a quote ends nothing, a `#` begins nothing."""
    given = [pattern.replace("{}", "a") for pattern in ACTIVE] + [
        "pa$$word",
        "$HOME",
        '["a", "b"]',
        "a\\nb",
        "a\\",
        "'",
        "",
    ]
    lines = [f"API_{index}={env_file_value(value)}" for index, value in enumerate(given)]
    (tmp_path / "service.env").write_text("\n".join(lines) + "\n")
    (tmp_path / "docker-compose.yml").write_text("services: {api: {image: x, env_file: [service.env]}}\n")
    command = ["docker", "compose", "--project-directory", str(tmp_path), "config", "--format", "json"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    # In its output Compose writes each $ twice.
    found = {key: text.replace("$$", "$") for key, text in json.loads(said)["services"]["api"]["environment"].items()}
    assert found == {f"API_{index}": value for index, value in enumerate(given)}


@pytest.mark.parametrize("settings", [{"ansible_host": "192.0.2.1 check"}, {"deploy_address": "a\n    server x"}])
def test_a_host_behind_a_load_balancer_has_a_plain_name(settings: dict[str, Any]) -> None:
    with pytest.raises(AnsibleFilterError, match="gpu-1"):
        balanced_hosts(["gpu-1"], {"gpu-1": settings})

"""Action: refuse a deploy whose sources on the controller cannot make a release, before any host is changed."""

from __future__ import annotations

import getpass
import json
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError

from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.model_source import model_bytes, model_faults
from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.options import read_options
from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.reach import reach
from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.request_base import ActionModule as RequestBase
from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.request_base import HostSettings

DOCKER_SECONDS = 20
REFERENCES = ("inference_image_reference", "inference_image_gateway_reference")
BASES = ("inference_image_builder_base", "inference_image_runtime_base")


def docker_step(reason: str, user: str) -> str:
    """Return what lets a user build who cannot, from what Docker said."""
    if "permission denied" in reason.lower():
        return f"Add this user to Docker's group (sudo usermod -aG docker {user}), then log in again."
    if "buildx" in reason:
        return "Install Docker's plugin buildx here (Debian: docker-buildx)."
    return "Start Docker here, or name another one in DOCKER_HOST."


@cache
def docker_fault() -> str:
    """Return why this user cannot build images here and what helps, '' when he can."""
    if not shutil.which("docker"):
        return "there is no docker command. Install Docker here."
    for command in (["docker", "version", "--format", "{{.Server.Version}}"], ["docker", "buildx", "version"]):
        try:
            asked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DOCKER_SECONDS)
        except subprocess.TimeoutExpired:
            return f"Docker gives no answer for {DOCKER_SECONDS} seconds. Restart it."
        if asked.returncode != 0:
            reason = " ".join(asked.stderr.split()).rstrip(".") or "it does not answer"
            return f"{reason}. {docker_step(reason, getpass.getuser())}"
    return ""


def image_faults(settings: Mapping[str, str]) -> Iterator[str]:
    """Say why the image cannot be had."""
    strategy = settings["inference_image_strategy"]
    if strategy == "pull":
        empty = [name for name in REFERENCES if not settings[name]]
        if empty:
            yield f"inference_image_strategy is pull; set {' and '.join(empty)} to the images in your registry."
        return
    source = Path(settings["inference_image_source_dir"])
    if not (source / "Dockerfile").is_file():
        yield f"There is no Dockerfile in inference_image_source_dir ({source}); name the checkout."
    if [settings[name] for name in BASES].count("auto") == 1:
        yield f"Of {' and '.join(BASES)} only one is set, and the two must carry the same Python; name both or neither."
    if strategy == "controller" and docker_fault():
        user = getpass.getuser()
        yield (
            f"inference_image_strategy is controller, and {user} cannot build images here: {docker_fault()} "
            "Or build on the hosts: inference_image_strategy=host."
        )


def is_loopback(address: str) -> bool:
    """Return whether only the machine itself is reached by this address."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def is_everywhere(address: str) -> bool:
    """Return whether this stands for all addresses of a machine."""
    try:
        return ip_address(address).is_unspecified
    except ValueError:
        return False


def same_machine(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Return whether the inventory reaches one machine under two names, as far as it says."""
    same_address = one["address"] == other["address"] and one["ssh_port"] == other["ssh_port"]
    return one["name"] == other["name"] or (one["address"] != "" and same_address)


def balancer_faults(balancers: Iterable[Mapping[str, str]], hosts: Iterable[Mapping[str, str]]) -> Iterator[str]:
    """Say why load balancers cannot work with the hosts behind them."""
    fronts, behind = list(balancers), list(hosts)
    for front in fronts:
        for host in behind:
            overlap = front["bind"] == host["bind"] or is_everywhere(front["bind"]) or is_everywhere(host["bind"])
            if same_machine(front, host) and front["port"] == host["port"] and overlap:
                yield (
                    f"The load balancer {front['name']} and the service of {host['name']} are on one machine, and both "
                    f"want port {host['port']}. Set another gateway_port for the load balancer."
                )
    alone = [host["name"] for host in behind if is_loopback(host["bind"]) and not is_loopback(host["reach"])]
    if alone and fronts:
        yield (
            f"No load balancer can reach {', '.join(alone[:3])}: inference_service_bind is a loopback address there. "
            "Set it to an address that the load balancers reach."
        )


class ActionModule(RequestBase):
    """Look at the files and programs of the controller that a deploy needs."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Fail with everything that is missing, or change nothing."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        self.validate_argument_spec({})
        task_vars = task_vars or {}
        options = read_options()
        defaults = {name: spec.get("default", "") for owner in options.values() for name, spec in owner.items()}
        hosts = self.hosts_of_run(task_vars, "inference_hosts")
        found: dict[str, list[str]] = {}
        models: dict[str, dict[str, Any]] = {}
        for host, settings in hosts.items():
            try:
                name, version, source, checksum, recipe = model_of(settings, defaults)
                faults = [
                    *model_faults(name, version, source, checksum, recipe),
                    *checkout_faults(settings, defaults),
                ]
                models[host] = {"folder": f"{name}/{version}", "bytes": model_bytes(name, version, source, recipe)}
            except AnsibleError as error:
                faults = [f"A variable cannot be evaluated: {self.reason(error)}."]
            for fault in faults:
                found.setdefault(fault, []).append(host)
        fronts = self.hosts_of_run(task_vars, "load_balancers")
        clashes = balancer_faults(
            [place(host, settings, defaults, "gateway") for host, settings in fronts.items()],
            [place(host, settings, defaults, "inference_service") for host, settings in hosts.items()],
        )
        found.update((fault, list(hosts)) for fault in clashes)
        if not found:
            return {**result, "changed": False, "models": models}
        about = {fault: self.some_of(names, hosts) for fault, names in found.items()}
        lines = [f"  {fault}" + (f" ({where})" if where else "") for fault, where in about.items()]
        return {
            **result,
            "failed": True,
            "msg": "\n".join(["This cannot be deployed, so nothing was started:", *lines]),
        }


def text(settings: HostSettings, defaults: Mapping[str, Any], name: str) -> str:
    """Return the value of an option, its default where nothing is set."""
    return str(settings.get(name, defaults[name]))


def model_of(settings: HostSettings, defaults: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    """Return name, version, source and checksum of a host's model, and how to make it, as JSON."""
    name, version, source, checksum = (
        text(settings, defaults, f"model_bundle_{part}") for part in ("name", "version", "source", "checksum")
    )
    recipe = json.dumps(settings.get("model_bundle_create", {}), default=str, sort_keys=True)
    return name, version, source, checksum, recipe


def checkout_faults(settings: HostSettings, defaults: Mapping[str, Any]) -> Iterator[str]:
    """Say what is missing for a host beside its model."""
    yield from image_faults(
        {name: text(settings, defaults, name) for name in defaults if name.startswith("inference_image_")}
    )
    compose = Path(text(settings, defaults, "inference_service_source_dir")) / "docker-compose.yml"
    if not compose.is_file():
        yield f"There is no {compose.name} in inference_service_source_dir ({compose.parent}); name the checkout."


def place(host: str, settings: HostSettings, defaults: Mapping[str, Any], role: str) -> dict[str, str]:
    """Return where a service of this host listens, and how the host is reached."""
    return {
        "name": host,
        "address": str(settings.get("ansible_host", "")),
        "ssh_port": str(settings.get("ansible_port", "")),
        "reach": reach(host, settings),
        "bind": str(settings.get(f"{role}_bind", defaults[f"{role}_bind"])),
        "port": str(settings.get(f"{role}_port", defaults[f"{role}_port"])),
    }

"""What a deploy makes serve on a host, put together from what was asked for and what the roles before have found."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.chosen import ALL, instances
from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.option_rules import OWN_SETTINGS, is_setting

# Whoever reaches an instance is on the host's own network of containers: the gateway, which says whom it asks for.
CONTAINER_NETWORKS = "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,fc00::/7"
# How containers get a GPU at all.
MODES = ("cdi", "nvidia")
ON_CPU = ({"index": "0", "gpu": "", "driver": ""},)
BASE, FOR_GPUS, MANAGED = "docker-compose.yml", "docker-compose.gpu.yml", "docker-compose.managed.yml"


class DescriptionError(Exception):
    """No release can be made of it; the message says why, and what to do."""


@dataclass(frozen=True)
class Host:
    """What is known of the host when the release is described."""

    name: str
    gpus: Sequence[dict[str, Any]] = ()
    gpu_present: bool = False
    # How containers get its GPUs: cdi, nvidia or none.
    mode: str = "none"
    cdi_devices: Sequence[str] = ()
    cores: int = 0

    @classmethod
    def of(cls, name: str, reports: Mapping[str, Any]) -> Host:
        """Read what the roles nvidia_driver, docker_engine and nvidia_container_toolkit published."""
        driver, engine, toolkit = (reports.get(role) or {} for role in ("driver", "engine", "toolkit"))
        return cls(
            name,
            gpus=driver.get("gpus") or (),
            gpu_present=bool(driver.get("gpu_present")),
            mode=toolkit.get("mode") or "none",
            cdi_devices=toolkit.get("cdi_devices") or (),
            cores=int(engine.get("ncpu") or 0),
        )


def check_settings(env: Mapping[str, Any]) -> None:
    """Raise DescriptionError for settings that are not the service's."""
    foreign = [name for name in env if not is_setting(name)]
    if foreign:
        *own, last = sorted(OWN_SETTINGS)
        raise DescriptionError(
            f"inference_service_env has {', '.join(foreign)}. Only API_* in capitals reaches the service, and "
            f"{', '.join(own)} and {last} belong to the deployment: change the bundle with model_bundle_name "
            "and model_bundle_version, the port with inference_service_port."
        )


def choose_instances(asked: Any, host: Host, flavor: str, preview: bool) -> list[dict[str, str]]:
    """Return one instance a GPU that was asked for, none for the CPU; raise DescriptionError where it cannot get one.

    In a preview the driver, the toolkit or the GPUs' names may be what a real run would bring.
    """
    if asked == ALL and flavor == "cpu":
        return []
    found = instances(asked, list(host.gpus), host.mode, list(host.cdi_devices))
    if not found and asked in (ALL, []):
        return []
    if host.mode not in MODES and not preview:
        names = asked if isinstance(asked, list) else [asked]
        raise DescriptionError(
            f"inference_service_gpus asks for {', '.join(map(str, names))}, but containers on {host.name} get no GPU: "
            "there is neither a CDI specification nor an nvidia runtime. Set nvidia_container_toolkit_install=true, or "
            "serve on the CPU with inference_image_flavor=cpu."
        )
    unnamed = preview and host.gpu_present and not host.gpus
    if asked != ALL and len(found) != len(asked) and not unnamed:
        there = [item["gpu"] for item in instances(ALL, list(host.gpus), "nvidia", [])]
        raise DescriptionError(
            f"inference_service_gpus names {', '.join(map(str, asked))}, the host has {', '.join(there) or 'no GPU'}. "
            "Run playbooks/verify.yml to see them."
        )
    return found


def device_of(chosen: Sequence[dict[str, str]], flavor: str) -> str:
    """Return what the instances compute on, cpu or cuda."""
    return "cuda" if chosen and flavor != "cpu" else "cpu"


def compose_files(source: Path, managed: str, on_gpus: bool) -> dict[str, str]:
    """Return the Compose files of a release, in the order that they are laid over each other."""
    shared = [BASE, *([FOR_GPUS] if on_gpus else [])]
    texts = {name: (source / name).read_text(encoding="utf-8").rstrip() for name in shared}
    return {**texts, MANAGED: managed}


def describe(
    host: Host,
    asked: Mapping[str, Any],
    chosen: Sequence[dict[str, str]],
    files: Mapping[str, str],
) -> dict[str, Any]:
    """Return image, bundle and settings of the wanted release; its identity is a digest of them (releases.py).

    asked has image, bundle, limits, env and derived as module release_describe takes them.
    """
    image, limits = asked["image"], asked["limits"]
    device = device_of(chosen, image["flavor"])
    cores = float(limits["cpus"])
    own = {
        "API_DEVICE": device,
        "API_REQUIRE_GPU": "true" if device == "cuda" else "false",
        "API_LOG_DIR": "/app/logs",
        "API_TRUSTED_PROXIES": CONTAINER_NETWORKS,
        # Where an instance finds what the image made of the bundle for the host's CPU.
        **({"API_DERIVED_PATH": asked["derived"]} if device == "cpu" else {}),
    }
    return {
        "image": dict(image),
        "bundle": dict(asked["bundle"]),
        "settings": {
            "cpus": str(min(cores, float(host.cores or cores))),
            "memory": limits["memory"],
            "pids": str(limits["pids"]),
            "shm": limits["shm"],
            "device": device,
            "env": {**own, **asked["env"]},
            "instances": list(chosen or ON_CPU),
            "compose_files": list(files),
            "compose_sha256": hashlib.sha256("".join(files.values()).encode()).hexdigest(),
        },
    }

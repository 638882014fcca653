"""What the specification of an option cannot say: which values are right, and what those are called.

Values end in files, command lines, Compose files and HAProxy's configuration. So every text is matched as a whole,
character by character, and a control character is in none: a line break would begin another setting there.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.chosen import is_choice
from ansible_collections.gpu_hosts.timm.plugins.module_utils.releases import IDENTITY

SYSTEM_FOLDERS = re.compile(
    r"/*((bin|boot|dev|etc|home|lib|opt|proc|root|run|sbin|srv|sys|tmp|usr|var|var/lib|var/log)/*)?"
)
# What the deployment itself tells the service.
OWN_SETTINGS = frozenset({"API_BUNDLE_PATH", "API_DERIVED_PATH", "API_RELEASE_ID", "API_HOST", "API_PORT"})
# C0 and C1, and what some readers take for the end of a line.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# What earlier versions took, and what became of it.
GONE = {
    "gateway_target_port": "it is gone: the port of an instance inside its container is fixed. Remove it.",
    "model_bundle_dir": "it is gone: bundles lie in inference_service_state_dir, where instances look. Remove it.",
}
# Their prose may have several lines; it goes into records only.
PROSE = ("nvidia_driver_waived_findings", "nvidia_container_toolkit_waived_findings")
# How a number or a switch is written. Python's int() and Ansible's bool accept more, but it is the text that is used.
SPELLINGS = {"int": r"-?[0-9]+", "float": r"-?([0-9]*\.)?[0-9]+", "bool": r"[A-Za-z0-9]+"}


def texts(value: Any) -> Iterator[str]:
    """Yield every text in a value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from texts(key)
            yield from texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from texts(item)


def matches(pattern: str) -> Callable[[Any], bool]:
    """Return a rule: the value's text is the pattern, from its first character to its last."""
    compiled = re.compile(pattern)
    return lambda value: compiled.fullmatch(str(value)) is not None


def is_address(value: str) -> bool:
    """Return whether this is an IP address; one of a single link cannot be published."""
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return "%" not in value


def is_networks(value: list[Any]) -> bool:
    """Return whether these are addresses or networks."""
    try:
        return all("%" not in str(ipaddress.ip_network(str(item), strict=False)) for item in value)
    except ValueError:
        return False


def is_share(value: str) -> bool:
    """Return whether this is how many hosts: a number or a share of them."""
    found = re.fullmatch(r"([1-9][0-9]*)(%?)", value)
    return found is not None and (not found[2] or int(found[1]) <= 100)


def is_setting(name: object) -> bool:
    """Return whether this names a setting that may be given to the service."""
    return re.fullmatch(r"API_[A-Z0-9_]+", str(name)) is not None and name not in OWN_SETTINGS


def is_environment(value: Mapping[str, Any]) -> bool:
    """Return whether these are settings that may be given to the service; it reads their names in any case."""
    names = all(map(is_setting, value))
    return names and not any(isinstance(item, (Mapping, list)) or item is None for item in value.values())


def is_recipe(value: Mapping[str, Any]) -> bool:
    """Return whether these can be options of `bundle create`."""
    return all(re.fullmatch(r"[a-z][a-z_]*", str(name)) for name in value)


def is_folder(value: str) -> bool:
    """Return whether this can be a folder of the service's own, wherever its path is written."""
    parts = value.split("/")
    return matches(r"/[A-Za-z0-9._/@+-]+")(value) and ".." not in parts and not SYSTEM_FOLDERS.fullmatch(value)


def is_behind(value: list[Any]) -> bool:
    """Return whether these are hosts behind a load balancer."""
    return all(
        isinstance(host, Mapping) and all(HOST_NAME.fullmatch(str(host.get(key, ""))) for key in ("name", "address"))
        for host in value
    )


HOST_NAME = re.compile(r"[A-Za-z0-9:][A-Za-z0-9.:_-]*")
FILE_PATH = r"/[A-Za-z0-9._/@+-]+"
IMAGE = r"[A-Za-z0-9][A-Za-z0-9._/@:-]*"

# The first pattern that an option's name matches decides nothing: each that matches must be kept.
RULES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    (r"\w+_port", lambda value: 1 <= int(value) <= 65535, "a port, from 1 to 65535"),
    (r"\w+_bind", is_address, "an IP address of the host, 0.0.0.0 for all of them"),
    (r"\w+_(seconds|timeout|ms|bytes)", lambda value: int(value) >= 0, "a number that is not negative"),
    (r"\w+_(cpus|pids|releases|connections)", lambda value: float(value) > 0, "a number above 0"),
    (r"\w+_(memory|shm)", matches("[1-9][0-9]*[bkmgBKMG]?"), "a size such as 512m or 8g"),
    (r"\w+_checksum", matches("(sha256:[0-9a-f]{64})?"), "sha256: and 64 hexadecimal digits"),
    (r"\w+_url", matches(r"https?://[A-Za-z0-9][A-Za-z0-9._~:/?@%=+,\[\]-]*"), "a URL that begins with http"),
    (
        r"\w+_(state_dir|build_dir)",
        is_folder,
        "a folder of the service's own: an absolute path of letters, digits and ._/@+-",
    ),
    (
        r"\w+_(docker_socket|log_file|ca_file)",
        matches(FILE_PATH),
        "an absolute path of letters, digits and ._/@+-",
    ),
    (r"inference_image_pip_conf", matches(f"({FILE_PATH})?"), "an absolute path of letters, digits and ._/@+-"),
    (
        r"(inference_service|gateway)_name",
        matches("[a-z0-9][a-z0-9_-]*"),
        "a name of small letters, digits, dashes and underscores",
    ),
    (
        r"inference_image_(\w+_base|bootstrap_name|name)",
        matches(IMAGE),
        "an image: letters, digits and ._/@:-",
    ),
    (r"\w+_(image|reference)", matches(f"({IMAGE})?"), "an image: letters, digits and ._/@:-"),
    (
        r"model_bundle_(name|version)",
        matches("[A-Za-z0-9][A-Za-z0-9._-]{0,127}"),
        "a folder's name: letters, digits, dots, dashes and underscores only, and not a dot first",
    ),
    (r"model_bundle_create", is_recipe, "options of `bundle create`, such as checkpoint and architecture"),
    (
        r"inference_service_release",
        matches(f"(previous|{IDENTITY})?"),
        "previous, or the id of a release: 12 hexadecimal digits, as playbooks/status.yml lists them",
    ),
    (r"logs_release", matches(f"({IDENTITY})?"), "the id of a release: 12 hexadecimal digits"),
    (
        r"(inference_service|nvidia_driver|nvidia_container_toolkit)_gpus",
        is_choice,
        "all, or a list of different GPUs: indices, UUIDs or slices such as [0, GPU-5e1d8f2a, '1:0']",
    ),
    (
        r"inference_service_env",
        is_environment,
        f"settings API_* of the service, in capitals and each a text or a number, without "
        f"{', '.join(sorted(OWN_SETTINGS))}, which belong to the deployment",
    ),
    (
        r"gateway_servers",
        lambda value: all(map(matches("[A-Za-z0-9][A-Za-z0-9_-]*"), value)),
        "a list of names of letters, digits, dashes and underscores",
    ),
    (
        r"gateway_awaited_hosts",
        lambda value: all(HOST_NAME.fullmatch(str(name)) for name in value),
        "a list of hosts' names",
    ),
    (r"gateway_trusted_proxies", is_networks, "a list of addresses or networks such as 192.0.2.0/24"),
    (r"gateway_hosts", is_behind, "a list of hosts, each with name, address and port"),
    (
        r"docker_engine_distribution_suite",
        matches("[A-Za-z0-9][A-Za-z0-9._/-]*"),
        "auto or the name of a suite, such as trixie",
    ),
    (
        r"nvidia_container_toolkit_version",
        matches("[0-9][0-9A-Za-z.+~-]*"),
        "a version",
    ),
    (r"nvidia_driver_branch", matches("[0-9]{3,4}"), "a branch, such as 580"),
    (
        r"(docker_engine|nvidia_container_toolkit|nvidia_driver)_key_fingerprints",
        lambda value: all(map(matches("[0-9A-Fa-f]{4}( {0,2}[0-9A-Fa-f]{4}){9}"), value)),
        "a list of fingerprints, each of 40 hexadecimal digits",
    ),
    (
        r"nvidia_driver_packages",
        lambda value: all(map(matches(r"@?[A-Za-z0-9][A-Za-z0-9.+~:=_/*-]*"), value)),
        "a list of packages",
    ),
    (r"deploy_address", lambda value: HOST_NAME.fullmatch(str(value)) is not None, "a host's name or address"),
    (r"deploy_(canary|batch)", is_share, "a number of hosts from 1, or a share such as 25%"),
    (r"verify_report", lambda value: Path(value).expanduser().parent.is_dir(), "a file in a folder that exists here"),
)


def rule_fault(name: str, kind: str, given: Any, right: Any) -> str:
    """Return what is wrong with a value, as it was given and as its type reads it; '' when nothing is."""
    if name not in PROSE and any(CONTROL.search(text) for text in texts(given)):
        return "it has a line break or another control character; write it in one line"
    if isinstance(given, str) and kind in SPELLINGS and not re.fullmatch(SPELLINGS[kind], given):
        return f"{shown(given)} is not of type {kind}"
    # Ansible replaces ~ and variables in a path that it checks, not in one that it uses.
    right = given if kind == "path" else right
    for pattern, rule, called in RULES:
        if re.fullmatch(pattern, name) and not rule(right):
            return f"{shown(right)} is not {called}"
    return ""


def shown(value: Any) -> str:
    """Return a value for a message; of a dictionary only the names, as what they hold may be secret."""
    return f"{{{', '.join(map(str, value))}}}" if isinstance(value, dict) else repr(value)

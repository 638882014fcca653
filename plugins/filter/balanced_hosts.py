"""Filters: where people and load balancers reach the hosts of a service, and which ones they do not reach."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.gpu_hosts.timm.plugins.module_utils.published import Address, socket_address
from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.options import default_of
from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.reach import reach

PORT = "inference_service_port"
LOCAL = ("local", "ansible.builtin.local")
# What may stand in a line of HAProxy's configuration.
PLAIN = re.compile(r"[A-Za-z0-9:][A-Za-z0-9.:_-]*")


def balanced_hosts(hosts: Iterable[str], variables: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return name, address and port of each host: deploy_address, else ansible_host, else the host's own name."""
    found = []
    for host in hosts:
        settings = variables[host]
        address = reach(host, settings)
        for word in (host, address):
            if not PLAIN.fullmatch(word):
                raise AnsibleFilterError(
                    f"A load balancer cannot have {word!r} as name or address of {host}: letters, digits and .:_- "
                    "only. Correct the inventory; deploy_address names another address."
                )
        port = int(settings.get(PORT, default_of(PORT)))
        found.append({"name": host, "address": address, "port": port})
    return found


def proxy_addresses(hosts: Iterable[str], variables: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the addresses of load balancers, as far as the inventory has addresses and not names."""
    found = []
    for host in hosts:
        with contextlib.suppress(ValueError):
            found.append(str(ipaddress.ip_address(str(variables[host].get("ansible_host") or host))))
    return found


def reached_at(settings: Mapping[str, Any], connection: str) -> str:
    """Return where people reach a host; nothing for the machine that the playbook runs on.

    A deploy_address counts there too.
    """
    local = connection in LOCAL and not settings.get("deploy_address")
    return "" if local else reach(settings["inventory_hostname"], settings)


def host_url(bind: str, port: int) -> str:
    """Return the URL by which a host reaches its own service."""
    return Address(bind, int(port)).url


def balancer_trouble(look: Mapping[str, Any], hosts: Iterable[Mapping[str, Any]]) -> str:
    """Return what is wrong with a load balancer, from the answer of module balancer_info."""
    places = {host["name"]: socket_address(host["address"], host["port"]) for host in hosts}
    down = [f"{name} ({places.get(name, 'unknown')}, {state})" for name, state in sorted(look["down"].items())]
    if down:
        return f"it does not reach {', '.join(down)}"
    return f"it does not answer: {look['reason']}"


class FilterModule:
    """Makes the filters known to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "balanced_hosts": balanced_hosts,
            "balancer_trouble": balancer_trouble,
            "host_url": host_url,
            "proxy_addresses": proxy_addresses,
            "reached_at": reached_at,
            "socket_address": socket_address,
        }

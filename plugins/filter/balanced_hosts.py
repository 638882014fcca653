"""Filters: where a load balancer reaches the hosts of a service, and which ones it does not reach."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

DEFAULT_PORT = 8000
# What may stand in a line of HAProxy's configuration.
PLAIN = re.compile(r"[A-Za-z0-9:][A-Za-z0-9.:_-]*")


def balanced_hosts(hosts: Iterable[str], variables: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return name, address and port of each host: deploy_address, else ansible_host, else the host's own name."""
    found = []
    for host in hosts:
        settings = variables[host]
        address = settings.get("deploy_address") or settings.get("ansible_host") or host
        for word in (host, address):
            if not PLAIN.fullmatch(str(word)):
                raise AnsibleFilterError(
                    f"A load balancer cannot have {word!r} as name or address of {host}: letters, digits and .:_- "
                    "only. Correct the inventory; deploy_address names another address."
                )
        port = int(settings.get("inference_service_port", DEFAULT_PORT))
        found.append({"name": host, "address": address, "port": port})
    return found


def proxy_addresses(hosts: Iterable[str], variables: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the addresses of load balancers, as far as the inventory has addresses and not names."""
    found = []
    for host in hosts:
        with contextlib.suppress(ValueError):
            found.append(str(ipaddress.ip_address(str(variables[host].get("ansible_host") or host))))
    return found


def socket_address(address: str, port: int) -> str:
    """Return an address with a port, as HAProxy and URLs write it."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


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
            "proxy_addresses": proxy_addresses,
            "socket_address": socket_address,
        }

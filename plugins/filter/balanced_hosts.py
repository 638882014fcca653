"""Filter: where a load balancer reaches the hosts of a service."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

DEFAULT_PORT = 8000


def balanced_hosts(hosts: Iterable[str], variables: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return name, address and port of each host: deploy_address, else ansible_host, else the host's own name."""
    found = []
    for host in hosts:
        settings = variables[host]
        address = settings.get("deploy_address") or settings.get("ansible_host") or host
        port = int(settings.get("inference_service_port", DEFAULT_PORT))
        found.append({"name": host, "address": address, "port": port})
    return found


class FilterModule:
    """Makes the filters known to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"balanced_hosts": balanced_hosts}

"""Where the gateway of a service really listens, and what answers there: read from Docker, never from variables."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.gpu_hosts.timm.plugins.module_utils.docker_host import LABEL_NAME, inspect_listed
from ansible_collections.gpu_hosts.timm.plugins.module_utils.http_client import UnreachableError, request

LABEL_COMPOSE_SERVICE = "com.docker.compose.service"
LABEL_COMPOSE_ONE_OFF = "com.docker.compose.oneoff"
GATEWAY = "gateway"
# How Docker writes "every address" when it is given none.
EVERYWHERE = str(ipaddress.IPv4Address(0))
LOOPBACK = "127.0.0.1"
# The port that a link need not name.
HTTP = 80


def bracketed(host: str) -> str:
    """Return a name or an address as it stands before a port."""
    return f"[{host}]" if ":" in host else host


def socket_address(host: str, port: int) -> str:
    """Return a name or an address with a port, as HAProxy and URLs write it."""
    return f"{bracketed(host)}:{port}"


@dataclass(frozen=True)
class Address:
    """An address of the host with a port."""

    ip: str
    port: int

    def __str__(self) -> str:
        return socket_address(self.ip, self.port)

    @property
    def link(self) -> str:
        """The address as people write it."""
        return f"http://{bracketed(self.ip)}" if self.port == HTTP else f"http://{self}"

    @property
    def everywhere(self) -> bool:
        """Whether this is the port on every address of the host."""
        return ipaddress.ip_address(self.ip).is_unspecified

    @property
    def url(self) -> str:
        """Where the host itself reaches it."""
        loopback = "::1" if ":" in self.ip else LOOPBACK
        return f"http://{Address(loopback, self.port) if self.everywhere else self}"

    def overlaps(self, other: Address) -> bool:
        """Return whether two listeners cannot have these addresses at the same time."""
        return self.port == other.port and (self.ip == other.ip or self.everywhere or other.everywhere)


@dataclass(frozen=True)
class Look:
    """What a service answers at the address that its gateway publishes; reason says why it does not.

    The url is for the host itself, usable for people: empty when only the host reaches it.
    """

    answers: bool = False
    url: str = ""
    address: str = ""
    port: int = 0
    release: str = ""
    model: str = ""
    version: str = ""
    device: str = ""
    reason: str = ""
    usable: str = ""


def published(inspected: dict[str, Any]) -> list[Address]:
    """Return the addresses of the host that a container publishes, or would if it ran."""
    bindings = inspected["HostConfig"].get("PortBindings") or {}
    return [
        Address(entry.get("HostIp") or EVERYWHERE, int(entry["HostPort"]))
        for entries in bindings.values()
        for entry in entries or []
        if entry.get("HostPort")
    ]


def gateways(service: str) -> list[dict[str, Any]]:
    """Return the inspections of the service's gateways; the one in charge comes first, then those that run."""
    filters = [f"label={LABEL_NAME}={service}", f"label={LABEL_COMPOSE_SERVICE}={GATEWAY}"]
    found = inspect_listed("--all", *(f"--filter={item}" for item in filters))
    lasting = [item for item in found if item["Config"]["Labels"].get(LABEL_COMPOSE_ONE_OFF) != "True"]
    return sorted(lasting, key=lambda item: (item["Name"] != f"/{service}-gateway", not item["State"]["Running"]))


def ask(address: Address, timeout: float = 10) -> Look:
    """Ask /health/ready at a published address."""
    silent = Look(url=address.url, address=address.ip, port=address.port)
    try:
        answer = request(f"{address.url}/health/ready", timeout=timeout)
    except UnreachableError as error:
        return replace(silent, reason=str(error))
    said = answer.json()
    said = said if isinstance(said, dict) else {}
    if answer.status != 200:
        return replace(
            silent, reason=f"{address.url} answers {answer.status}: {said.get('detail') or answer.excerpt()}"
        )
    return replace(
        silent,
        answers=True,
        release=answer.headers.get("x-release-id", ""),
        version=answer.headers.get("x-model-version", ""),
        model=str(said.get("model_name", "")),
        device=str(said.get("device", "")),
    )


def usable(address: Address, reached_at: str) -> str:
    """Return the URL that people use who reach the host at an address or name; '' when nobody but the host reaches it.

    Without reached_at the host is the machine that they sit at.
    """
    if not reached_at:
        return (replace(address, ip=LOOPBACK) if address.everywhere else address).link
    if address.everywhere:
        return replace(address, ip=reached_at).link
    return "" if ipaddress.ip_address(address.ip).is_loopback else address.link


def look(service: str, timeout: float = 10, reached_at: str = "") -> Look:
    """Find the service's gateway and ask at its address; raise DockerError when Docker cannot be asked."""
    found = gateways(service)
    if not found:
        return Look(reason=f"there is no gateway of {service}")
    addresses = [address for item in found if item["State"]["Running"] for address in published(item)]
    looks = [replace(ask(address, timeout), usable=usable(address, reached_at)) for address in addresses]
    if not looks:
        return Look(reason=f"{found[0]['Name'].lstrip('/')} is {found[0]['State']['Status']}")
    return next((one for one in looks if one.answers), looks[0])

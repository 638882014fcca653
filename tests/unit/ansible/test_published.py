"""What a service answers at its published address, against real HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from ansible_collections.gpu_hosts.timm.plugins.module_utils.published import (
    EVERYWHERE,
    Address,
    Look,
    ask,
    published,
    usable,
)
from tests.integration.support.playbooks import free_port

HOST = "127.0.0.1"
ROLE = Path(__file__).resolve().parents[3] / "roles" / "inference_service"


class Service(BaseHTTPRequestHandler):
    """Answers what the test says."""

    said: ClassVar[tuple[int, bytes, dict[str, str]]]

    def do_GET(self) -> None:
        status, body, headers = self.said if self.path == "/health/ready" else (404, b"", {})
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def address() -> Iterator[Address]:
    server = ThreadingHTTPServer((HOST, 0), Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Address(HOST, server.server_port)
    server.shutdown()
    server.server_close()


def test_a_release_that_is_ready_is_named(address: Address) -> None:
    headers = {"X-Release-ID": "0bda50cbdd81", "X-Model-Version": "B"}
    Service.said = 200, json.dumps({"model_name": "small"}).encode(), headers
    assert ask(address) == Look(True, address.url, HOST, address.port, "0bda50cbdd81", "small", "B")


@pytest.mark.parametrize(
    ("body", "reason"),
    [(b'{"detail": "No release is live."}', "503: No release is live."), (b"[1]", "503: [1]")],
)
def test_one_that_is_not_ready_gives_its_reason(address: Address, body: bytes, reason: str) -> None:
    Service.said = 503, body, {}
    found = ask(address)
    assert not found.answers
    assert found.reason == f"{address.url} answers {reason}"


def test_nobody_at_the_address_is_a_reason_too() -> None:
    found = ask(Address(HOST, free_port()))
    assert (found.answers, found.release) == (False, "")
    assert "refused" in found.reason


def test_addresses_are_read_from_what_docker_says() -> None:
    bindings = {"8080/tcp": [{"HostIp": HOST, "HostPort": "8000"}, {"HostIp": "", "HostPort": "81"}], "1/tcp": None}
    inspected = {"HostConfig": {"PortBindings": bindings}}
    assert [str(one) for one in published(inspected)] == ["127.0.0.1:8000", "0.0.0.0:81"]
    assert published({"HostConfig": {"PortBindings": None}}) == []


def test_every_address_is_asked_at_the_loopback() -> None:
    assert [Address(ip, 80).url for ip in (EVERYWHERE, "::", "10.0.0.1", "fd00::1")] == [
        "http://127.0.0.1:80",
        "http://[::1]:80",
        "http://10.0.0.1:80",
        "http://[fd00::1]:80",
    ]


def test_two_listeners_are_in_each_others_way_on_one_port() -> None:
    here, other, everywhere = Address(HOST, 80), Address("127.0.0.2", 80), Address(EVERYWHERE, 80)
    assert here.overlaps(everywhere)
    assert everywhere.overlaps(other)
    assert here.overlaps(Address(HOST, 80))
    assert not here.overlaps(other)
    assert not here.overlaps(Address(HOST, 81))


@pytest.mark.parametrize(
    ("ip", "reached_at", "url"),
    [
        (EVERYWHERE, "192.0.2.11", "http://192.0.2.11"),
        ("::", "fd00::11", "http://[fd00::11]"),
        (EVERYWHERE, "gpu-1", "http://gpu-1"),
        ("192.0.2.12", "192.0.2.11", "http://192.0.2.12"),
        (HOST, "192.0.2.11", ""),
        ("::1", "192.0.2.11", ""),
        (HOST, "", "http://127.0.0.1"),
        (EVERYWHERE, "", "http://127.0.0.1"),
    ],
)
def test_people_get_an_address_that_they_can_use(ip: str, reached_at: str, url: str) -> None:
    assert usable(Address(ip, 80), reached_at) == url


@pytest.mark.parametrize(
    ("bind", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        (EVERYWHERE, "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("::1", "http://[::1]:8000"),
        ("fd00::7", "http://[fd00::7]:8000"),
        ("10.0.0.7", "http://10.0.0.7:8000"),
    ],
)
def test_a_run_asks_the_service_at_the_address_that_it_was_given(bind: str, url: str) -> None:
    role = yaml.safe_load((ROLE / "vars" / "main.yml").read_text())
    variables = {"inference_service_bind": bind, "inference_service_port": 8000}
    templar = Templar(loader=DataLoader(), variables=variables)
    assert templar.template(trust_as_template(role["__inference_service_url"])) == url

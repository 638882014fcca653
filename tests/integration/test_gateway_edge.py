"""What the gateway itself does with odd, hostile and slow clients, before any of it reaches an instance."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from ansible_collections.gpu_hosts.timm.plugins.module_utils.haproxy_runtime import failures
from tests.integration.conftest import NAME
from tests.integration.support.edge import Edge
from tests.integration.support.playbooks import docker

EDGE = f"{NAME}-edge"
# Of one address.
CONNECTIONS = 20
HEADER_SECONDS = 2
# An instance that answers with the headers it got, or with the status that the path names.
INSTANCE = """
import http.server, json, socketserver
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({name.lower(): value for name, value in self.headers.items()}).encode()
        self.send_response(int(self.path[1:]) if self.path[1:].isdigit() else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
class Server(socketserver.ThreadingMixIn, http.server.HTTPServer): pass
Server(("", 8000), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory, images: dict[str, str]) -> Iterator[Edge]:
    image = images["gateway"]
    limits: dict[str, object] = {"gateway_client_connections": CONNECTIONS, "gateway_header_seconds": HEADER_SECONDS}
    made = Edge(tmp_path_factory.mktemp("edge"), EDGE, image, variables=limits)
    made.start(image, "python3", "-c", INSTANCE)
    yield made
    made.remove()


def say(edge: Edge, words: bytes) -> int:
    """Send bytes that need be no request, and return the status of the answer."""
    with socket.create_connection(edge.address, timeout=10) as connection:
        connection.sendall(words)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return int(answer.split()[1])


def log() -> list[dict[str, Any]]:
    lines = docker("logs", f"{EDGE}-gateway").splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def test_nobody_says_for_whom_a_request_is(edge: Edge) -> None:
    spoofed = {"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Host": "evil", "X-Forwarded-Proto": "https", "Forwarded": "a"}
    status, headers = edge.get("/", **spoofed)
    assert status == 200
    assert "6.6.6.6" not in headers["x-forwarded-for"]
    assert set(headers) & {"x-forwarded-host", "x-forwarded-proto", "forwarded"} == set()


def test_every_request_has_an_id_and_keeps_one_that_it_came_with(edge: Edge) -> None:
    assert edge.get("/")[1]["x-request-id"]
    assert edge.get("/", **{"X-Request-ID": "mine"})[1]["x-request-id"] == "mine"


@pytest.mark.parametrize("words", [b"NONSENSE\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n"])
def test_what_is_no_request_is_the_fault_of_its_client(edge: Edge, words: bytes) -> None:
    assert say(edge, words) == 400


def test_headers_that_do_not_end_are_a_timeout_of_the_client(edge: Edge) -> None:
    assert say(edge, b"GET / HTTP/1.1\r\nHost: a\r\n") == 408


def test_one_address_cannot_hold_all_connections(edge: Edge) -> None:
    held = [socket.create_connection(edge.address, timeout=10) for _ in range(CONNECTIONS * 2)]
    for connection in held:
        with contextlib.suppress(OSError):
            connection.sendall(b"GET / HTTP/1.1\r\n")
    refused = 0
    for connection in held:
        # Closed at once is refused; one that is held says nothing for as long as headers may take.
        connection.settimeout(0.05)
        with contextlib.suppress(TimeoutError):
            try:
                refused += connection.recv(1) == b""
            except ConnectionError:
                refused += 1
    # Another address is served meanwhile, and so are the gateway's own figures.
    other = docker(
        *("exec", f"{EDGE}-instance", "python3", "-c"),
        f"import urllib.request as u; print(u.urlopen('http://{EDGE}-gateway:8080/').status, "
        f"u.urlopen('http://{EDGE}-gateway:8404/metrics').status)",
    )
    for connection in held:
        connection.close()
    # The ends of connections take a moment to get through.
    edge.wait_until_served()
    assert other.split() == ["200", "200"]
    assert refused >= CONNECTIONS


def test_what_failed_is_in_the_log_with_the_client_and_what_went_well_is_not(edge: Edge) -> None:
    edge.get("/500", **{"X-Request-ID": 'quote"\u00e9'.encode("utf-8").decode("latin-1")})
    edge.get("/well")
    lines = log()
    failed = next(line for line in lines if line["path"] == "/500")
    assert failed["client"]
    assert failed["status"] == 500
    assert not [line for line in lines if line["path"] == "/well"]


def test_the_bake_counts_only_what_no_client_provokes(edge: Edge) -> None:
    admin_socket = edge.run / "admin.sock"
    before = failures(admin_socket, "bk_blue")
    for status in (400, 413, 500, 502, 503, 504):
        edge.get(f"/{status}")
    assert failures(admin_socket, "bk_blue") - before == 2

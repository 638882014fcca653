"""The service as a neighbor on the web: what every client may rely on, whatever it asks for."""

import base64
import hashlib
import re
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.unit.app.images.test_orientation import stored
from tests.unit.app.support import CAT, Server, raw_request, serve, wait_for

PREDICT = "/api/v1/predict"
# Every address that answers a GET.
PATHS = (
    "/", "/docs", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css", "/favicon.ico", "/favicon.svg", "/openapi.json",
    "/health", "/health/live", "/health/ready", "/metrics", "/api/v1/model/info", "/api/v1/model/classes",
)  # fmt: skip
MANNERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
}
FRIEND, STRANGER = "https://shop.example:8443", "https://other.example"


@pytest.fixture(scope="module")
def open_server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service that pages of one other origin may use, behind a proxy on this machine."""
    folder = tmp_path_factory.mktemp("open")
    origins, proxies = f"https://a.example, {FRIEND}", "127.0.0.0/8"
    with serve(
        folder, bundle_path=bundle, cors_origins=origins, trusted_proxies=proxies, orientation="ignore"
    ) as running:
        wait_for(running.ready)
        yield running


def conversation(server: Server, *pieces: bytes) -> bytes:
    """Everything the service says to what is sent piece by piece, until it closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        for piece in pieces:
            connection.sendall(piece)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_an_answer_comes_in_one_piece(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        for path in ("/health", "/docs") * 10:
            connection.sendall(b"GET %b HTTP/1.1\r\nHost: test\r\n\r\n" % path.encode())
            head, _, body = connection.recv(65536).partition(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            assert length
            assert len(body) == int(length[1])


def offering(request: bytes, protocol: bytes = b"h2c") -> bytes:
    """The request as curl --http2 and Java's client send it: with an offer to speak another protocol."""
    offer = (
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: %b\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n" % protocol
    )
    return request.replace(b"Content-Type:", offer + b"Content-Type:", 1)


CLOSING = b"GET /health HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket", b"TLS/1.0"])
def test_an_offer_of_another_protocol_is_overlooked_and_the_body_kept(server: Server, protocol: bytes) -> None:
    request = offering(raw_request(CAT.read_bytes()), protocol)
    for cut in (1, request.index(b"Upgrade"), request.index(b"\r\n\r\n") + 4, len(request) - 5, len(request)):
        # A second request on the same connection: nothing of the first is left over.
        said = conversation(server, request[:cut], request[cut:] + CLOSING)
        assert re.findall(rb"HTTP/1.1 (\d+)", said) == [b"200", b"200"], said
        assert b'"predicted_class":' in said
        assert said.endswith(b'{"status":"alive"}')


def test_an_offer_with_a_chunked_body_or_without_one_is_overlooked_too(server: Server) -> None:
    body = CAT.read_bytes()
    head = (
        b"POST /api/v1/predict HTTP/1.1\r\nHost: test\r\nContent-Type: image/jpeg\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    chunked = offering(head) + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:999], body[999:]))
    get = b"GET /health HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    said = conversation(server, get + get + chunked + b"0\r\n\r\n" + CLOSING)
    assert re.findall(rb"HTTP/1.1 (\d+)", said) == [b"200"] * 4, said
    assert said.count(b'"predicted_class":') == 1


@pytest.mark.parametrize("path", PATHS)
def test_head_answers_as_get_does_without_the_body(server: Server, path: str) -> None:
    with httpx.Client(base_url=server.url, timeout=20) as client:
        get, head = client.get(path), client.head(path)
        assert (head.status_code, head.content) == (200, b"")
        different = {"x-request-id", "date"}
        if path in ("/metrics", "/api/v1/model/info"):  # what they say changes with every request
            different.add("content-length")
        assert {name: value for name, value in head.headers.items() if name not in different} == {
            name: value for name, value in get.headers.items() if name not in different
        }
        # The connection is still in step.
        assert client.get("/health").json() == {"status": "alive"}


@pytest.mark.parametrize("path", [*PATHS[1:], PREDICT, "/api/v1/predict/batch"])
def test_a_slash_at_the_end_changes_nothing(server: Server, path: str) -> None:
    method = "POST" if "predict" in path else "GET"
    plain, slashed = (httpx.request(method, server.url + path + end, timeout=20) for end in ("", "/"))
    assert slashed.status_code == plain.status_code
    assert slashed.headers["content-type"] == plain.headers["content-type"]
    assert "location" not in slashed.headers


def test_other_methods_are_told_which_there_are(server: Server) -> None:
    assert httpx.delete(server.url + "/health/").headers["allow"] == "GET, HEAD"
    refused = httpx.head(server.url + PREDICT)
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("path", [*PATHS, "/docs/", PREDICT, PREDICT + "/", "/nowhere/"])
def test_nothing_of_a_foreign_host_or_scheme_comes_back(server: Server, path: str) -> None:
    headers = {"Host": "evil.example", "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "gopher"}
    answer = httpx.get(server.url + path, headers=headers)
    said = str(answer.headers) + answer.text
    assert "evil.example" not in said
    assert "gopher" not in answer.headers.get("location", "")
    assert not answer.is_redirect


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01 not http\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: test\r\nContent-Length: x\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: test\r\n\r\n",
        b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        offering(b"POST /api/v1/predict HTTP/1.1\r\nContent-Type: a\r\nTransfer-Encoding: chunked\r\n\r\n") + b"zz\r\n",
    ],
    ids=["not http", "bad length", "bad path", "connect", "http/2", "bad chunk"],
)
def test_what_cannot_be_parsed_gets_the_envelope_too(server: Server, sent: bytes) -> None:
    head, _, body = conversation(server, sent).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    headers = [(name, value) for name, _, value in (line.partition(b": ") for line in head.split(b"\r\n")[1:])]
    answer = httpx.Response(400, headers=headers, content=body)
    assert answer.json() == {
        "detail": "The request is not HTTP/1.1 that the service can read.", "code": "malformed_request",
    }  # fmt: skip
    assert answer.headers["connection"] == "close"
    assert answer.headers["x-request-id"]
    assert MANNERS.items() <= dict(answer.headers).items()


def test_every_answer_has_the_headers_that_browsers_heed(server: Server) -> None:
    for path in (*PATHS, "/nowhere", PREDICT):
        headers = httpx.get(server.url + path, headers={"accept": "text/html"}).headers
        assert MANNERS.items() <= dict(headers).items(), path
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert len(headers.get_list("content-security-policy")) == 1


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_page_needs_nothing_from_elsewhere_and_may_run_what_it_has(server: Server, path: str) -> None:
    page = httpx.get(server.url + path, headers={"accept": "text/html,*/*"})
    policy = page.headers["content-security-policy"]
    inline = re.findall(r"<(?:script|style)>(.*?)</(?:script|style)>", page.text, re.DOTALL)
    assert inline
    for text in inline:
        assert f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" in policy
    assert not re.search(r"(?:https?:)?//[a-z]", re.sub(r"\s// .*", "", page.text))
    assert " style=" not in page.text
    for address in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        asset = httpx.get(httpx.URL(server.url).join(address), headers={"accept": "*/*"})
        assert (address, asset.status_code) == (address, 200)


def test_the_documentation_is_swagger_ui_from_the_image(server: Server) -> None:
    script, style = (server.get(f"/docs/swagger-ui{end}") for end in ("-bundle.js", ".css"))
    assert (script.headers["content-type"], style.headers["content-type"]) == (
        "text/javascript; charset=utf-8", "text/css; charset=utf-8",
    )  # fmt: skip
    assert "SwaggerUIBundle" in script.text
    assert ".swagger-ui" in style.text
    assert server.get("/favicon.ico").headers["content-type"] == "image/svg+xml"
    assert server.get("/redoc").status_code == 404


OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
TEXT = "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("*/*", TEXT),
        ("", TEXT),
        ("text/html,application/xhtml+xml,*/*;q=0.8", TEXT),
        # Telegraf
        ("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.7,"
         "text/plain;version=0.0.4;q=0.3", TEXT),
        ("text/plain;version=0.0.4;q=1,application/openmetrics-text;q=0.1", TEXT),
        ("application/openmetrics-text;q=0,text/plain", TEXT),
        ("application/openmetrics-text;q=x", TEXT),
        # Prometheus 2 and 3
        ("application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
         "text/plain;version=0.0.4;q=0.5,*/*;q=0.1", OPENMETRICS),
        ("application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
         "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,"
         "text/plain;version=0.0.4;q=0.2,/;q=0.1", OPENMETRICS),
        ("APPLICATION/OpenMetrics-Text", OPENMETRICS),
    ],
)  # fmt: skip
def test_metrics_come_in_the_format_that_was_asked_for(server: Server, accept: str, content_type: str) -> None:
    answer = httpx.get(server.url + "/metrics", headers={"accept": accept})
    assert (answer.headers["content-type"], answer.headers["vary"]) == (content_type, "Accept")
    assert answer.text.endswith("# EOF\n") == (content_type == OPENMETRICS)
    assert re.search(r"^inference_predictions_total \d", answer.text, re.MULTILINE)
    assert "_created" not in answer.text


def test_a_page_of_an_origin_that_is_named_may_read_the_answers(open_server: Server) -> None:
    for path, status in (("/health", 200), ("/nowhere", 404), (PREDICT, 405)):
        answer = httpx.get(open_server.url + path, headers={"origin": FRIEND})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, FRIEND)
        assert "X-Request-ID" in answer.headers["access-control-expose-headers"]
    for headers in ({}, {"origin": STRANGER}, {"origin": "null"}):
        answer = httpx.get(open_server.url + "/health", headers=headers)
        assert "access-control-allow-origin" not in answer.headers
        assert answer.headers["vary"] == "Origin"
    sent = open_server.post(files={"file": ("cat.jpg", CAT.read_bytes(), "image/jpeg")}, headers={"origin": FRIEND})
    assert (sent.status_code, sent.headers["access-control-allow-origin"]) == (200, FRIEND)


def test_a_browser_that_asks_first_is_told(open_server: Server, server: Server) -> None:
    def ask(origin: str, whom: Server = open_server) -> httpx.Response:
        headers = {"origin": origin, "access-control-request-method": "POST"}
        return httpx.options(whom.url + PREDICT, headers=headers)

    allowed = ask(FRIEND)
    assert (allowed.status_code, allowed.content) == (204, b"")
    assert allowed.headers["access-control-allow-origin"] == FRIEND
    assert "POST" in allowed.headers["access-control-allow-methods"]
    refused = ask(STRANGER)
    assert (refused.status_code, refused.json()["code"]) == (403, "origin_not_allowed")
    assert "access-control-allow-origin" not in refused.headers
    # Without the setting nothing is said of origins.
    assert ask(FRIEND, server).status_code == 405
    assert not [name for name in httpx.get(server.url, headers={"origin": FRIEND}).headers if "allow-origin" in name]


def test_the_log_has_the_clients_address_that_only_a_trusted_proxy_may_say(open_server: Server, server: Server) -> None:
    def logged(whom: Server, *forwarded: str) -> object:
        headers = [("X-Forwarded-For", value) for value in forwarded]
        request_id = httpx.get(whom.url + "/", headers=headers).headers["x-request-id"]
        wait_for(lambda: any(line.get("request_id") == request_id for line in whom.lines()))
        return next(line["client"] for line in whom.lines() if line.get("request_id") == request_id)

    assert logged(open_server) == "127.0.0.1"
    assert logged(open_server, "198.51.100.7") == "198.51.100.7"
    # What a client says for itself comes before what its proxy says of it.
    assert logged(open_server, "203.0.113.9, 198.51.100.7") == "198.51.100.7"
    assert logged(open_server, "203.0.113.9", "2001:db8::7") == "2001:db8::7"
    assert logged(open_server, "203.0.113.9, unknown") == "127.0.0.1"
    assert logged(server, "198.51.100.7") == "127.0.0.1"


def test_the_answer_says_whether_a_picture_was_turned(open_server: Server, server: Server) -> None:
    content = stored(Image.open(CAT), 6, "JPEG")
    for whom, applied in ((server, True), (open_server, False)):
        about = whom.post(content=content, headers={"content-type": "image/jpeg"}).json()["image_metadata"]
        assert (about["orientation"], about["orientation_applied"]) == (6, applied)
        assert (about["original_width"], about["original_height"]) == (300, 451)


def test_pythons_own_client_and_a_plain_old_one_get_the_same_answer(server: Server) -> None:
    body = CAT.read_bytes()
    expected = server.post(content=body, headers={"content-type": "image/jpeg"}).json()["top_5_predictions"]
    request = urllib.request.Request(server.url + PREDICT, body, {"Content-Type": "image/jpeg"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert httpx.Response(200, content=answer.read()).json()["top_5_predictions"] == expected
    said = conversation(server, raw_request(body).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
    assert httpx.Response(200, content=said.partition(b"\r\n\r\n")[2]).json()["top_5_predictions"] == expected

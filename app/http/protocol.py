"""HTTP/1.1 as the service speaks it: deaf to offers of another protocol, with errors in the service's own envelope."""

import asyncio
import json
import logging
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.http.headers import NO_PAGE, marks, new_request_id
from app.inference.service import Service

log = logging.getLogger("app.access")

_DETAIL = "The request is not HTTP/1.1 that the service can read."


class _Joining:
    """A transport that sends the head of an answer together with the body behind it.

    uvicorn writes them one after the other: the first would wake a client that has to wait for the second.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        """Everything else is the transport's own."""
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write, or keep a head until the body comes; without one it leaves before the event loop waits."""
        if not self._head and data.startswith(b"HTTP/"):
            self._head = data
            asyncio.get_running_loop().call_soon(self._flush)
        else:
            head, self._head = self._head, b""
            self._transport.write(head + data)

    def close(self) -> None:
        """Close, after what was written."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head and not self._transport.is_closing():
            self._transport.write(self._head)
        self._head = b""


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol, which answers a request that offers another one (`Upgrade: h2c`) as if it had not.

    The parser takes every offer for accepted and leaves what follows the head, the body, to the other protocol. So the
    head is given to a new parser without its offer, and the body follows.
    """

    _offered = False

    def connection_made(self, transport: Any) -> None:
        """Take a connection."""
        joining: Any = _Joining(transport)
        super().connection_made(joining)

    def data_received(self, data: bytes) -> None:
        """Parse what arrived."""
        self._unset_keepalive_if_required()
        try:
            while data:
                data = self._parse(data)
        except httptools.HttpParserError:
            self.send_400_response(_DETAIL)

    def on_headers_complete(self) -> None:
        """Begin to answer, unless the head has to be read again."""
        self._offered = self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        if not self._offered:
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Note the end of the body, which is not yet the end of a head that has to be read again."""
        if not self._offered:
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be parsed, and close the connection."""
        service: Service = self.app_state["service"]
        request_id = new_request_id()
        service.metrics.errors.labels("malformed_request").inc()
        log.info("request", extra={"status": 400, "client": (self.client or ("",))[0], "request_id": request_id})
        body = json.dumps({"detail": msg, "code": "malformed_request"}).encode()
        headers = [
            *marks(service, request_id),
            NO_PAGE,
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        lines = (name + b": " + value + b"\r\n" for name, value in headers)
        self.transport.write(b"".join((STATUS_LINE[400], *lines, b"\r\n", body)))
        self.transport.close()

    def _parse(self, data: bytes) -> bytes:
        """Parse data, and return what is to be parsed after it."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            if self._offered:
                head = self._head_without_offer()
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                return head + data[offer.args[0] :]
        return b""

    def _head_without_offer(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/" + version]
        lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join((*lines, b"", b""))

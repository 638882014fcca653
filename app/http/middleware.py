"""What every request gets: an id, the common headers, metrics, an access log line, and an answer whatever happens."""

import functools
import ipaddress
import json
import logging
import re
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http.cors import Cors
from app.http.headers import NO_PAGE, RawHeaders, marks, new_request_id
from app.inference.service import Service

log = logging.getLogger("app.access")

# Asked for all the time by machines; a drain does not wait for them, and the log hides them.
_PROBES = ("/health", "/health/live", "/health/ready", "/metrics")
_METHODS = ("GET", "POST", "HEAD", "OPTIONS")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class Exchange:
    """The outermost layer around the routes."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service
        self._cors = Cors(service.settings.cors_origins or frozenset())
        self._proxies = service.settings.trusted_proxies or ()
        # There are few of them, and looking one up takes longer than counting.
        self._requests = functools.cache(service.metrics.requests.labels)
        self._durations = functools.cache(service.metrics.request_duration.labels)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = Headers(scope=scope)
        request_id = headers.get("x-request-id", "")
        if not _REQUEST_ID.fullmatch(request_id):
            request_id = new_request_id()
        client = self._client(scope, headers)
        scope.setdefault("state", {})["client"] = client
        asked = _as_routed(scope)
        status = 0

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": self._marked(message, request_id, headers)}
            await send(message)

        probe = asked["path"] in _PROBES
        lifecycle = self._service.lifecycle
        if not probe:
            lifecycle.request_started()
        try:
            answering = self._cors.preflight(scope["method"], headers) or self._app
            await answering(asked, receive, send_marked)
        except Exception:  # a defect of ours: the client still gets the envelope, the log the traceback
            log.exception("The request failed", extra={"request_id": request_id, "path": scope["path"]})
            self._service.metrics.errors.labels("internal_error").inc()
            if not status:
                await _answer_internal_error(send_marked)
        finally:
            if not probe:
                lifecycle.request_ended()
            seconds = time.perf_counter() - started
            route = getattr(asked.get("route"), "path", "unmatched")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._requests(method, route, status).inc()
            self._durations(route).observe(seconds)
            level = logging.DEBUG if probe else logging.INFO
            if log.isEnabledFor(level):
                details = {
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                    "duration_ms": round(seconds * 1000, 3),
                    "client": client,
                    "request_id": request_id,
                }
                log.log(level, "request", extra=details)

    def _marked(self, message: Message, request_id: str, asked: Headers) -> RawHeaders:
        headers: RawHeaders = [*message.get("headers", ()), *marks(self._service, request_id), *self._cors.marks(asked)]
        if NO_PAGE[0] not in dict(headers):
            headers.append(NO_PAGE)
        return headers

    def _client(self, scope: Scope, headers: Headers) -> str:
        """The client's address: a trusted proxy's word for it is the last one, whatever the client said before."""
        peer: str = (scope.get("client") or ("",))[0]
        if not self._proxies or not (forwarded := headers.getlist("x-forwarded-for")):
            return peer
        try:
            if any(ipaddress.ip_address(peer) in network for network in self._proxies):
                return str(ipaddress.ip_address(forwarded[-1].rpartition(",")[2].strip()))
        except ValueError:
            log.debug("A trusted proxy names no address", extra={"client": peer})
        return peer


def _as_routed(scope: Scope) -> Scope:
    """The request as the routes know it: HEAD is a GET whose body the server leaves out, a slash at the end is none."""
    path, method = scope["path"], scope["method"]
    if method != "HEAD" and (path == "/" or not path.endswith("/")):
        return scope
    return {**scope, "path": path.removesuffix("/") or "/", "method": "GET" if method == "HEAD" else method}


async def _answer_internal_error(send: Send) -> None:
    body = json.dumps(
        {"detail": "The service failed on this request; its log has the reason.", "code": "internal_error"}
    )
    await send({"type": "http.response.start", "status": 500, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body.encode()})

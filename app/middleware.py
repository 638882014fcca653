"""What every request gets: an id, the version headers, metrics, an access log line, and an answer whatever happens."""

import json
import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import __version__
from app.lifecycle import State
from app.service import Service

log = logging.getLogger("app.access")

# Asked for all the time by machines; a drain does not wait for them, and the log hides them.
_PROBES = ("/health", "/health/live", "/health/ready", "/metrics")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class Exchange:
    """The outermost layer around the routes."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        asked = Headers(scope=scope).get("x-request-id", "")
        request_id = asked if _REQUEST_ID.fullmatch(asked) else uuid.uuid4().hex
        status = 0

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._mark(MutableHeaders(scope=message), request_id)
            await send(message)

        probe = scope["path"] in _PROBES
        lifecycle = self._service.lifecycle
        if not probe:
            lifecycle.request_started()
        try:
            await self._app(scope, receive, send_marked)
        except Exception:  # a defect of ours: the client still gets the envelope, the log the traceback
            log.exception("The request failed", extra={"request_id": request_id, "path": scope["path"]})
            self._service.metrics.errors.labels("internal_error").inc()
            if not status:
                await _answer_internal_error(send_marked)
        finally:
            if not probe:
                lifecycle.request_ended()
            self._record(scope, status, time.perf_counter() - started, request_id, probe=probe)

    def _mark(self, headers: MutableHeaders, request_id: str) -> None:
        service = self._service
        headers["X-API-Version"] = __version__
        headers["X-Model-Version"] = service.model.version if service.model else "unknown"
        headers["X-Request-ID"] = request_id
        if service.settings.release_id:
            headers["X-Release-ID"] = service.settings.release_id
        if service.lifecycle.state is State.DRAINING:
            # So that pooled connections move to another instance.
            headers["Connection"] = "close"

    def _record(self, scope: Scope, status: int, seconds: float, request_id: str, *, probe: bool) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        method = scope["method"] if scope["method"] in ("GET", "POST", "HEAD", "OPTIONS") else "other"
        self._service.metrics.requests.labels(method, route, str(status)).inc()
        self._service.metrics.request_duration.labels(route).observe(seconds)
        log.log(
            logging.DEBUG if probe else logging.INFO,
            "request",
            extra={
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "duration_ms": round(seconds * 1000, 3),
                "request_id": request_id,
            },
        )


async def _answer_internal_error(send: Send) -> None:
    body = json.dumps(
        {"detail": "The service failed on this request; its log has the reason.", "code": "internal_error"}
    )
    await send({"type": "http.response.start", "status": 500, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body.encode()})

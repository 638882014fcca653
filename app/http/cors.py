"""Which pages of other origins may read the answers, as browsers ask for it."""

from fastapi import Response
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers

from app.errors import ServiceError
from app.http.headers import RawHeaders

EVERY_ORIGIN = "*"
# What a page may read beside the body; the rest of an answer's head is the browser's own.
_EXPOSED = b"Retry-After, X-API-Version, X-Model-Version, X-Release-ID, X-Request-ID"


class Cors:
    """The origins that may; none, and nothing is said of them."""

    def __init__(self, origins: frozenset[str]) -> None:
        self._origins = origins

    def marks(self, asked: Headers) -> RawHeaders:
        """What the head of an answer has for the page that asked."""
        if not self._origins:
            return []
        if EVERY_ORIGIN in self._origins:
            return [(b"access-control-allow-origin", b"*"), (b"access-control-expose-headers", _EXPOSED)]
        # A cache must not give one page what was allowed to another.
        headers = [(b"vary", b"Origin")]
        if (origin := asked.get("origin", "")) in self._origins:
            headers += [
                (b"access-control-allow-origin", origin.encode("latin-1")),
                (b"access-control-expose-headers", _EXPOSED),
            ]
        return headers

    def preflight(self, method: str, asked: Headers) -> Response | None:
        """The answer to a browser that asks before it sends, nothing for any other request."""
        if not self._origins or method != "OPTIONS" or "access-control-request-method" not in asked:
            return None
        if not self._origins & {EVERY_ORIGIN, asked.get("origin", "")}:
            error = ServiceError("origin_not_allowed", "API_CORS_ORIGINS does not have the origin of this page.")
            return JSONResponse({"detail": error.detail, "code": error.code}, error.status)
        allowed = {
            "Access-Control-Allow-Methods": "GET, HEAD, POST",
            "Access-Control-Allow-Headers": "*, Authorization",
            "Access-Control-Max-Age": "600",
        }
        return Response(status_code=204, headers=allowed)

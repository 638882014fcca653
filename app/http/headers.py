"""What the head of every answer has."""

import secrets

from app import __version__
from app.inference.service import Service
from app.process.lifecycle import State

RawHeaders = list[tuple[bytes, bytes]]

# For answers that are no page: a browser that is led to one runs nothing of it, guesses nothing, and frames nothing.
NO_PAGE = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
_ALWAYS = [
    (b"x-api-version", __version__.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
]


def new_request_id() -> str:
    """An id for a request that brought none."""
    return secrets.token_hex(16)


def marks(service: Service, request_id: str) -> RawHeaders:
    """What every answer's head has."""
    version = service.model.version if service.model else "unknown"
    headers = [
        *_ALWAYS,
        (b"x-model-version", version.encode("latin-1", "replace")),
        (b"x-request-id", request_id.encode()),
    ]
    if service.settings.release_id:
        headers.append((b"x-release-id", service.settings.release_id.encode("latin-1", "replace")))
    if service.lifecycle.state is State.DRAINING or service.part.crowded:
        # So that pooled connections move to another instance, or another process.
        headers.append((b"connection", b"close"))
    return headers

"""The application: routes, error envelope and lifetime, wired together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from app import __version__
from app import settings as settings_module
from app.errors import ServiceError
from app.http.middleware import Exchange
from app.http.routes import health, model, pages, predict
from app.inference.part import Part
from app.inference.service import Service
from app.process import logs
from app.settings import Settings
from app.start.loader import Loader

_HTTP_CODES = {404: "not_found", 405: "method_not_allowed"}


def create_app(settings: Settings | None = None, loading: Loader | None = None, part: Part | None = None) -> FastAPI:
    """Build the application; without settings it reads them, and sets up logging, itself (`uvicorn --factory`)."""
    if settings is None:
        settings = settings_module.load()
        logs.configure(settings.log_level, settings.log_dir)
    service = Service(settings, loading or Loader(settings), part)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Service]]:
        service.start()
        # What a connection knows of it before there is a request.
        yield {"service": service}
        service.stop()

    app = FastAPI(
        title="Image classification",
        version=__version__,
        description='Classifies images with one timm model. Every error is `{"detail", "code"}`.',
        lifespan=lifespan,
        # A redirect would name a host and a scheme, of which the service knows nothing; both spellings have an answer.
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        # Nothing here exports it, and every request would look for who does.
        telemetry={"tracing": False, "metrics": False, "logs": False},
        # Looked through in this order. Those of an included router would be looked for twice: its own, then the route.
        routes=[route for module in (predict, health, model, pages) for route in module.router.routes],
    )
    app.state.service = service
    app.add_middleware(Exchange, service=service)
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(HTTPException, _http_error)
    return app


def _envelope(request: Request, status: int, code: str, detail: str, headers: dict[str, str]) -> JSONResponse:
    service: Service = request.app.state.service
    service.metrics.errors.labels(code).inc()
    return JSONResponse({"detail": detail, "code": code}, status, headers)


async def _service_error(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, ServiceError):
        raise error
    headers = {"Retry-After": str(error.retry_after)} if error.status in (429, 503) else {}
    if error.status == 408:
        # The rest of the body would be taken for the next request's wait.
        headers["Connection"] = "close"
    return _envelope(request, error.status, error.code, error.detail, headers)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        raise error
    code = _HTTP_CODES.get(error.status_code, "invalid_request")
    detail = f"{request.method} {request.url.path}: {error.detail}."
    headers = dict(error.headers or {})
    if "GET" in headers.get("Allow", "").split(", "):
        headers["Allow"] += ", HEAD"
    return _envelope(request, error.status_code, code, detail, headers)

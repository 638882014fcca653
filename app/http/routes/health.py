"""Health: whether the process answers, and whether it takes requests."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from app.http.schemas import ErrorAnswer, Live, Ready, Unready
from app.inference.service import Service
from app.process.lifecycle import State

router = APIRouter(tags=["health"])


@router.get("/health", response_model=Live, responses={503: {"model": ErrorAnswer}})
@router.get("/health/live", response_model=Live, responses={503: {"model": ErrorAnswer}})
async def live(request: Request) -> Response:
    """Say that the process answers; 503 once its device is lost and only a restart can help."""
    lifecycle = _service(request).lifecycle
    if lifecycle.alive:
        return JSONResponse({"status": "alive"})
    return JSONResponse({"status": str(lifecycle.state), "detail": lifecycle.detail, "code": lifecycle.code}, 503)


@router.get("/health/ready", response_model=Ready, responses={503: {"model": Unready}})
async def ready(request: Request) -> Response:
    """Say whether requests are welcome, or why not."""
    service = _service(request)
    lifecycle, model = service.lifecycle, service.model
    overdue = service.overdue
    if lifecycle.state is State.READY and model and not overdue:
        return JSONResponse(Ready(status="ready", model_loaded=True, **model.describe()).model_dump())
    reason, code, detail = str(lifecycle.state), lifecycle.code, lifecycle.detail
    if lifecycle.state is State.READY:
        threads = "1 thread works" if overdue == 1 else f"{overdue} threads work"
        reason, code, detail = "overdue", "overdue", f"{threads} on an image or a batch past the deadline."
    return JSONResponse(
        {"status": reason, "model_loaded": model is not None, "detail": detail, "code": code},
        503,
        {"Retry-After": "1"},
    )


@router.get("/metrics", include_in_schema=False)
async def metrics(request: Request) -> Response:
    """Show the metrics in the format the client would rather have."""
    content, content_type = _service(request).metrics.exposition(request.headers.get("accept", ""))
    return Response(content, headers={"Content-Type": content_type, "Vary": "Accept"})


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service

"""The model: what it is and which classes it knows."""

from fastapi import APIRouter, Request

from app.http.schemas import BundleInfo, Classes, ClassName, ErrorAnswer, ModelDetails
from app.inference.service import Service

router = APIRouter(prefix="/api/v1/model", tags=["model"], responses={503: {"model": ErrorAnswer}})


@router.get("/info")
async def info(request: Request) -> ModelDetails:
    """Describe the model that answers."""
    service: Service = request.app.state.service
    model = service.loaded()
    return ModelDetails(
        **model.describe(),
        is_loaded=True,
        class_names=list(model.labels),
        performance_metrics=model.metrics,
        speed_metrics=service.speed(),
        bundle=BundleInfo(name=model.name, version=model.version, sha256=model.sha256),
        release=service.settings.release_id,
    )


@router.get("/classes")
async def classes(request: Request) -> Classes:
    """List the classes in class order."""
    service: Service = request.app.state.service
    labels = service.loaded().labels
    return Classes(
        num_classes=len(labels), classes=[ClassName(id=index, name=name) for index, name in enumerate(labels)]
    )

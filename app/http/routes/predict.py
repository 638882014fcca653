"""Predictions: one image, or several in one request."""

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from pydantic import RootModel
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from app.errors import ServiceError
from app.http import uploads
from app.http.schemas import AnyPrediction, ErrorAnswer, FileError
from app.inference.service import Service

if TYPE_CHECKING:
    from app.images.decoder import Picture


class PlainRoute(APIRoute):
    """A route whose function takes the request and gives the response, without a look for anything else to inject."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the function itself, unless the method is another one."""
        if scope["method"] not in (self.methods or ()):
            await super().handle(scope, receive, send)
            return
        response: Response = await self.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)


router = APIRouter(prefix="/api/v1", tags=["predict"], route_class=PlainRoute)

# Refusals that concern the whole service, not one file of a batch.
_GENERAL = (429, 499, 500, 503, 504)
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer} for status in (400, 408, 413, 422, 429, 503, 504)
}


class Answers(RootModel[list[AnyPrediction | FileError]]):
    """The answers of a batch, in the order of its files."""


def _form(field: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"schema": {"type": "object", "required": [field], "properties": {field: schema}}}


_FILE = {"type": "string", "format": "binary"}


@router.post(
    "/predict",
    response_model=AnyPrediction,
    responses=_ERRORS,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"multipart/form-data": _form("file", _FILE), "image/*": {"schema": _FILE}},
        }
    },
)
async def predict(request: Request) -> Response:
    """Classify one image, sent as the form field `file` or as the body itself."""
    service: Service = request.app.state.service
    client: str = request.state.client

    async def work() -> AnyPrediction:
        service.loaded()
        # Refused before the body is read, but admitted after: a slow upload takes nobody's place.
        service.admission.check(client=client)
        with service.bodies.loan() as loan:
            upload = await _uploaded(service, uploads.read_file(request, loan, service.settings.max_upload_bytes))
            picture = await service.appraise(upload)
            with service.admission.admit([picture.cost.seconds], client):
                return await _in_time(service, _while_connected(request, service.classify(upload, picture)))

    return _json(await work())


@router.post(
    "/predict/batch",
    response_model=Answers,
    responses=_ERRORS,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"multipart/form-data": _form("files", {"type": "array", "items": _FILE})},
        }
    },
)
async def predict_batch(request: Request) -> Response:
    """Classify several images, sent as form fields named `files`; a bad file gets an error in its place."""
    service: Service = request.app.state.service
    client: str = request.state.client
    limits = service.settings

    async def appraise(files: list[uploads.Upload]) -> "list[Picture | FileError]":
        found: list[Picture | FileError] = []
        work = 0
        for upload in files:
            # Others get their turn between two images.
            await asyncio.sleep(0)
            try:
                uploads.check_length(upload, limits.max_upload_bytes)
                picture = await service.appraise(upload)
                service.check_together(work + picture.cost.work)
            except ServiceError as error:
                found.append(refused(upload, error))
            else:
                found.append(picture)
                work += picture.cost.work
        return found

    def refused(upload: uploads.Upload, error: ServiceError) -> FileError:
        if error.status in _GENERAL:
            raise error
        service.metrics.errors.labels(error.code).inc()
        return FileError(filename=upload.filename, detail=error.detail, code=error.code)

    async def classify(upload: uploads.Upload, picture: "Picture | FileError") -> AnyPrediction | FileError:
        if isinstance(picture, FileError):
            return picture
        try:
            return await service.classify(upload, picture)
        except ServiceError as error:
            return refused(upload, error)

    async def work() -> Answers:
        service.loaded()
        service.admission.check(client=client)
        with service.bodies.loan() as loan:
            reading = uploads.read_files(request, loan, limits.max_batch_bytes, limits.max_files)
            files = await _uploaded(service, reading)
            pictures = await appraise(files)
            works = [picture.cost.seconds for picture in pictures if not isinstance(picture, FileError)]
            with service.admission.admit(works, client):
                classifying = _all([classify(*pair) for pair in zip(files, pictures, strict=True)])
                return Answers(await _in_time(service, _while_connected(request, classifying)))

    return _json(await work())


async def _all[T](works: list[Coroutine[Any, Any, T]]) -> list[T]:
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        # One general failure ends the others instead of leaving them behind. And none stays here: an error knows this
        # frame, and a task its error, which would keep the uploads until the garbage collector comes by.
        while tasks:
            tasks.pop().cancel()


async def _uploaded[T](service: Service, reading: Awaitable[T]) -> T:
    """What a body brings, in the time that a body has: a slow one is its client's affair."""
    return await _within(service.settings.upload_timeout_seconds, reading, "upload_timeout", "upload")


async def _in_time[T](service: Service, work: Awaitable[T]) -> T:
    """What becomes of a body that is whole, in the time that the service has."""
    return await _within(service.settings.request_timeout_seconds, work, "deadline_exceeded", "request")


async def _within[T](seconds: float, work: Awaitable[T], code: str, what: str) -> T:
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        raise ServiceError(code, f"The {what} took longer than {seconds:g} seconds.") from None
    except ClientDisconnect:
        raise _left() from None


def _left() -> ServiceError:
    return ServiceError("client_closed_request", "The client closed the connection.")


async def _while_connected[T](request: Request, work: Awaitable[T]) -> T:
    """Wait for the work, but give it up when the client goes away, so that nobody waits behind a lost request."""
    task, waiting, left = asyncio.current_task(), True, False

    def give_up(_: object) -> None:
        nonlocal left
        if waiting and task:
            left = task.cancel()

    leaving = asyncio.ensure_future(request.receive())
    leaving.add_done_callback(give_up)
    try:
        return await work
    except asyncio.CancelledError:
        if left and task:
            task.uncancel()
            raise ClientDisconnect from None
        raise
    finally:
        waiting = False
        leaving.cancel()


def _json(answer: AnyPrediction | Answers) -> Response:
    return Response(answer.model_dump_json(), media_type="application/json")

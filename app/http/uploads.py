"""Uploads: request bodies read up to a limit and cut into files without copying them through disk."""

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import Request
from starlette.requests import ClientDisconnect

from app.errors import ServiceError
from app.http import multipart
from app.http.bodies import FIRST, Loan
from app.http.multipart import Form, MalformedError

# What multipart puts around a file: boundaries and part headers.
MULTIPART_ALLOWANCE = 16_384


@dataclass(frozen=True, slots=True)
class Upload:
    """One file as the client sent it; whatever type it declared, the bytes decide."""

    content: bytes
    filename: str | None


async def read_file(request: Request, loan: Loan, max_bytes: int) -> Upload:
    """The one file of a request: the multipart field `file`, or else the body itself."""
    content_type = _content_type(request)
    if content_type == "multipart/form-data":
        files = await _fields(request, loan, max_bytes + MULTIPART_ALLOWANCE, max_bytes, "file", 1)
        if not files:
            raise ServiceError("missing_file", "The form has no field named `file` with an image.")
        upload = files[0]
    else:
        chunks: list[bytes] = []
        await _read(request, loan, max_bytes, max_bytes, chunks.append)
        upload = Upload(b"".join(chunks), None)
        if not upload.content and not content_type.startswith("image/"):
            raise ServiceError(
                "missing_file", "No image was sent: send a form with the field `file`, or an image body."
            )
    check_length(upload, max_bytes)
    return upload


async def read_files(request: Request, loan: Loan, max_bytes: int, max_files: int) -> list[Upload]:
    """The files of a batch request, in order: every multipart field named `files`."""
    if _content_type(request) != "multipart/form-data":
        raise ServiceError("missing_file", "A batch is a multipart form with one field named `files` per image.")
    files = await _fields(request, loan, max_bytes, max_bytes, "files", max_files)
    if not files:
        raise ServiceError("missing_file", "The form has no field named `files` with an image.")
    if len(files) > max_files:
        raise ServiceError(
            "too_many_files", f"The form has {len(files)} files; the most in one request is {max_files}."
        )
    return files


def check_length(upload: Upload, max_bytes: int) -> None:
    """Refuse a file above the limit."""
    if len(upload.content) > max_bytes:
        raise _too_large(max_bytes)


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _too_large(limit: int) -> ServiceError:
    return ServiceError("body_too_large", f"The upload is larger than {limit} bytes; send a smaller image.")


async def _read(request: Request, loan: Loan, max_bytes: int, said_limit: int, take: Callable[[bytes], object]) -> None:
    """Hand over the body's chunks, counted as they arrive: a length may be undeclared or untrue."""
    declared = request.headers.get("content-length", "")
    # What is said to come is no reason to keep others out of its place; what has come is.
    most = int(declared) if declared.isdecimal() else max_bytes
    if most > max_bytes:
        raise _too_large(said_limit)
    size = 0
    loan.reserve(min(FIRST, most), most)
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk: bytes = message.get("body", b"")
        more = message.get("more_body", False)
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(said_limit)
        loan.reserve(size, most)
        take(chunk)


async def _fields(request: Request, loan: Loan, max_bytes: int, said_limit: int, name: str, files: int) -> list[Upload]:
    try:
        form = Form(multipart.boundary_of(request.headers["content-type"]), files + multipart.MAX_FIELDS)
        await _read(request, loan, max_bytes, said_limit, form.feed)
        parts = form.finish()
    except MalformedError as error:
        raise ServiceError("malformed_multipart", f"The multipart body cannot be read: {error}.") from None
    return [Upload(part.content, part.filename) for part in parts if part.name == name]

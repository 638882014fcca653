"""Uploads: request bodies read up to a limit and cut into files without copying them through disk."""

import email
import email.message
import re
from dataclasses import dataclass

from fastapi import Request

from app.errors import ServiceError

# What multipart puts around a file: boundaries and part headers.
MULTIPART_ALLOWANCE = 16_384
_MAX_PART_HEADER = 8_192
_MAX_PARTS = 1_000
_UNTYPED = ("", "application/octet-stream")
# A part's header as browsers, curl and Python's clients write it; what else is allowed is left to the email package,
# which takes sixty times as long.
_PLAIN_HEADER = re.compile(
    r'Content-Disposition: form-data; name="([^"\\]*)"(?:; filename="([^"\\]*)")?\r\n'
    r"(?:Content-Type: ([\w.+-]+/[\w.+-]+)\r\n)?",
    re.ASCII | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Upload:
    """One file as the client sent it."""

    content: memoryview
    filename: str | None
    content_type: str


@dataclass(frozen=True, slots=True)
class _Part:
    name: str | None
    upload: Upload


async def read_file(request: Request, max_bytes: int) -> Upload:
    """The one file of a request: the multipart field `file`, or the body itself when it is an image."""
    content_type = _content_type(request)
    if content_type == "multipart/form-data":
        files = _fields(request, await _read_body(request, max_bytes + MULTIPART_ALLOWANCE, max_bytes), "file")
        if not files:
            raise ServiceError("missing_file", "The form has no field named `file` with an image.")
        upload = files[0]
    else:
        body = await _read_body(request, max_bytes, max_bytes)
        if not body and content_type in _UNTYPED:
            raise ServiceError(
                "missing_file", "No image was sent: send a form with the field `file`, or an image body."
            )
        upload = Upload(memoryview(body), None, content_type)
    check_type(upload)
    check_length(upload, max_bytes)
    return upload


async def read_files(request: Request, max_bytes: int, max_files: int) -> list[Upload]:
    """The files of a batch request, in order: every multipart field named `files`."""
    if _content_type(request) != "multipart/form-data":
        raise ServiceError("missing_file", "A batch is a multipart form with one field named `files` per image.")
    files = _fields(request, await _read_body(request, max_bytes, max_bytes), "files")
    if not files:
        raise ServiceError("missing_file", "The form has no field named `files` with an image.")
    if len(files) > max_files:
        raise ServiceError(
            "too_many_files", f"The form has {len(files)} files; the most in one request is {max_files}."
        )
    return files


def check_type(upload: Upload) -> None:
    """Refuse a file whose declared type is not an image; an undeclared type is left to the decoder."""
    if not upload.content_type.startswith("image/") and upload.content_type not in _UNTYPED:
        raise ServiceError("invalid_file_type", f"Invalid file type {upload.content_type}; send an image.")


def check_length(upload: Upload, max_bytes: int) -> None:
    """Refuse a file above the limit."""
    if len(upload.content) > max_bytes:
        raise _too_large(max_bytes)


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _too_large(limit: int) -> ServiceError:
    return ServiceError("body_too_large", f"The upload is larger than {limit} bytes; send a smaller image.")


async def _read_body(request: Request, max_bytes: int, said_limit: int) -> bytes:
    """Read the body, counting as it arrives: a length may be undeclared or untrue."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise _too_large(said_limit)
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(said_limit)
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _fields(request: Request, body: bytes, name: str) -> list[Upload]:
    header = email.message.Message()
    header["content-type"] = request.headers["content-type"]
    boundary = header.get_param("boundary")
    if not isinstance(boundary, str) or not boundary:
        raise _malformed("the content type names no boundary")
    return [part.upload for part in _parts(body, boundary.encode("latin-1", "replace")) if part.name == name]


def _parts(content: bytes, boundary: bytes) -> list[_Part]:
    """Cut a multipart body at its boundaries (RFC 2046); the parts are views of the body."""
    view = memoryview(content)
    delimiter = b"\r\n--" + boundary
    opening = delimiter[2:]
    position = 0 if content.startswith(opening) else content.find(delimiter)
    if position < 0:
        raise _malformed("it does not begin with its boundary")
    position += len(opening) if content.startswith(opening) else len(delimiter)
    parts: list[_Part] = []
    while content[position : position + 2] != b"--":
        head = content.find(b"\r\n", position) + 2
        body_start = content.find(b"\r\n\r\n", position, head + _MAX_PART_HEADER)
        end = content.find(delimiter, body_start)
        if head < 2 or body_start < 0 or end < 0:
            raise _malformed("a part is not ended by its boundary")
        parts.append(_part(content[head : body_start + 2], view[body_start + 4 : end]))
        if len(parts) > _MAX_PARTS:
            raise _malformed(f"it has more than {_MAX_PARTS} parts")
        position = end + len(delimiter)
    return parts


def _part(head: bytes, content: memoryview) -> _Part:
    text = head.decode("utf-8", "replace")
    if plain := _PLAIN_HEADER.fullmatch(text):
        return _Part(plain[1], Upload(content, plain[2], (plain[3] or "").lower()))
    message = email.message_from_string(text)
    name = message.get_param("name", header="content-disposition")
    declared = message.get_content_type() if "content-type" in message else ""
    return _Part(name if isinstance(name, str) else None, Upload(content, message.get_filename(), declared))


def _malformed(why: str) -> ServiceError:
    return ServiceError("malformed_multipart", f"The multipart body cannot be read: {why}.")

import asyncio
from collections.abc import Callable

import pytest
from fastapi import Request

from app.errors import ServiceError
from app.http import uploads
from app.http.bodies import Bodies
from app.http.uploads import Upload

BUDGET = 1_000_000
MULTIPART = "multipart/form-data; boundary=frontier"


def request(body: bytes | list[bytes], content_type: str = MULTIPART, length: int | None = None) -> Request:
    chunks = body if isinstance(body, list) else [body]
    messages = [
        {"type": "http.request", "body": chunk, "more_body": index < len(chunks) - 1}
        for index, chunk in enumerate(chunks)
    ]

    async def receive() -> dict[str, object]:
        return messages.pop(0)

    headers = [(b"content-type", content_type.encode())] if content_type else []
    if length is not None:
        headers.append((b"content-length", str(length).encode()))
    return Request({"type": "http", "headers": headers, "method": "POST", "path": "/"}, receive)


def form(*parts: tuple[str, bytes], end: bytes = b"--frontier--\r\n") -> bytes:
    return b"".join(b"--frontier\r\n" + head.encode() + b"\r\n\r\n" + data + b"\r\n" for head, data in parts) + end


def disposition(name: str, rest: str = "") -> str:
    return f'Content-Disposition: form-data; name="{name}"{rest}'


def one(asked: Request, limit: int = 1000) -> Upload:
    with Bodies(BUDGET).loan() as loan:
        return asyncio.run(uploads.read_file(asked, loan, limit))


def several(asked: Request, limit: int = 1000, files: int = 3) -> list[Upload]:
    with Bodies(BUDGET).loan() as loan:
        return asyncio.run(uploads.read_files(asked, loan, limit, files))


def code(read: Callable[[], object]) -> str:
    with pytest.raises(ServiceError) as caught:
        read()
    return caught.value.code


def test_the_file_is_found_among_the_fields_of_a_form() -> None:
    body = form(
        (disposition("note"), b"hello"),
        (disposition("file", '; filename="a cat.jpg"') + "\r\nContent-Type: image/jpeg", b"\r\n--bytes\r\n"),
    )
    upload = one(request(body))
    assert bytes(upload.content) == b"\r\n--bytes\r\n"
    assert upload.filename == "a cat.jpg"


@pytest.mark.parametrize(
    ("written", "filename"),
    [
        ('; filename="kočka.jpg"', "kočka.jpg"),
        ("; filename*=UTF-8''ko%C4%8Dka.jpg", "kočka.jpg"),
        ('; filename="say \\"cat\\".jpg"', 'say "cat".jpg'),
        ("", None),
    ],
)
def test_file_names_arrive_as_they_were_meant(written: str, filename: str | None) -> None:
    assert one(request(form((disposition("file", written), b"x")))).filename == filename


@pytest.mark.parametrize(
    "head",
    [
        disposition("file", '; filename="a.jpg"') + "\r\nContent-Type: image/JPEG",
        "content-type: image/jpeg\r\n" + disposition("file", '; filename="a.jpg"').lower(),
        disposition("file", '; filename="a.jpg"') + "\r\nContent-Type: image/jpeg; charset=binary",
        disposition("file", "; filename=a.jpg") + "\r\nContent-Type: image/jpeg\r\nContent-Length: 1",
        disposition("file", ';\r\n filename="a.jpg"') + "\r\nContent-Type: image/jpeg",
    ],
)
def test_a_part_s_header_may_be_written_in_any_way(head: str) -> None:
    assert one(request(form((head, b"x")))) == Upload(b"x", "a.jpg")


def test_a_raw_image_body_needs_no_form() -> None:
    upload = one(request([b"half", b"half"], "image/png"))
    assert bytes(upload.content) == b"halfhalf"
    assert upload.filename is None


def test_text_before_the_first_boundary_is_skipped() -> None:
    assert bytes(one(request(b"preamble\r\n" + form((disposition("file"), b"x")))).content) == b"x"


def test_a_quoted_boundary_is_understood() -> None:
    asked = request(form((disposition("file"), b"x")), 'multipart/form-data; boundary="frontier"')
    assert bytes(one(asked).content) == b"x"


def test_files_of_a_batch_keep_their_order() -> None:
    body = form(*((disposition("files"), str(number).encode()) for number in range(3)))
    assert [bytes(upload.content) for upload in several(request(body))] == [b"0", b"1", b"2"]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (request(form((disposition("other"), b"x"))), "missing_file"),
        (request(b"--frontier--\r\n"), "missing_file"),
        (request(b"", ""), "missing_file"),
        (request(b"", "image/jpeg"), None),
        (request(b"no boundary here"), "malformed_multipart"),
        (request(form((disposition("file"), b"x"), end=b"")), "malformed_multipart"),
        (request(b"--frontier"), "malformed_multipart"),
        (request(b"--frontier\r\n" + b"a" * 400), "malformed_multipart"),
        (request(b"x", "multipart/form-data"), "malformed_multipart"),
        (request(b"x" * 1001, "image/png"), "body_too_large"),
        (request(form((disposition("file"), b"x" * 1001))), "body_too_large"),
    ],
)
def test_bodies_without_a_usable_file(asked: Request, expected: str | None) -> None:
    if expected is None:
        assert not one(asked).content
    else:
        assert code(lambda: one(asked)) == expected


def test_a_declared_length_over_the_limit_is_refused_before_anything_is_read() -> None:
    asked = request([], "image/png", length=5_000_000)
    assert code(lambda: one(asked)) == "body_too_large"


def test_an_undeclared_body_is_refused_once_it_passes_the_limit() -> None:
    received = 0

    async def endless() -> dict[str, object]:
        nonlocal received
        received += 1
        return {"type": "http.request", "body": b"x" * 600, "more_body": True}

    scope = {"type": "http", "headers": [(b"content-type", b"image/png")], "method": "POST", "path": "/"}
    assert code(lambda: one(Request(scope, endless))) == "body_too_large"
    assert received == 2


def test_a_file_of_exactly_the_limit_is_accepted_in_both_forms() -> None:
    assert len(one(request(b"x" * 1000, "image/png")).content) == 1000
    assert len(one(request(form((disposition("file"), b"x" * 1000)))).content) == 1000


def test_a_batch_refuses_too_many_files_and_other_bodies() -> None:
    body = form(*((disposition("files"), b"x") for _ in range(4)))
    assert code(lambda: several(request(body))) == "too_many_files"
    assert code(lambda: several(request(b"x", "image/png"))) == "missing_file"
    assert code(lambda: several(request(form((disposition("file"), b"x"))))) == "missing_file"


def test_a_body_of_thousands_of_parts_is_refused() -> None:
    body = form(*((disposition("files"), b"") for _ in range(1100)))
    assert code(lambda: several(request(body), limit=10**6)) == "malformed_multipart"

import pytest

from app.http.multipart import MAX_FIELDS, MAX_HEADER, Form, MalformedError, Part, boundary_of

FILE = 'Content-Disposition: form-data; name="file"'


def part(head: str, content: bytes = b"x") -> bytes:
    return b"--B\r\n" + head.encode() + b"\r\n\r\n" + content + b"\r\n"


def read(body: bytes, size: int = 1 << 16, boundary: bytes = b"B") -> list[Part]:
    form = Form(boundary, MAX_FIELDS)
    for start in range(0, len(body), size):
        form.feed(body[start : start + size])
    return form.finish()


def refusal(body: bytes) -> str:
    with pytest.raises(MalformedError) as caught:
        read(body)
    return str(caught.value)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100_000])
@pytest.mark.parametrize(
    ("body", "contents"),
    [
        (part(FILE, b"") + b"--B--", [b""]),
        (part(FILE, b"\r\n") + b"--B--\r\n", [b"\r\n"]),
        (part(FILE, b"\r\n-\r\n--") + b"--B--", [b"\r\n-\r\n--"]),
        (part(FILE) + part(FILE, b"\r\n\r\n") + b"--B--epilogue", [b"x", b"\r\n\r\n"]),
        (b"preamble\r\n" + part(FILE) + b"--B--", [b"x"]),
        (b"--B \t\r\n" + part(FILE)[5:] + b"--B--", [b"x"]),
        (b"--B\r\n" + FILE.encode() + b"\r\n\r\n--B--", [b""]),
        (part(FILE, bytes(range(256)) * 300) + b"--B--", [bytes(range(256)) * 300]),
        (b"--B--", []),
    ],
    ids=["empty", "line end", "nearly", "two", "preamble", "padding", "no content", "long", "no part"],
)
def test_a_form_is_read_alike_in_pieces_of_any_size(body: bytes, contents: list[bytes], size: int) -> None:
    assert [found.content for found in read(body, size)] == contents


@pytest.mark.parametrize(
    ("rest", "filename"),
    [
        ("; filename*=undefined''a", "a"),
        ("; filename*=idna''a%2Eb", "a.b"),
        ("; filename*=utf-8''%FF%fe.jpg", "\ufffd\ufffd.jpg"),
        ("; filename*=unicode_escape''%5Cud800", "\\ud800"),
        ("; filename*=ISO-8859-1'en'%A3.jpg", "£.jpg"),
        ("; filename*=''a", "a"),
        ("; filename=\"plain.jpg\"; filename*=UTF-8''m%C3%BCsli.jpg", "müsli.jpg"),
        ('; filename="plain.jpg"; filename*=broken', "plain.jpg"),
        ('; filename="C:\\pictures\\cat.jpg"', "C:\\pictures\\cat.jpg"),
        ('; filename="a;b=c.jpg"', "a;b=c.jpg"),
        ("; filename*0*=UTF-8''a; filename*1=b", None),
        (";;", None),
    ],
)
def test_odd_file_names_are_read_or_left_out(rest: str, filename: str | None) -> None:
    assert read(part(FILE + rest) + b"--B--")[0].filename == filename


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "does not begin"),
        (b"--B", "does not begin"),
        (b"--C--", "does not begin"),
        (part(FILE), "not ended"),
        (b"--B\r\n" + FILE.encode(), "not ended"),
        (part(FILE, b"\r\n--Bother" + b"x" * 80), "goes on"),
        (part(FILE, b"\r\n--Bother\r\n"), "goes on"),
        (part(FILE + ";a=b" * MAX_HEADER), f"longer than {MAX_HEADER}"),
        (part(FILE) * (MAX_FIELDS + 1) + b"--B--", f"more than {MAX_FIELDS} parts"),
        (part("") + b"--B--", "no `Content-Disposition"),
        (part("Content-Type: image/jpeg") + b"--B--", "no `Content-Disposition"),
        (part("Content-Disposition: form-data") + b"--B--", "no `Content-Disposition"),
        (part('Content-Disposition: attachment; name="file"') + b"--B--", "no `Content-Disposition"),
        (part(FILE + '; name="other"') + b"--B--", "twice"),
        (part(FILE + "\r\n" + FILE) + b"--B--", "twice"),
        (part(FILE + '; filename="open') + b"--B--", "name=value"),
        (part(FILE + '; filename="a"b"') + b"--B--", "name=value"),
        (part(FILE + "\r\nno colon") + b"--B--", "Name: value"),
        (part(FILE + "\r\nX: bare\nline") + b"--B--", "Name: value"),
        (part(FILE + "\r\nContent-Transfer-Encoding: base64") + b"--B--", "base64"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(body: bytes, why: str) -> None:
    assert why in refusal(body)


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/form-data; boundary=B", b"B"),
        ('multipart/form-data; charset=utf-8; Boundary="a b"', b"a b"),
        (
            "multipart/form-data;boundary=----WebKitFormBoundary7MA4YWxkTrZu0gW",
            b"----WebKitFormBoundary7MA4YWxkTrZu0gW",
        ),
        ("multipart/form-data", None),
        ("multipart/form-data; boundary=", None),
        ("multipart/form-data; boundary*=undefined''B", None),
        ("multipart/form-data; boundary=a; boundary=b", None),
        ("multipart/form-data; boundary=" + "b" * 71, None),
    ],
)
def test_the_boundary_is_what_the_content_type_says(content_type: str, boundary: bytes | None) -> None:
    if boundary is None:
        with pytest.raises(MalformedError):
            boundary_of(content_type)
    else:
        assert boundary_of(content_type) == boundary

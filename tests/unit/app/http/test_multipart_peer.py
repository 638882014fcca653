"""The same forms read by python-multipart: whatever ours takes, both understand alike."""

from dataclasses import dataclass, field

import pytest
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.http.multipart import Form, MalformedError, boundary_of
from tests.unit.app import hostile
from tests.unit.app.hostile import Dice


@dataclass
class Peer:
    """Collects what python-multipart finds."""

    parts: list[tuple[str, str | None, bytes]] = field(default_factory=list)
    ended: bool = False
    _headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    _name: bytes = b""
    _value: bytes = b""
    _content: bytes = b""

    def read(self, body: bytes, boundary: bytes) -> "list[tuple[str, str | None, bytes]] | None":
        """The parts, or nothing where the form is refused or not ended."""
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._field,
                "on_header_value": self._header_value,
                "on_header_end": self._header,
                "on_part_data": self._data,
                "on_part_end": self._end,
                "on_end": self._finish,
            },
        )
        try:
            parser.write(body)
        except FormParserError:
            return None
        return self.parts if self.ended else None

    def _begin(self) -> None:
        self._headers, self._content = [], b""

    def _field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header(self) -> None:
        self._headers.append((self._name.lower(), self._value))
        self._name = self._value = b""

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._content += data[start:end]

    def _end(self) -> None:
        options = parse_options_header(dict(self._headers).get(b"content-disposition", b""))[1]
        filename = options.get(b"filename")
        self.parts.append(
            (options.get(b"name", b"").decode(), None if filename is None else filename.decode(), self._content)
        )

    def _finish(self) -> None:
        self.ended = True


def ours(body: bytes, boundary: bytes, dice: Dice) -> list[tuple[str, str | None, bytes]] | None:
    form, position = Form(boundary, 100), 0
    try:
        while position < len(body):
            size = dice.choice((1, 7, 100, 10_000))
            form.feed(body[position : position + size])
            position += size
        return [(part.name, part.filename, part.content) for part in form.finish()]
    except MalformedError:
        return None


def well_formed(dice: Dice) -> tuple[bytes, bytes]:
    """A form as clients write it, with contents that resemble its boundary."""
    boundary = dice.choice((b"B", b"----WebKitFormBoundaryABC", b"0123456789abcdef" * 4))
    contents = (b"", b"x", b"\r\n", b"--", b"\r\n-", b"\r\n--", b"--" + boundary[:-1], b"\0\xff" * 50, b"\r" * 9)
    body = b""
    for number in range(dice.randrange(1, 6)):
        name = dice.choice(('name="file"', "name=file", f'name="f{number}"'))
        filename = dice.choice(
            ("", '; filename="a.jpg"', "; filename=a.jpg", '; filename="a b;c.jpg"', '; filename=""')
        )
        kind = dice.choice(("", "\r\nContent-Type: image/jpeg", "\r\ncontent-type:image/png; x=y"))
        content = b"".join(dice.choice(contents) for _ in range(dice.randrange(4)))
        body += b"--" + boundary + f"\r\nContent-Disposition: form-data; {name}{filename}{kind}\r\n\r\n".encode()
        body += content + b"\r\n"
    return boundary, body + b"--" + boundary + dice.choice((b"--", b"--\r\n"))


def test_well_formed_forms_are_taken_and_read_alike() -> None:
    for number in range(500):
        dice = Dice(number)
        boundary, body = well_formed(dice)
        found = ours(body, boundary, dice)
        assert found is not None, number
        assert found == Peer().read(body, boundary), number


def test_hostile_forms_that_both_take_are_read_alike() -> None:
    taken = 0
    for number in range(1_500):
        content_type, body = hostile.form(number)
        try:
            boundary = boundary_of(content_type)
        except MalformedError:
            continue
        found, peers = ours(body, boundary, Dice(number)), Peer().read(body, boundary)
        if found is not None and peers is not None:
            taken += 1
            plain = [(name, content) for name, _, content in found]
            assert plain == [(name, content) for name, _, content in peers], number
    assert taken > 10


@pytest.mark.parametrize("number", range(20))
def test_a_form_that_is_cut_off_is_refused_by_both(number: int) -> None:
    dice = Dice(number)
    boundary, body = well_formed(dice)
    end = body.rfind(b"--" + boundary)
    for at in (end, end + 2, end + 2 + len(boundary), dice.randrange(1, end)):
        assert ours(body[:at], boundary, dice) is None
        assert Peer().read(body[:at], boundary) is None

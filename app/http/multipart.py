"""Multipart forms (RFC 7578), cut into their parts as they arrive; what could be read in two ways is refused."""

import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

# A file name of 255 characters in any script, once plain and once percent-encoded, and a type.
MAX_HEADER = 4_096
# Fields that a form may have beside its files.
MAX_FIELDS = 64
# Those of one header; a form's have three.
_MAX_PARAMETERS = 32
_MAX_BOUNDARY = 70
_MAX_PADDING = 64

_NAME = r"[!#$%&'*+.^_`|~\w-]+"
_HEADER_LINE = re.compile(rf"({_NAME}):[ \t]*+([^\r\n\0]*)", re.ASCII)
_FOLD = re.compile(r"\r\n[ \t]+")
_VALUE = re.compile(r"[ \t]*+([^;\s]*+)[ \t]*+", re.ASCII)
_PARAMETER = re.compile(
    rf';[ \t]*+(?:({_NAME})[ \t]*+=[ \t]*+(?:"((?:[^"\\]++|\\.)*+)"|([^;"\s]*+))[ \t]*+)?+', re.ASCII
)
# RFC 8187 knows no other; whatever else is named is taken for UTF-8.
_LATIN = ("iso-8859-1", "latin-1")
_PLAIN_ENCODINGS = ("", "7bit", "8bit", "binary")


class MalformedError(ValueError):
    """A form that cannot be read in one way only."""


@dataclass(frozen=True, slots=True)
class Part:
    """One field of a form. What its header says of the type is left out: the bytes decide."""

    name: str
    filename: str | None
    content: bytes


def parse_value(text: str) -> tuple[str, dict[str, str]]:
    """A header's value in lower case, and its parameters."""
    value = _VALUE.match(text)
    position, end = value.end() if value else 0, len(text)
    parameters: dict[str, str] = {}
    semicolons = 0
    while position < end:
        found = _PARAMETER.match(text, position)
        if not found:
            raise MalformedError("a parameter of a header is not written as `name=value`")
        # Whether something follows it or not.
        semicolons += 1
        if semicolons > _MAX_PARAMETERS:
            raise MalformedError(f"a header has more than {_MAX_PARAMETERS} parameters")
        position = found.end()
        name, quoted, plain = found.groups()
        if name is None:
            continue
        name = name.lower()
        if name in parameters:
            raise MalformedError("a header has a parameter twice")
        parameters[name] = plain if quoted is None else _unescaped(quoted)
    return (value[1].lower() if value else ""), parameters


def _unescaped(quoted: str) -> str:
    """Without the backslashes before quotes and backslashes, in a few passes over the whole."""
    if "\\" not in quoted:
        return quoted
    return "\\".join(piece.replace('\\"', '"') for piece in quoted.split("\\\\"))


def boundary_of(content_type: str) -> bytes:
    """The boundary that a request's content type names."""
    boundary = parse_value(content_type)[1].get("boundary", "")
    if not boundary:
        raise MalformedError("the content type names no boundary")
    if len(boundary) > _MAX_BOUNDARY:
        raise MalformedError(f"its boundary is longer than {_MAX_BOUNDARY} characters")
    return boundary.encode("latin-1", "replace")


class Form:
    """The parts of one form, complete when `finish` says so."""

    def __init__(self, boundary: bytes, max_parts: int) -> None:
        self.parts: list[Part] = []
        self._delimiter = b"\r\n--" + boundary
        self._max_parts = max_parts
        # So that the first boundary begins a line like the others.
        self._buffer = bytearray(b"\r\n")
        # Up to here no delimiter begins.
        self._searched = 0
        self._head: bytes | None = None
        self._begun = False
        self._ended = False

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the body."""
        if self._ended:
            return
        self._buffer += chunk
        while not self._ended and self._step():
            pass

    def finish(self) -> list[Part]:
        """The parts, once the body is whole."""
        if not self._begun:
            raise MalformedError("it does not begin with its boundary")
        if not self._ended:
            raise MalformedError("a part is not ended by its boundary")
        return self.parts

    def _step(self) -> bool:
        """Read a header, or a part's content with the boundary behind it; false when more bytes are needed."""
        if self._begun and self._head is None:
            return self._read_header()
        end = self._buffer.find(self._delimiter, self._searched)
        if end < 0:
            self._searched = max(0, len(self._buffer) - len(self._delimiter) + 1)
            if not self._begun:
                del self._buffer[: self._searched]
                self._searched = 0
            return False
        after = end + len(self._delimiter)
        line = self._buffer.find(b"\r\n", after, after + _MAX_PADDING)
        last = self._buffer.startswith(b"--", after)
        if not last and line < 0:
            if len(self._buffer) - after < _MAX_PADDING:
                self._searched = end
                return False
            raise MalformedError("a line begins like its boundary and goes on")
        if not last and self._buffer[after:line].strip(b" \t"):
            raise MalformedError("a line begins like its boundary and goes on")
        if self._head is not None:
            with memoryview(self._buffer) as view:
                self._add(self._head, bytes(view[2:end]))
        self._begun, self._head, self._ended = True, None, last
        # The end of this line stays: with another one behind it, the part has no header.
        del self._buffer[: len(self._buffer) if last else line]
        self._searched = 0
        return True

    def _read_header(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n", 0, MAX_HEADER)
        if end < 0:
            if len(self._buffer) >= MAX_HEADER:
                raise MalformedError(f"the header of a part is longer than {MAX_HEADER} bytes")
            return False
        self._head = bytes(self._buffer[2:end])
        # The second line end stays: with a boundary behind it, the part has no content.
        del self._buffer[: end + 2]
        return True

    def _add(self, head: bytes, content: bytes) -> None:
        if len(self.parts) == self._max_parts:
            raise MalformedError(f"it has more than {self._max_parts} parts")
        self.parts.append(_part(head.decode("utf-8", "replace"), content))


def _part(head: str, content: bytes) -> Part:
    headers: dict[str, str] = {}
    # A long line may go on in the next one, which then begins with a blank.
    for line in _FOLD.sub(" ", head).split("\r\n") if head else ():
        found = _HEADER_LINE.fullmatch(line)
        if not found:
            raise MalformedError("a line in the header of a part is not written as `Name: value`")
        name = found[1].lower()
        if name in headers:
            raise MalformedError("a part has a header twice")
        headers[name] = found[2]
    kind, parameters = parse_value(headers.get("content-disposition", ""))
    if kind != "form-data" or "name" not in parameters:
        raise MalformedError("a part has no `Content-Disposition: form-data` with a name")
    encoding = parse_value(headers.get("content-transfer-encoding", ""))[0]
    if encoding not in _PLAIN_ENCODINGS:
        raise MalformedError(f"a part is encoded as {encoding}; send the bytes as they are")
    return Part(parameters["name"], _filename(parameters), content)


def _filename(parameters: dict[str, str]) -> str | None:
    extended = parameters.get("filename*", "").split("'", 2)
    if len(extended) < 3:
        return parameters.get("filename")
    encoding = "latin-1" if extended[0].lower() in _LATIN else "utf-8"
    return unquote_to_bytes(extended[2]).decode(encoding, "replace")

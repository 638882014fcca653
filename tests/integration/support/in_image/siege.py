"""Attackers, and honest clients beside them at the same address: told what to do by lines of JSON, in the image.

{"do": "attack", "first": 0, "count": 1000, "threads": 8}    how each kind was answered, and what took longest
{"do": "again", "number": 17}                                one of them alone, as it is measured
"""

import collections
import contextlib
import functools
import http.client
import io
import json
import struct
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator

from PIL import Image

from tests.unit.app import hostile
from tests.unit.app.support import CAT, chunk, picture, scans, segment

MOST_BYTES = 1_000_000
SINGLE, BATCH = "/api/v1/predict", "/api/v1/predict/batch"
HONEST_PAUSE = 0.25
# The dearest that is let in comes seldom, or a trial of many would measure nothing else.
DEAR_EVERY = 40
# Half of them are images.
KINDS = 16

IMAGES = hostile.kinds()
PHOTOGRAPH = CAT.read_bytes()
FOREIGN = (
    b"\0\0\0\x1cftypheic" + bytes(500),
    b"\0\0\0\x1cftypavif" + bytes(500),
    b"%PDF-1.7\n" * 50,
    b"<svg xmlns='http://www.w3.org/2000/svg'>" + b"<g>" * 5_000,
    b"PK\x03\x04" + bytes(5_000),
    b"II*\0" + b"\xff" * 5_000,
    b"data:image/png;base64," + b"A" * 5_000,
    b"{" * 5_000,
    b"\xff\xd8\xff" * 3_000,
    b"",
)
# Read in two ways by somebody, or not at all.
ODD_REQUESTS = (
    b"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x",
    b"POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
    b"POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;"
    + b"x" * 9_000
    + b"\r\nhello\r\n0\r\n\r\n",
    b"POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x, chunked\r\n\r\n0\r\n\r\n",
    b"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    b"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    b"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\nContent-Type: image/jpeg\r\n\r\n",
    b"POST {path} HTTP/1.1\r\nHost: a\r\nHost: b\r\nContent-Length: 0\r\n\r\n",
    b"POST {path} HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 200 + b"\r\n",
    b"POST {path} HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
    b"GET /%00%ff/../..//{path}?%zz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(300),
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AA\r\n\r\n",
    b"DELETE {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
)

BLANKS = zlib.compress(bytes(3_000_000))
# An orientation, as EXIF writes it.
ENTRY = b"\x12\x01\3\0\1\0\0\0\6\0\0\0"

Sent = tuple[str, bytes, str]
LEFT, SILENT = -1, 0


def _png(chunks: bytes) -> bytes:
    content = picture(kind="PNG")
    return content[:33] + chunks + content[33:]


@functools.cache
def _blank(side: int) -> bytes:
    """A picture of nothing, which is many pixels in a few bytes."""
    target = io.BytesIO()
    Image.new("RGB", (side, side)).save(target, "WEBP", lossless=True, method=0)
    return target.getvalue()


def _bomb(number: int) -> bytes:
    """Few bytes that are much work: pixels, passes, compressed texts, pieces."""
    dice = hostile.Dice(number)
    if number // KINDS % DEAR_EVERY == 0:
        return _blank(dice.choice((1_000, 3_000, 7_000)))
    ways: tuple[Callable[[], bytes], ...] = (
        lambda: scans(dice.choice((64, 500, 7_000)), 600),
        lambda: scans(dice.choice((64, 128, 256)), 250),
        lambda: _png(chunk(b"zTXt", b"a\0\0" + BLANKS) * 8),
        lambda: _png(chunk(b"iCCP", b"a\0\0" + BLANKS)),
        lambda: _png(chunk(b"teXt", b"") * 20_000),
        lambda: PHOTOGRAPH[:2] + segment(0xE1, b"") * 20_000 + PHOTOGRAPH[2:],
        lambda: PHOTOGRAPH[:2] + segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + ENTRY * 5_000) + PHOTOGRAPH[2:],
        lambda: b"GIF89a" + struct.pack("<HHBBB", 7_000, 7_000, 0xF7, 0, 0) + bytes(768) + b"!\xfe\1x\0" * 30_000,
        lambda: b"BM" + struct.pack("<IHHIIiiHHIIiiII", 0, 0, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0),
    )  # fmt: skip
    return dice.choice(ways)()


def hostile_upload(number: int) -> tuple[str, Sent]:
    """The kind of a number, and what is sent for it: path, body and content type."""
    dice, kind = hostile.Dice(number), number % KINDS
    if kind < 8:
        name, content = hostile.image(number, MOST_BYTES, IMAGES)
        return name, (SINGLE, content, "image/*")
    if kind < 10:
        content_type, body = hostile.form(number)
        return "form", (dice.choice((SINGLE, BATCH)), body, content_type)
    if kind == 10:
        images = [hostile.image(number + at, 50_000, IMAGES)[1] for at in range(dice.choice((1, 3, 16, 40)))]
        return "batch of hostile images", (BATCH, hostile.batch(images), hostile.BATCH_TYPE)
    if kind == 11:
        head = b"Content-Disposition: form-data" + b";a=b" * dice.choice((1, 1_000, 1_950)) + b"\r\n\r\n"
        parts = (b"--B\r\n" + head + b"\r\n") * dice.choice((10, 100))
        return "form of slow headers", (SINGLE, parts + b"--B--\r\n", "multipart/form-data; boundary=B")
    if kind == 12:
        return "bomb", (SINGLE, _bomb(number), "image/*")
    if kind == 13:
        return "no picture", (
            SINGLE,
            dice.choice(FOREIGN) + dice.randbytes(dice.randrange(64)),
            dice.choice(("", "image/jpeg", "text/plain")),
        )
    if kind == 14:
        odd = dice.choice(ODD_REQUESTS).replace(b"{path}", SINGLE.encode())
        return "odd request", ("", odd, "")
    cut = PHOTOGRAPH[: dice.randrange(len(PHOTOGRAPH))]
    start = (
        f"POST {SINGLE} HTTP/1.1\r\nHost: a\r\nContent-Type: image/jpeg\r\nContent-Length: {len(PHOTOGRAPH)}\r\n\r\n"
    )
    return "upload cut off", ("cut", start.encode() + cut, "")


class Client:
    """One client with a kept connection, made anew where it was closed."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._connection: http.client.HTTPConnection | None = None

    def send(self, sent: Sent) -> tuple[int, str]:
        """The status of the answer and its beginning; 0 when nothing is said, -1 when we leave before."""
        path, body, content_type = sent
        if not path.startswith("/"):
            return self._say(body, leave=path == "cut")
        for fresh in (self._connection is None, True):
            connection = self._connection or http.client.HTTPConnection(*self._address, timeout=90)
            self._connection = connection
            try:
                connection.request("POST", path, body, {"Content-Type": content_type.encode("latin-1", "replace")})
                response = connection.getresponse()
                said = response.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                self._connection = None
                # A refusal may come, and the connection end, while the body is still being sent.
                if fresh:
                    return SILENT, f"{type(error).__name__}: {error}"
                continue
            if response.will_close:
                connection.close()
                self._connection = None
            return response.status, said[:200].decode(errors="replace")
        return SILENT, ""

    def _say(self, words: bytes, *, leave: bool) -> tuple[int, str]:
        connection = http.client.HTTPConnection(*self._address, timeout=5)
        try:
            connection.connect()
            connection.sock.sendall(words)
            if leave:
                return LEFT, ""
            answer = connection.sock.recv(4_096)
        except OSError as error:
            return SILENT, f"{type(error).__name__}: {error}"
        finally:
            connection.close()
        words_of_it = answer.split(None, 2)
        status = int(words_of_it[1]) if len(words_of_it) > 1 and words_of_it[1].isdigit() else SILENT
        return status, answer[-200:].decode(errors="replace")


class Attack:
    """So many uploads by so many clients, with honest ones beside."""

    def __init__(self, host: str, port: int, first: int, count: int) -> None:
        self._where = (host, port)
        self._numbers: Iterator[int] = iter(range(first, first + count))
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._answers: dict[str, collections.Counter[int]] = collections.defaultdict(collections.Counter)
        self._slowest: list[tuple[float, int, str]] = []
        self._wrong: list[tuple[int, str, int, str]] = []
        self._honest: list[tuple[int, float]] = []

    def run(self, attackers: int, honest: int) -> dict[str, object]:
        """What came of it."""
        attacking = [threading.Thread(target=self._attack) for _ in range(attackers)]
        others = [threading.Thread(target=self._behave) for _ in range(honest)]
        for thread in (*attacking, *others):
            thread.start()
        for thread in attacking:
            thread.join()
        self._over.set()
        for thread in others:
            thread.join()
        self._slowest.sort(reverse=True)
        return {
            "answers": {kind: dict(counted) for kind, counted in sorted(self._answers.items())},
            "slowest": self._slowest[:40],
            "wrong": self._wrong[:40],
            "honest": self._honest,
        }

    def _attack(self) -> None:
        client = Client(*self._where)
        while True:
            with self._lock:
                number = next(self._numbers, -1)
            if number < 0:
                return
            kind, sent = hostile_upload(number)
            began = time.monotonic()
            status, said = client.send(sent)
            seconds = time.monotonic() - began
            with self._lock:
                self._answers[kind][status] += 1
                self._slowest.append((round(seconds, 3), number, kind))
                if len(self._slowest) > 10_000:
                    self._slowest = sorted(self._slowest, reverse=True)[:200]
                if status >= 500:
                    self._wrong.append((number, kind, status, said))

    def _behave(self) -> None:
        client = Client(*self._where)
        while not self._over.wait(HONEST_PAUSE):
            began = time.monotonic()
            status, _ = client.send((SINGLE, PHOTOGRAPH, "image/jpeg"))
            with self._lock:
                self._honest.append((status, time.monotonic() - began))


class Dribble:
    """A connection that sends a byte a second and never comes to an end."""

    def __init__(self, address: tuple[str, int], words: bytes) -> None:
        self._connection = http.client.HTTPConnection(*address, timeout=15)
        self.ended = ""
        try:
            self._connection.connect()
            self._connection.sock.sendall(words)
            self._connection.sock.setblocking(False)
        except OSError as error:
            self.ended = type(error).__name__

    def go_on(self) -> None:
        """Send one byte more, and see whether there is an answer."""
        if self.ended:
            return
        try:
            answer = self._connection.sock.recv(100)
            self.ended = answer[9:12].decode() if answer else "closed"
        except BlockingIOError:
            with contextlib.suppress(BlockingIOError, OSError):
                self._connection.sock.send(b"x")
        except OSError as error:
            self.ended = type(error).__name__


def hold(address: tuple[str, int], headers: int, bodies: int, load: int, seconds: float) -> dict[str, object]:
    """All at once from one address: slow headers, slow bodies, and clients that are in no way odd."""
    over, answers, lock = threading.Event(), collections.Counter[int](), threading.Lock()

    def ordinary() -> None:
        client = Client(*address)
        while not over.is_set():
            status, _ = client.send((SINGLE, PHOTOGRAPH, "image/jpeg"))
            with lock:
                answers[status] += 1
            if status != http.HTTPStatus.OK:
                over.wait(1)

    start = f"POST {SINGLE} HTTP/1.1\r\nHost: a\r\nContent-Type: image/jpeg\r\n".encode()
    ways = {"headers": [start] * headers, "bodies": [start + b"Content-Length: 9000000\r\n\r\n"] * bodies}
    slow = {way: [Dribble(address, words) for words in sent] for way, sent in ways.items()}
    threads = [threading.Thread(target=ordinary) for _ in range(load)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for connection in (one for several in slow.values() for one in several):
            connection.go_on()
        time.sleep(1)
    over.set()
    for thread in threads:
        thread.join()
    counted = {way: dict(collections.Counter(one.ended or "held" for one in several)) for way, several in slow.items()}
    return {**counted, "load": dict(answers)}


def main() -> None:
    """Do what the lines say."""
    host, port = sys.argv[1], int(sys.argv[2])
    for line in sys.stdin:
        order = json.loads(line)
        if order["do"] == "attack":
            attack = Attack(host, port, order["first"], order["count"])
            found: object = attack.run(order["attackers"], order["honest"])
        elif order["do"] == "hold":
            numbers = (order[name] for name in ("headers", "bodies", "load", "seconds"))
            found = hold((host, port), *numbers)
        else:
            kind, sent = hostile_upload(order["number"])
            status, said = Client(host, port).send(sent)
            found = {"kind": kind, "bytes": len(sent[1]), "status": status, "said": said}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()

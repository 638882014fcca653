import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from PIL import Image

from tests.unit.app import hostile
from tests.unit.app.support import CAT, GOLDEN, Server, picture, serve, wait_for

PREDICT, BATCH = "/api/v1/predict", "/api/v1/predict/batch"
# A tenth of what is usual, so that a trial of thousands ends: what is let in costs a tenth, too.
MOST_BYTES, MOST_PIXELS = 1_000_000, 5_000_000
FILES = 16
# What HTTP and the model cost beside an image, and what a measurement of either is uncertain by.
CPU_SLACK, MEMORY_SLACK = 0.15, 48 << 20
# Seconds of its own CPU that one request may keep the event loop for.
HOLD = 0.02
# Run in the service: a beat asks each millisecond what its loop has computed since, and writes down what is much.
TIMED_LOOP = """
import asyncio, time
from app.inference.service import Service
start = Service.start
def begin(service):
    start(service)
    loop, before = asyncio.get_running_loop(), time.thread_time()
    def beat():
        nonlocal before
        now = time.thread_time()
        if now - before > 0.0005:
            with open({path!r}, "a") as file:
                print(now - before, file=file)
        before = time.thread_time()
        loop.call_later(0.001, beat)
    beat()
Service.start = begin
"""


class Cost(NamedTuple):
    """What one request costs: CPU seconds of the process, bytes beyond what it had, the longest hold of the loop."""

    cpu: float
    memory: int
    hold: float


class Meter:
    """Sends requests one by one and says what each costs."""

    def __init__(self, server: Server) -> None:
        self._process = Path(f"/proc/{server.process.pid}")
        self._client = httpx.Client(base_url=server.url, timeout=120)
        self._holds = server.log.with_name("holds")

    def post(self, content: bytes, kind: str, path: str = PREDICT) -> tuple[httpx.Response, Cost]:
        (self._process / "clear_refs").write_text("5")
        self._holds.write_text("")
        cpu, memory = self._cpu(), self._status("VmRSS")
        answer = self._client.post(path, content=content, headers=[(b"content-type", kind.encode("latin-1"))])
        cost = Cost(self._cpu() - cpu, self._status("VmHWM") - memory, max(map(float, self._holds.open()), default=0))
        return answer, cost

    def _cpu(self) -> float:
        user, system = (self._process / "stat").read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / 100

    def _status(self, name: str) -> int:
        found = re.search(rf"{name}:\s+(\d+) kB", (self._process / "status").read_text())
        assert found
        return int(found[1]) << 10


@pytest.fixture(scope="module")
def besieged(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service for small pictures."""
    folder = tmp_path_factory.mktemp("besieged")
    code = TIMED_LOOP.format(path=str(folder / "holds"))
    with serve(folder, code, bundle_path=bundle, max_upload_bytes=MOST_BYTES, max_pixels=MOST_PIXELS) as running:
        wait_for(running.ready)
        yield running


def honest(meter: Meter) -> tuple[float, int]:
    """The cost of the largest honest picture: the least of some measurements."""
    target = io.BytesIO()
    Image.open(GOLDEN / "coffee.jpg").convert("RGB").resize((2236, 2236)).save(target, "WEBP", quality=50, method=0)
    content = target.getvalue()
    assert len(content) < MOST_BYTES
    answers = [meter.post(content, "image/webp") for _ in range(5)]
    assert {answer.status_code for answer, _ in answers} == {200}, {answer.text for answer, _ in answers}
    return min(cost.cpu for _, cost in answers), max(cost.memory for _, cost in answers)


Sent = tuple[bytes, str, str]


def upload(number: int, made: Sequence[hostile.Kind]) -> tuple[str, Sent]:
    """A picture, and what kind of picture it is."""
    kind, content = hostile.image(number, MOST_BYTES, made)
    return kind, (content, "image/*", PREDICT)


def form(number: int, path: str) -> tuple[str, Sent]:
    """A form, read as that of one file or of several."""
    kind, body = hostile.form(number)
    return f"form for {path}", (body, kind, path)


def batch(number: int, made: Sequence[hostile.Kind]) -> tuple[str, Sent]:
    """As many pictures as a request may have."""
    images = (hostile.image(number + at, MOST_BYTES // 8, made)[1] for at in range(FILES))
    return "batch", (hostile.batch(images), hostile.BATCH_TYPE, BATCH)


def besiege(server: Server, images: int, forms: int, batches: int) -> None:
    meter, made = Meter(server), hostile.kinds()
    meter.post(CAT.read_bytes(), "image/jpeg")
    cpu, memory = honest(meter)
    dearest: dict[str, Cost] = {}
    statuses: Counter[int] = Counter()
    requests = [(number, *upload(number, made)) for number in range(images)]
    requests += [(number, *form(number, path)) for number in range(forms) for path in (PREDICT, BATCH)]
    requests += [(number * FILES, *batch(number * FILES, made)) for number in range(batches)]
    for number, kind, sent in requests:
        answer, cost = meter.post(*sent)
        name = f"{kind} {number}: {answer.text[:1_000]}"
        statuses[answer.status_code] += 1
        assert answer.status_code in (200, 400, 413, 422), name
        assert answer.json(), name
        assert cost.memory <= 2 * memory + MEMORY_SLACK, f"{cost.memory >> 20} MiB, honest {memory >> 20}: {name}"
        if cost.cpu > 2 * cpu + CPU_SLACK or cost.hold > HOLD:
            # A measurement that others disturb is made again: the least is what the input costs.
            again = [meter.post(*sent)[1] for _ in range(3)]
            cost = Cost(min(one.cpu for one in again), cost.memory, min(one.hold for one in again))
        assert cost.cpu <= 2 * cpu + CPU_SLACK, f"{cost.cpu:.2f} s, honest {cpu:.2f}: {name}"
        assert cost.hold <= HOLD, f"{cost.hold * 1000:.1f} ms of the loop: {name}"
        most = dearest.get(kind, cost)
        dearest[kind] = Cost(max(most.cpu, cost.cpu), max(most.memory, cost.memory), max(most.hold, cost.hold))
    print(f"the largest honest picture: {cpu:.2f} s, {memory >> 20} MiB; answers: {dict(statuses)}")
    for kind, most in sorted(dearest.items()):
        print(f"{kind:34} most {most.cpu:.2f} s, {most.memory >> 20} MiB, loop held {most.hold * 1000:.1f} ms")
    assert server.status("/health/ready") == 200
    assert server.metric("inference_body_bytes") == server.metric("inference_images_admitted") == 0
    assert max(most.hold for most in dearest.values()) > 0
    assert server.post(content=CAT.read_bytes()).status_code == 200
    assert not any(line["level"] == "error" for line in server.lines())


def test_a_few_hostile_uploads_of_every_kind_are_answered_and_cost_no_more_than_an_honest_one(besieged: Server) -> None:
    besiege(besieged, images=2 * len(hostile.kinds()), forms=10, batches=3)


@pytest.mark.trial
def test_thousands_of_hostile_uploads_are_answered_and_cost_no_more_than_an_honest_one(besieged: Server) -> None:
    besiege(besieged, images=3_000, forms=1_000, batches=200)


def test_the_honest_pictures_that_are_changed_are_read(besieged: Server) -> None:
    for name, content, apart, together in hostile.kinds():
        assert together(apart(content)) == content, name
        answer = besieged.post(content=content)
        assert answer.status_code == 200, f"{name}: {answer.text}"
    assert besieged.post(content=picture(size=(32, 32))).status_code == 200

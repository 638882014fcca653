"""What the tests of the service share: small models, pictures, and real server processes."""

import asyncio
import contextlib
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import timm
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform

import app

ROOT = Path(app.__file__).resolve().parents[1]
GOLDEN = ROOT / "app" / "data" / "golden"
CAT = GOLDEN / "cat.jpg"
SMALL = "mobilenetv3_small_050"
CLASSES = 7

# Small models gain nothing from more threads, and lose a lot on a busy machine.
torch.set_num_threads(1)


def fresh(code: str) -> subprocess.CompletedProcess[str]:
    """What a new interpreter does with some code; it must end well."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def timm_model(architecture: str = SMALL, num_classes: int = CLASSES) -> Any:
    """A timm model with random weights that tell pictures apart."""
    torch.manual_seed(0)
    return timm.create_model(architecture, pretrained=False, num_classes=num_classes).eval()


def with_statistics(model: Any) -> Any:
    """The model with batch norms as training leaves them."""
    generator = torch.Generator().manual_seed(4)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for values, least in ((module.weight, 0.5), (module.running_var, 0.5), (module.running_mean, -0.5)):
                values.data = torch.rand(values.shape, generator=generator) + least
    return model


def timm_transform(model: Any) -> Any:
    """The preprocessing timm itself derives for a model, for images of 64 pixels."""
    config = {name: model.pretrained_cfg[name] for name in ("mean", "std", "interpolation", "crop_pct", "crop_mode")}
    return create_transform((3, 64, 64), is_training=False, **config)


def reference_checkpoint(architecture: str, num_classes: int = 67) -> tuple[Any, Any, dict[str, Any]]:
    """Backbone, head, and state dict as the reference project's trainer names it."""
    torch.manual_seed(0)
    backbone = timm.create_model(architecture, pretrained=False, num_classes=0).eval()
    features = backbone(torch.zeros(1, 3, 64, 64)).shape[1]
    head = torch.nn.Sequential(torch.nn.Dropout(0.3), torch.nn.Linear(features, num_classes)).eval()
    state = {f"backbone.{key}": value for key, value in backbone.state_dict().items()}
    state |= {f"classifier.{key}": value for key, value in head.state_dict().items()}
    return backbone, head, state


def picture(mode: str = "RGB", size: tuple[int, int] = (64, 48), kind: str = "JPEG", **options: Any) -> bytes:
    """An encoded gradient."""
    image = Image.linear_gradient("L").resize(size).convert(mode)
    target = io.BytesIO()
    image.save(target, kind, **options)
    return target.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def segment(marker: int, data: bytes) -> bytes:
    """A segment of a JPEG."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def scans(side: int, count: int) -> bytes:
    """A progressive gray JPEG of three scans, and so many more that change nothing: cheap to send, dear to decode."""
    blocks = ((side + 7) // 8) ** 2

    def packed(bits: str) -> bytes:
        bits += "1" * (-len(bits) % 8)
        return int(bits, 2).to_bytes(len(bits) // 8).replace(b"\xff", b"\xff\0")

    def refinement(approximation: int) -> bytes:
        # Every block ends at once, in runs as long as the format has.
        left, bits = blocks, ""
        while left:
            size = min(14, left.bit_length() - 1)
            run = min(left, (2 << size) - 1)
            bits += format(size, "04b") + (format(run - (1 << size), f"0{size}b") if size else "")
            left -= run
        return segment(0xDA, bytes([1, 1, 0, 1, 63, approximation])) + packed(bits)

    return (
        b"\xff\xd8"
        + segment(0xDB, b"\0" + b"\1" * 64)
        + segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + b"\1\x11\0")
        + segment(0xC4, b"\0" + bytes([1] + [0] * 15) + b"\0")
        + segment(0xC4, b"\x10" + bytes([0, 0, 0, 15] + [0] * 12) + bytes(number << 4 for number in range(15)))
        + segment(0xDA, bytes([1, 1, 0, 0, 0, 1]))
        + packed("0" * blocks)
        + refinement(0x02)
        + refinement(0x21)
        + refinement(0x10) * count
        + b"\xff\xd9"
    )


def write_labels(path: Path, count: int = CLASSES) -> Path:
    """A labels file."""
    path.write_text("".join(f"class {number}\n" for number in range(count)))
    return path


def raw_request(body: bytes) -> bytes:
    """A prediction as it travels."""
    head = ("POST /api/v1/predict HTTP/1.1", "Host: test", "Content-Type: image/jpeg", f"Content-Length: {len(body)}")
    return "\r\n".join((*head, "", "")).encode() + body


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(what: Callable[[], bool], seconds: float = 120.0) -> None:
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


@dataclass
class Server:
    """A running service process."""

    process: subprocess.Popen[str]
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=20)

    def post(self, path: str = "/api/v1/predict", **options: Any) -> httpx.Response:
        return httpx.post(self.url + path, **{"timeout": 20, **options})

    def status(self, path: str) -> int:
        try:
            return self.get(path).status_code
        except httpx.TransportError:
            return 0

    def ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return self.status("/health/ready") == 200

    def metric(self, name: str) -> float:
        for line in self.get("/metrics").text.splitlines():
            if line.startswith(name + " "):
                return float(line.split()[-1])
        raise AssertionError(f"{name} is not in /metrics")

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def begin_upload(self, body: bytes, sent: int) -> socket.socket:
        """Open a prediction whose body stays incomplete, which keeps it in flight."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        connection.sendall(raw_request(body)[: sent - len(body) or None])
        return connection


@contextlib.contextmanager
def serve(folder: Path, code: str = "", **settings: object) -> Iterator[Server]:
    """A service process with these settings; `code` runs in it before the service."""
    port = free_port()
    log = folder / f"server-{port}.log"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("API_")}
    environment |= {"API_HOST": "127.0.0.1", "API_PORT": str(port), "API_TORCH_THREADS": "1"}
    environment |= {f"API_{key.upper()}": str(value) for key, value in settings.items()}
    # As `python -m app`, with the test's code before it.
    command = [sys.executable, "-c", f"{code}\nimport runpy\nrunpy.run_module('app', run_name='__main__')"]
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True
        )
    try:
        yield Server(process, port, log)
    finally:
        process.kill()
        process.wait()


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run this on an event loop of its own, for so long at most."""

    async def limited() -> None:
        async with asyncio.timeout(20):
            await work

    asyncio.run(limited())


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)

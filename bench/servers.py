"""The servers of a comparison: each starts alone in a container, and is asked in its own way."""

import contextlib
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from bench.figures import Figure, parse_wrk
from bench.machine import DATA, docker

_READY_SECONDS = 90
# The forms that LitServe and browsers send; mosec takes the photograph as the body.
_TYPES = {"raw": "image/jpeg", "form": "multipart/form-data; boundary=bench-boundary"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# Another service on a fixed port would be measured instead of ours.
PORT = _free_port()


@dataclass(frozen=True)
class Server:
    """One server with its settings."""

    name: str
    command: tuple[str, ...]
    path: str
    body: str
    environment: Mapping[str, str] = field(default_factory=dict)


def _options(name: str, prefix: str) -> dict[str, str]:
    """The variables that the options of a server's name stand for: `+KEY=VALUE`, or `+KEY` for a 1."""
    pairs = (option.partition("=") for option in name.split("+")[1:])
    return {f"{prefix}_{key.upper()}": value or "1" for key, _, value in pairs}


def ours(model: str, name: str = "ours") -> Server:
    """The service, as its image runs it, but with a log of warnings only, as the peers have.

    `ours+KEY=VALUE` has further settings, named as in its environment but without `API_`.
    """
    environment = {
        "API_BUNDLE_PATH": f"/data/models/{model}/1",
        "API_LOG_LEVEL": "warning",
        "API_PORT": str(PORT),
        **_options(name, "API"),
    }
    return Server(name, ("python", "-m", "app"), "/api/v1/predict", "form", environment)


def peer(name: str, model: str) -> Server:
    """A peer; `+folded` folds its model, `+openvino` takes OpenVINO, `+KEY=VALUE` sets BATCH, WAIT, WORKERS."""
    kind = name.partition("+")[0]
    environment = {"BENCH_MODEL": model, "BENCH_PORT": str(PORT), "PYTHONUSERBASE": "/opt/peers"}
    environment |= _options(name, "BENCH")
    command: tuple[str, ...] = ("python", "-m", f"bench.peers.serve_{kind}")
    if kind == "mosec":
        command = (*command, "--port", str(PORT), "--timeout", "30000")
        return Server(name, command, "/inference", "raw", environment)
    return Server(name, command, "/predict", "form", environment)


@contextlib.contextmanager
def running(server: Server, image: str) -> Iterator[str]:
    """Run a server until the block ends, without limits or a port mapping; yields the container once it predicts."""
    variables = [part for key, value in server.environment.items() for part in ("-e", f"{key}={value}")]
    container = docker(
        "run", "-d", "--network", "host", "-v", f"{DATA}:/data:ro", *variables, image, *server.command
    )  # without a port mapping, whose proxy would be measured too
    try:
        _wait(server, container)
        yield container
    finally:
        docker("rm", "-f", container)


def ask(server: Server, timeout: float = 20) -> int:
    """Post the small photograph once; return the status."""
    body = (DATA / f"500x375.{server.body}").read_bytes()
    address = f"http://127.0.0.1:{PORT}{server.path}"
    request = urllib.request.Request(address, body, {"Content-Type": _TYPES[server.body]}, method="POST")
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        return int(answer.status)


def load(server: Server, image: str, photo: str, clients: int, seconds: int) -> Figure:
    """What wrk measures at a number of connections; returns once the server is idle again."""
    output = docker(
        *("run", "--rm", "--network", "host", "-v", f"{DATA}:/data:ro", image),
        *("wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "30s", "--latency"),
        *("-s", f"/data/{photo}.{server.body}.lua"),
        f"http://127.0.0.1:{PORT}{server.path}",
    )
    # What wrk left behind when it stopped is answered before this.
    ask(server, timeout=60)
    return parse_wrk(output)


def _wait(server: Server, container: str) -> None:
    end = time.monotonic() + _READY_SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if ask(server) == 200:
                return
        time.sleep(0.1)
    log = subprocess.run(["docker", "logs", "--tail", "20", container], capture_output=True, text=True, check=False)
    said = log.stdout + log.stderr
    raise SystemExit(f"error: {server.name} did not answer within {_READY_SECONDS} s; its log ends with:\n{said}")

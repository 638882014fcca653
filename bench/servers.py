"""The servers of a comparison: each is asked in its own way, and can be stopped while others are measured."""

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench import environments, gateway
from bench.figures import Figure, parse_wrk
from bench.machine import DATA, ROOT, docker

_READY_SECONDS = 120
# Where what is made of the bundles lies, as the containers see it.
_DERIVED = "/data/derived"
# The forms that LitServe and browsers send; mosec takes the photograph as the body.
_TYPES = {"raw": "image/jpeg", "form": "multipart/form-data; boundary=bench-boundary"}
OURS = ("ours", "gateway")
# As docker-compose.yml has it, which is what a deployment runs.
_AS_DEPLOYED = (
    *("--read-only", "--tmpfs=/tmp:rw,noexec,nosuid,nodev,size=256m,mode=1777", "--shm-size", "1g"),
    *("--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--pids-limit", "512"),
    *("--ulimit", "nofile=16384"),
)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Server:
    """One server with its settings; `kind` is ours, gateway, or the name of a peer."""

    name: str
    kind: str
    path: str
    body: str
    environment: Mapping[str, str]


class Running:
    """A server that runs: in containers, or as a group of processes."""

    def __init__(self, server: Server, port: int) -> None:
        self.server = server
        self.port = port
        self.containers: list[str] = []
        self.process: subprocess.Popen[bytes] | None = None
        self.network = ""
        self.log: Path | None = None
        self.host = f"127.0.0.1:{port}"

    @property
    def address(self) -> str:
        """Where it predicts."""
        return f"http://{self.host}{self.server.path}"

    def ask(self, timeout: float = 20) -> int:
        """Post the small photograph once; return the status."""
        body = (DATA / f"500x375.{self.server.body}").read_bytes()
        headers = {"Content-Type": _TYPES[self.server.body]}
        request = urllib.request.Request(self.address, body, headers, method="POST")
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return int(answer.status)

    def load(self, clients: str, photo: str, connections: int, seconds: int) -> Figure:
        """What wrk, in a container, measures at a number of connections; returns once the server is idle again."""
        output = docker(
            *("exec", clients, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s"),
            *("--timeout", "30s", "--latency", "-s", f"/data/{photo}.{self.server.body}.lua", self.address),
        )
        self.settle()
        return parse_wrk(output)

    def settle(self) -> None:
        """Wait until what others left behind is answered, and nobody is refused."""
        end = time.monotonic() + _READY_SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                if self.ask(timeout=60) == 200:
                    return
            time.sleep(0.1)
        raise SystemExit(f"error: {self.server.name} answers no more; its log ends with:\n{self.said()}")

    def pause(self) -> None:
        """Have it compute nothing while others are measured."""
        if self.process:
            os.killpg(self.process.pid, signal.SIGSTOP)
        if self.containers:
            docker("pause", *self.containers)

    def resume(self) -> None:
        """Let it go on."""
        if self.process:
            os.killpg(self.process.pid, signal.SIGCONT)
        if self.containers:
            docker("unpause", *self.containers)

    def stop(self) -> None:
        """End it, paused or not."""
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        if self.containers:
            docker("rm", "-f", *self.containers)
        if self.network:
            docker("network", "rm", self.network)

    def lives(self) -> bool:
        """Whether all of it still runs."""
        if self.process:
            return self.process.poll() is None
        return docker("inspect", "--format", "{{.State.Running}}", *self.containers).count("true") == len(
            self.containers
        )

    def said(self) -> str:
        """The end of its log."""
        if self.log:
            return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])
        logs = [
            subprocess.run(["docker", "logs", "--tail", "20", name], capture_output=True, text=True, check=False)
            for name in self.containers
        ]
        return "\n".join(log.stdout + log.stderr for log in logs)


def _options(name: str, prefix: str) -> dict[str, str]:
    """The variables that the options of a server's name stand for: `+KEY=VALUE`, or `+KEY` for a 1."""
    pairs = (option.partition("=") for option in name.split("+")[1:])
    return {f"{prefix}_{key.upper()}": value or "1" for key, _, value in pairs}


def named(name: str, model: str) -> Server:
    """`ours` and `gateway` (ours behind it) take settings of the service without `API_`, a peer those of its program.

    `+openvino` or `+openvino=bf16` has a peer take OpenVINO.
    """
    kind = name.partition("+")[0]
    if kind in OURS:
        environment = {
            "API_BUNDLE_PATH": f"/data/models/{model}/1",
            # As a deployment says it to a host without a GPU.
            "API_DEVICE": "cpu",
            # As quiet as the peers.
            "API_LOG_LEVEL": "warning",
            **_options(name, "API"),
        }
        return Server(name, kind, "/api/v1/predict", "form", environment)
    environment = {"BENCH_MODEL": str(DATA / "models" / model), **_options(name, "BENCH")}
    path, body = ("/inference", "raw") if kind == "mosec" else ("/predict", "form")
    return Server(name, kind, path, body, environment)


def derived(server: Server, image: str) -> Server:
    """The server with what the image makes of the bundle before it starts, as a deploy does; peers make nothing."""
    if server.kind not in OURS:
        return server
    folder = DATA / Path(_DERIVED).name
    folder.mkdir(exist_ok=True)
    folder.chmod(0o777)
    deployed = dataclasses.replace(server, environment={**server.environment, "API_DERIVED_PATH": _DERIVED})
    made = subprocess.run(
        ["docker", "run", "--rm", "--network", "none", *_given(deployed, "rw"), image, "python", "-m", "app.derive"],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode and "No module named app.derive" in made.stderr:  # an older version, which always converts
        return server
    if made.returncode:
        raise SystemExit(f"error: {image} makes nothing of {server.name}'s bundle:\n{made.stdout}{made.stderr}")
    return deployed


def ours(model: str, image: str) -> Server:
    """The service as it is deployed."""
    return derived(named("ours", model), image)


def start(server: Server, image: str) -> Running:
    """Start a server; ours on the host's network, because a port mapping's proxy would be measured too."""
    running = Running(server, _free_port())
    try:
        if server.kind == "ours":
            running.containers.append(_instance(server, image, ("--network", "host"), running.port))
        elif server.kind == "gateway":
            running.network = docker("network", "create", f"bench-{running.port}")
            reached = ("--network", running.network, "--network-alias", gateway.INSTANCE)
            running.containers.append(_instance(server, image, reached, 8000))
            container, running.host = gateway.start(running.network)
            running.containers.append(container)
        else:
            running.log = DATA / f"{running.port}.log"
            running.process = _peer(server, running)
    except BaseException:
        running.stop()
        raise
    return running


def _instance(server: Server, image: str, network: tuple[str, ...], port: int) -> str:
    return docker("run", "-d", *network, *_AS_DEPLOYED, "-e", f"API_PORT={port}", *_given(server, "ro"), image)


def _given(server: Server, access: str) -> tuple[str, ...]:
    """The options of Docker that give a container of ours the models and its settings."""
    variables = (part for key, value in server.environment.items() for part in ("-e", f"{key}={value}"))
    return ("-v", f"{DATA}:/data:{access}", *variables)


def environment_of(server: Server) -> str:
    """The name of a peer's environment."""
    return f"{server.kind}-openvino" if "BENCH_OPENVINO" in server.environment else server.kind


def _peer(server: Server, running: Running) -> subprocess.Popen[bytes]:
    command = [environments.interpreter(environment_of(server)), "-m", f"bench.peers.serve_{server.kind}"]
    if server.kind == "mosec":
        command += ["--port", str(running.port), "--timeout", "30000", "--log-level", "warning"]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **server.environment, "BENCH_PORT": str(running.port)}
    if running.log is None:
        raise AssertionError(server)
    with running.log.open("wb") as log:
        return subprocess.Popen(
            command, env=variables, cwd=DATA, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )


def ready(running: Running) -> None:
    """Wait until a server predicts."""
    end = time.monotonic() + _READY_SECONDS
    while time.monotonic() < end and running.lives():
        with contextlib.suppress(OSError):
            if running.ask() == 200:
                return
        time.sleep(0.1)
    said = running.said()
    raise SystemExit(f"error: {running.server.name} does not answer; its log ends with:\n{said}")


@contextlib.contextmanager
def running(server: Server, image: str) -> Iterator[Running]:
    """Run a server until the block ends, from when it predicts."""
    started = start(server, image)
    try:
        ready(started)
        yield started
    finally:
        started.stop()


@contextlib.contextmanager
def clients(image: str) -> Iterator[str]:
    """A container for wrk, on the host's network."""
    container = docker(
        *("run", "-d", "--network", "host", "--no-healthcheck", "-v", f"{DATA}:/data:ro", image, "sleep", "infinity")
    )
    try:
        yield container
    finally:
        docker("rm", "-f", container)

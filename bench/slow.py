"""Slow clients: many that upload a byte a second, and what that does to the others."""

from bench import figures, machine, servers
from bench.figures import Figure
from bench.machine import DATA, docker

PHOTO = "500x375"
ROUNDS = 3
NORMAL = (1, 8)


def run(image: str, model: str, count: int, seconds: int) -> None:
    """Load the service alternately with and without the slow clients beside."""
    server = servers.ours(model, image)
    found: dict[tuple[bool, int], list[Figure]] = {}
    with servers.clients(image) as wrk, servers.running(server, image) as running:
        running.load(wrk, PHOTO, max(NORMAL), seconds)  # warm
        for _ in range(ROUNDS):
            for beside in (False, True):
                uploader = _start(image, running, count) if beside else None
                try:
                    for clients in NORMAL:
                        figure = running.load(wrk, PHOTO, clients, seconds)
                        found.setdefault((beside, clients), []).append(figure)
                finally:
                    if uploader:
                        docker("rm", "-f", uploader)
    rows = []
    for clients in NORMAL:
        alone, beside_slow = (figures.median(found[beside, clients]) for beside in (False, True))
        rows.append(
            [
                str(clients),
                f"{alone.rate:.1f}/s, {alone.p50_ms:.1f} ms",
                f"{beside_slow.rate:.1f}/s, {beside_slow.p50_ms:.1f} ms",
                f"{beside_slow.rate / alone.rate - 1:+.1%}, {beside_slow.p50_ms / alone.p50_ms - 1:+.1%}",
            ]
        )
    body = figures.table(["clients", "alone", f"beside {count} slow ones", "change of rate, of latency"], rows)
    body += f"\n\nMedians of {ROUNDS} interleaved rounds of {seconds} s; {machine.description()}."
    figures.record(f"Slow clients, {model}", body)


def _start(image: str, running: servers.Running, count: int) -> str:
    return docker(
        *("run", "-d", "--network", "host", "-v", f"{DATA}:/data:ro", image, "python", "-m", "bench.clients", "slow"),
        *("--port", str(running.port), "--path", running.server.path, "--photograph", f"/data/{PHOTO}.jpg"),
        *("--clients", str(count), "--seconds", "600"),
    )

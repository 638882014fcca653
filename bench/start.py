"""The start: seconds from `docker run` to ready, in phases, beside another version of the service."""

import contextlib
import json
import statistics
import time
import urllib.request

from bench import figures, machine, servers


def once(image: str, server: servers.Server) -> tuple[float, dict[str, float]]:
    """Start a container; return the seconds until it is ready and the phases that it reports."""
    began = time.perf_counter()
    running = servers.start(server, image)
    try:
        while not _ready(running.host):
            if time.perf_counter() - began > 120:
                raise SystemExit(f"error: {image} was not ready within 120 s; its log ends with:\n{running.said()}")
            time.sleep(0.02)
        took = time.perf_counter() - began
        with urllib.request.urlopen(f"http://{running.host}/api/v1/model/info", timeout=10) as answer:
            return took, json.loads(answer.read()).get("load_phases", {})
    finally:
        running.stop()


def _ready(host: str) -> bool:
    address = f"http://{host}/health/ready"
    with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5) as answer:
        return bool(answer.status == 200)
    return False


def run(image: str, before: str, model: str, rounds: int) -> None:
    """Start both versions alternately and record the medians."""
    deployed = {version: servers.ours(model, version) for version in (before, image)}
    for version, server in deployed.items():
        once(version, server)  # files into the page cache, for both
    times: dict[str, list[float]] = {before: [], image: []}
    phases: dict[str, list[float]] = {}
    for _ in range(rounds):
        for version, taken in times.items():
            took, parts = once(version, deployed[version])
            taken.append(took)
            if version == image:
                for name, seconds in parts.items():
                    phases.setdefault(name, []).append(seconds)
    old, new = (statistics.median(times[version]) for version in (before, image))
    rows = [["before", f"{old:.2f} s", ""], ["now", f"{new:.2f} s", f"{new / old:.0%} of before"]]
    rows += [[f"of it: {name}", f"{statistics.median(seconds):.2f} s", ""] for name, seconds in phases.items()]
    body = figures.table(["container start to ready", "median", ""], rows)
    body += f"\n\nMedians of {rounds} interleaved starts with a warm page cache; {machine.description()}."
    figures.record(f"Start, {model}", body)

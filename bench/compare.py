"""The comparison: every server in turn in every round, the others stopped meanwhile; medians beside the limits."""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from bench import environments, figures, machine, servers
from bench.figures import Figure
from bench.machine import DATA, ROOT

PHOTOS = ("500x375", "4000x3000")
SMALL, LARGE = "mobilenetv3_small_050", "resnet50"
PEERS = ("inline", "litserve", "mosec", "mosec+openvino")
# What the sweep found best: for each model, the name of each peer with its settings.
TUNED = Path(__file__).resolve().parent / "peers" / "tuned.json"
Cell = tuple[str, int]
Runs = dict[Cell, dict[str, list[Figure]]]


class Group(NamedTuple):
    """Servers of one model that are measured together."""

    model: str
    names: list[str]
    cells: list[Cell]


def tuned(model: str, peer: str) -> str:
    """The name of a peer with its best settings."""
    found: dict[str, dict[str, str]] = json.loads(TUNED.read_text(encoding="utf-8"))
    return found.get(model, {}).get(peer, peer)


def table() -> list[Group]:
    """What is measured by default: a model whose decoding counts, and one whose forward does."""
    small, large = PHOTOS
    one = ["ours", "ours+workers=1", "gateway"]
    two = [f"{kind}+precision={each}" for each in _precisions() for kind in ("ours", "gateway")]
    reduced = [
        f"{tuned(LARGE, 'mosec')}+precision=bf16",
        tuned(LARGE, "mosec+openvino").replace("openvino", "openvino=bf16"),
    ]
    return [
        Group(
            SMALL, [*one, *(tuned(SMALL, peer) for peer in PEERS)], [(small, 1), (small, 8), (small, 64), (large, 8)]
        ),
        Group(
            LARGE,
            [*two, *(tuned(LARGE, peer) for peer in PEERS), *(reduced if machine.reduces() else [])],
            [(small, 1), (small, 8)],
        ),
    ]


def _precisions() -> list[str]:
    return ["fp32", "bf16"] if machine.reduces() else ["fp32"]


def run(image: str, group: Group, rounds: int, seconds: int, title: str = "") -> None:
    """Measure a group and record its tables."""
    measured = measure(image, group, rounds, seconds)
    head = ["requests/s (slowest to fastest round), median latency", *map(_said, group.cells)]
    rows = [[name, *(figures.described(measured[cell][name]) for cell in group.cells)] for name in group.names]
    parts = [figures.table(head, rows)]
    own = [name for name in group.names if name.startswith("ours")]
    for mine in own:
        others = [name for name in group.names if name != mine]
        rows = [
            [
                other,
                *(
                    figures.ratio(*(figures.median(measured[cell][name]) for name in (mine, other)))
                    for cell in group.cells
                ),
            ]
            for other in others
        ]
        parts.append(figures.table([f"rate (latency) of {mine} as a multiple of", *map(_said, group.cells)], rows))
    parts += [_bounds(image, group, mine, measured, seconds) for mine in own]
    parts.append(_peers_limits(group, seconds))
    parts.append(f"{machine.description()}; medians of {rounds} interleaved rounds of {seconds} s.")
    figures.record(title or f"{group.model}: {', '.join(group.names)}", "\n\n".join(parts))


def _said(cell: Cell) -> str:
    photo, clients = cell
    return f"{photo}, {clients} client{'s' if clients > 1 else ''}"


def measure(image: str, group: Group, rounds: int, seconds: int) -> Runs:
    """Every server at every cell in every round."""
    measured: Runs = {cell: {name: [] for name in group.names} for cell in group.cells}
    with contextlib.ExitStack() as stack:
        wrk = stack.enter_context(servers.clients(image))
        running = []
        for name in group.names:
            server = servers.derived(servers.named(name, group.model), image)
            running.append(stack.enter_context(servers.running(server, image)))
            running[-1].pause()
        for turn in range(rounds):
            for photo, clients in group.cells:
                # Each round begins with another server, so that none always follows the same one.
                first = turn % len(running)
                for each in running[first:] + running[:first]:
                    each.resume()
                    each.settle()
                    figure = each.load(wrk, photo, clients, seconds)
                    each.pause()
                    measured[photo, clients][each.server.name].append(figure)
                    said = f"{figure.rate:.1f}/s {figure.p50_ms:.1f} ms"
                    busy = f"load {os.getloadavg()[0]:.1f}"
                    print(turn + 1, group.model, photo, clients, each.server.name, said, busy, flush=True)
    return measured


_LIMITS = {
    "forward": "forward alone",
    "decode": "decode alone",
    "http": "HTTP alone",
    "clients": "wrk alone",
    "both": "forward and decode",
    "all": "forward, decode, HTTP and wrk",
}


def _bounds(image: str, group: Group, mine: str, measured: Runs, seconds: int) -> str:
    precision = servers.named(mine, group.model).environment.get("API_PRECISION", "auto")
    rows, engine = [], ""
    for photo in dict.fromkeys(photo for photo, _ in group.cells):
        found = limit(image, group.model, photo, seconds, precision)
        engine = str(found["engine"])
        best = max(figures.median(runs[mine]).rate for (name, _), runs in measured.items() if name == photo)
        shares = [f"{best / float(found[key]):.0%}" for key in ("both", "all")]
        rows.append([photo, *(f"{float(found[key]):.1f}" for key in _LIMITS), *shares])
    head = [f"bounds of {mine} ({engine}), images/s", *_LIMITS.values(), "share of forward and decode", "share of all"]
    return figures.table(head, rows)


def limit(image: str, model: str, photo: str, seconds: int, precision: str) -> dict[str, float | str]:
    """What this machine can do with a model and a photograph when nothing else costs time."""
    found: dict[str, float | str] = json.loads(
        machine.python(
            image, "-m", "bench.limits", f"/data/models/{model}/1", f"/data/{photo}.jpg", str(seconds / 2), precision
        )
    )
    return found


def _peers_limits(group: Group, seconds: int) -> str:
    """The same of the peers, in their environments."""
    rows = []
    peers = [servers.named(name, group.model) for name in group.names if name.startswith("mosec")]
    # Settings of the server are none of the model.
    kept = ("BENCH_MODEL", "BENCH_OPENVINO", "BENCH_PRECISION")
    for environment in _distinct(
        {key: peer.environment[key] for key in kept if key in peer.environment} for peer in peers
    ):
        name = "mosec-openvino" if "BENCH_OPENVINO" in environment else "mosec"
        precision = environment.get("BENCH_PRECISION") or environment.get("BENCH_OPENVINO", "1").replace("1", "fp32")
        title = f"{'OpenVINO' if 'BENCH_OPENVINO' in environment else 'torch'} {precision}"
        for photo in dict.fromkeys(photo for photo, _ in group.cells):
            done = subprocess.run(
                [
                    *(environments.interpreter(name), "-m", "bench.peers.limits"),
                    *(str(DATA / f"{photo}.jpg"), str(seconds / 2)),
                ],
                env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
                check=True,
                capture_output=True,
                text=True,
            )
            found = json.loads(done.stdout)
            both = figures.combined(found["forward"], found["decode"])
            rows.append([title, photo, *(f"{rate:.1f}" for rate in (found["forward"], found["decode"], both))])
    return figures.table(["bounds of the peers, images/s", "photo", "forward alone", "decode alone", "both"], rows)


def _distinct(found: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    kept: list[dict[str, str]] = []
    for each in found:
        if each not in kept:
            kept.append(each)
    return kept

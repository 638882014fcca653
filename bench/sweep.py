"""The sweep: one peer with many settings, to find those that it is compared with."""

import itertools
import json

from bench import compare, figures, machine
from bench.compare import PHOTOS, Group

# Each setting with what is tried; the first of each is the program's default.
GRIDS: dict[str, dict[str, tuple[int, ...]]] = {
    "inline": {"workers": (1, 2)},
    "litserve": {"workers": (2, 1), "batch": (4, 1, 8), "wait": (1, 5)},
    "mosec": {"stages": (2, 1), "workers": (2, 1), "batch": (4, 1, 16), "wait": (1, 5)},
}
# mosec waits for nothing, and LitServe neither, where a batch is one.
_UNBATCHED = "+batch=1"
# How many run at a time: their memory.
_TOGETHER = 5


def names(peer: str) -> list[str]:
    """Every combination of a peer's settings that differs from the others."""
    grid = GRIDS[peer.partition("+")[0]]
    found = []
    for values in itertools.product(*grid.values()):
        name = peer + "".join(f"+{key}={value}" for key, value in zip(grid, values, strict=True))
        if not (f"{_UNBATCHED}+" in name and "wait" in grid and values[-1] != grid["wait"][0]):
            found.append(name)
    return found


def run(image: str, model: str, peer: str, clients: list[int], rounds: int, seconds: int) -> None:
    """Measure every setting, record the table, the best first, and keep the best for the comparison."""
    group = Group(model, names(peer), [(PHOTOS[0], count) for count in clients])
    measured: compare.Runs = {cell: {} for cell in group.cells}
    for first in range(0, len(group.names), _TOGETHER):
        part = group._replace(names=group.names[first : first + _TOGETHER])
        for cell, runs in compare.measure(image, part, rounds, seconds).items():
            measured[cell] |= runs
    medians = {name: [figures.median(measured[cell][name]) for cell in group.cells] for name in group.names}
    # What one client gets says little about a server's settings.
    order = sorted(
        medians, key=lambda name: -sum(medians[name][at].rate for at, count in enumerate(clients) if count > 1)
    )
    _keep(model, peer, order[0])
    rows = [[name, *(f"{found.rate:.1f}/s, {found.p50_ms:.1f} ms" for found in medians[name])] for name in order]
    head = [f"settings of {peer}", *(f"{count} client{'s' if count > 1 else ''}" for count in clients)]
    body = figures.table(head, rows)
    body += f"\n\n{PHOTOS[0]}, {rounds} interleaved rounds of {seconds} s; {machine.description()}."
    figures.record(f"Sweep of {peer}, {model}", body)


def _keep(model: str, peer: str, best: str) -> None:
    kept = json.loads(compare.TUNED.read_text(encoding="utf-8"))
    kept.setdefault(model, {})[peer] = best
    compare.TUNED.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", encoding="utf-8")

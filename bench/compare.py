"""The comparison: every server alone, one after the other, several rounds, medians beside the limits."""

import json
import os

from bench import figures, machine, servers
from bench.figures import Figure

PHOTOS = ("500x375", "4000x3000")


def run(image: str, model: str, names: list[str], cells: list[tuple[str, int]], rounds: int, seconds: int) -> None:
    """Measure each (photograph, clients) on each server and record the table."""
    every = [servers.ours(model, name) if name.startswith("ours") else servers.peer(name, model) for name in names]
    measured: dict[tuple[str, int], dict[str, list[Figure]]] = {cell: {name: [] for name in names} for cell in cells}
    limits = {photo: limit(image, model, photo, seconds) for photo in dict.fromkeys(photo for photo, _ in cells)}
    for turn in range(rounds):
        # Each round begins with another server, so that none always follows the same one.
        for server in every[turn % len(every) :] + every[: turn % len(every)]:
            with servers.running(server, image):
                for photo, clients in cells:
                    figure = servers.load(server, image, photo, clients, seconds)
                    measured[photo, clients][server.name].append(figure)
                    said = f"{figure.rate:.1f}/s {figure.p50_ms:.1f} ms"
                    busy = f"load {os.getloadavg()[0]:.1f}"
                    print(turn + 1, model, photo, clients, server.name, said, busy, flush=True)
    rows = []
    for (photo, clients), runs in measured.items():
        medians = {name: figures.median(figures_) for name, figures_ in runs.items()}
        rows.append([photo, str(clients), *figures.comparison(medians, names[0], limits[photo]["both_ours"])])
    head = ["photo", "clients", *names, *(f"{names[0]} / {name}" for name in names[1:]), "share of the bound"]
    body = figures.table(head, rows)
    raw = [[photo, *(f"{limits[photo][key]:.1f}" for key in LIMITS)] for photo in limits]
    body += f"\n\n{figures.table(['limits, images/s', *LIMITS.values()], raw)}"
    body += f"\n\n{machine.description()}; medians of {rounds} interleaved rounds of {seconds} s."
    figures.record(f"{model}: {', '.join(names)}", body)


LIMITS = {
    "forward_eager": "forward",
    "forward_served": "forward, as served",
    "decode_exact": "decode, exact",
    "decode_fast": "decode, fast",
    "both_usual": "combined as the peers work",
    "both_ours": "combined bound",
}


def limit(image: str, model: str, photo: str, seconds: int) -> dict[str, float]:
    """What this machine can do with a model and a photograph when nothing else costs time."""
    found: dict[str, float] = json.loads(
        machine.python(image, "-m", "bench.limits", f"/data/models/{model}/1", f"/data/{photo}.jpg", str(seconds / 2))
    )
    return found

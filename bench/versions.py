"""Two versions of the service, each alone, one after the other, several rounds: what a change costs or wins."""

from bench import figures, machine, servers
from bench.figures import Figure


def run(image: str, now: str, before: str, model: str, cells: list[tuple[str, int]], rounds: int, seconds: int) -> None:
    """Measure each (photograph, clients) on both images and record the table."""
    deployed = {version: servers.ours(model, version) for version in (before, now)}
    measured: dict[tuple[str, int], dict[str, list[Figure]]] = {cell: {before: [], now: []} for cell in cells}
    for turn in range(rounds):
        for version in (before, now) if turn % 2 else (now, before):
            with servers.clients(image) as wrk, servers.running(deployed[version], version) as running:
                for photo, clients in cells:
                    figure = running.load(wrk, photo, clients, seconds)
                    measured[photo, clients][version].append(figure)
                    print(turn + 1, photo, clients, version, f"{figure.rate:.1f}/s {figure.p50_ms:.1f} ms", flush=True)
    rows = []
    for (photo, clients), runs in measured.items():
        old, new = (figures.median(runs[version]) for version in (before, now))
        rows.append(
            [
                *(photo, str(clients)),
                *(f"{figure.rate:.1f}/s, {figure.p50_ms:.1f} ms" for figure in (old, new)),
                f"{new.rate / old.rate - 1:+.1%}, {new.p50_ms / old.p50_ms - 1:+.1%}",
            ]
        )
    head = ["photo", "clients", "before", "now", "change of rate, of latency"]
    body = f"{figures.table(head, rows)}\n\nMedians of {rounds} interleaved rounds of {seconds} s"
    figures.record(f"Versions, {model}", f"{body}; {machine.description()}.")

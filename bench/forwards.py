"""Forwards: what the service chooses for a model, beside torch and OpenVINO alone, each as their users have them."""

import json
import os
import statistics
import subprocess

from bench import environments, figures, machine
from bench.machine import DATA, ROOT

_WAYS = ("torch-eager-fp32", "torch-frozen-fp32", "openvino-fp32")
_REDUCED = ("torch-frozen-bf16", "openvino-bf16")


def run(image: str, models: list[str], rounds: int, seconds: int) -> None:
    """Measure each model in each way in every round, and record the table."""
    precisions = ("fp32", "bf16") if machine.reduces() else ("fp32",)
    ways = [*(f"served-{precision}" for precision in precisions), *_WAYS, *(_REDUCED if len(precisions) > 1 else ())]
    rows = []
    for model in models:
        chosen = _served(image, model, "auto", seconds)[0]
        rates: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(rounds):
            for way in ways[turn % len(ways) :] + ways[: turn % len(ways)]:
                rate = _rate(image, model, way, seconds)
                rates[way].append(rate)
                print(turn + 1, model, way, f"{rate:.1f}/s", flush=True)
        medians = {way: statistics.median(found) for way, found in rates.items()}
        for precision in precisions:
            mine = medians[f"served-{precision}"]
            others = {way: rate for way, rate in medians.items() if way.endswith(precision) and way[:6] != "served"}
            best = max(others.values())
            said = ", ".join(f"{way.removesuffix(f'-{precision}')} {rate:.1f}" for way, rate in others.items())
            cells = (f"{mine:.1f}" if mine else "refused", said, f"{mine / best:.2f}" if mine else "")
            rows.append([model, chosen, precision, *cells])
    head = ["model", "chosen", "in", "images/s by the service's engine", "alone", "of the best alone"]
    body = figures.table(head, rows)
    body += f"\n\n{machine.description()}; medians of {rounds} interleaved rounds of {seconds} s."
    figures.record(f"Forwards: {', '.join(models)}", body)


def _served(image: str, model: str, precision: str, seconds: int) -> tuple[str, float]:
    """The engine that the service chooses, and its rate; 0 where it refuses the precision."""
    printed = machine.python(image, "-m", "bench.forward", f"/data/models/{model}/1", precision, str(seconds))
    found = json.loads(printed.splitlines()[-1])
    return found["engine"], found["rate"]


def _rate(image: str, model: str, way: str, seconds: int) -> float:
    if way.startswith("served-"):
        return _served(image, model, way.removeprefix("served-"), seconds)[1]
    done = subprocess.run(
        [environments.interpreter("alone"), "-m", "bench.peers.forward", model, way, str(seconds)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "BENCH_MODEL": str(DATA / "models" / model)},
        check=True,
        capture_output=True,
        text=True,
    )
    return float(done.stdout.splitlines()[-1])

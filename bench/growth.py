"""Measure what a further host costs a run: nothing to do, and another model version, on 1, 2, 4 and 8 hosts.

    .venv/bin/ansible-playbook --inventory=inventory/local tests/prepare.yml
    .venv/bin/python -m bench.growth --hosts 1 2 4 8 --rounds 3

The hosts are containers of this machine with sshd and an engine of their own, reached by SSH as a user whose sudo asks
for a password; they share the machine's processors with the controller. The numbers of hosts are interleaved, medians
are compared. An update lets all hosts roll out together, so that its time is not that of one host after the other.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.integration.conftest import ARCHITECTURE
from tests.integration.support.bundles import Workshop
from tests.integration.support.lab import Lab

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / ".cache/test-images.json"
MODEL = "bench"
# A namespace of its own tells how many processes and threads the controller started, by the number of the last one.
COUNTED = '"$@"; code=$?; cat /proc/sys/kernel/ns_last_pid >"$COUNT"; exit $code'


@dataclass(frozen=True)
class Cost:
    """What one run took: wall and controller processor seconds, and how many processes and threads it started."""

    wall: float
    controller: float
    started: int


def measure(command: list[str], says: str, count: Path) -> Cost:
    """Run a playbook and return what it cost; failure, or not saying that, ends the benchmark."""
    words = ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", COUNTED, "sh", *command]
    with tempfile.TemporaryFile() as said:
        began = time.monotonic()
        process = subprocess.Popen(
            words, cwd=ROOT, env={**os.environ, "COUNT": str(count)}, stdout=said, stderr=subprocess.STDOUT
        )
        _, status, used = os.wait4(process.pid, 0)
        wall = time.monotonic() - began
        said.seek(0)
        output = said.read().decode(errors="replace")
    if status != 0 or says not in output:
        raise SystemExit(f"{' '.join(command)} did not say {says}:\n{output[-4000:]}")
    return Cost(wall, used.ru_utime + used.ru_stime, int(count.read_text()))


def make_bundles(folder: Path) -> Path:
    """Make the small model in two versions and return the folder of the bundles."""
    workshop = Workshop(json.loads(IMAGES.read_text())["runtime"], folder / "shop")
    for seed, version in enumerate("ab"):
        checkpoint = workshop.checkpoint(ARCHITECTURE, classes=67, seed=seed)
        workshop.bundle(checkpoint, architecture=ARCHITECTURE, name=MODEL, version=version, models=folder / "models")
    return folder / "models"


def reset(lab: Lab, version: str, **options: str) -> None:
    """Bring every host to the version."""
    run = lab.play("deploy", model_bundle_version=version, **options)
    if run.code != 0:
        raise SystemExit(run.output[-4000:])


def summary(costs: dict[str, dict[int, list[Cost]]]) -> dict[str, Any]:
    """Return medians by kind of run and number of hosts, and what a further host adds to each: the slope of a line."""
    found: dict[str, Any] = {}
    for kind, by_hosts in costs.items():
        medians = {
            number: {
                name: statistics.median(asdict(cost)[name] for cost in each)
                for name in ("wall", "controller", "started")
            }
            for number, each in by_hosts.items()
        }
        numbers = list(medians)
        further = {
            name: round(statistics.linear_regression(numbers, [medians[number][name] for number in numbers]).slope, 2)
            for name in ("wall", "controller", "started")
            if len(numbers) > 1
        }
        found[kind] = {
            "median": {
                str(number): {name: round(value, 2) for name, value in row.items()} for number, row in medians.items()
            },
            "further_host": further,
            "all": {str(number): [asdict(cost) for cost in each] for number, each in by_hosts.items()},
        }
    return found


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    costs: dict[str, dict[int, list[Cost]]] = {
        kind: {number: [] for number in options.hosts} for kind in ("nothing_to_do", "model_update")
    }
    with tempfile.TemporaryDirectory(prefix="bench-growth.") as name:
        folder = Path(name)
        lab = Lab(folder / "lab", "bench-growth", inference_hosts=max(options.hosts))
        lab.variables |= {
            "model_bundle_source": str(make_bundles(folder)),
            "model_bundle_name": MODEL,
            "model_bundle_version": "a",
            "inference_service_cpus": 1,
            "inference_service_memory": "1g",
        }
        together = {"deploy_batch": "100%", "deploy_canary": "100%"}
        with lab:
            reset(lab, "b", **together)
            for _ in range(options.rounds):
                reset(lab, "a", **together)
                # From many hosts to few: those of a smaller number have the version that the larger one was given.
                for number, (serves, next_one) in zip(
                    sorted(options.hosts, reverse=True), itertools.cycle((("a", "b"), ("b", "a")))
                ):
                    limit = "--limit=" + ",".join(f"gpu-{one}" for one in range(1, number + 1))
                    for kind, version, says in (
                        ("nothing_to_do", serves, "changed=0"),
                        ("model_update", next_one, "changed="),
                    ):
                        command = lab.command("deploy", limit, model_bundle_version=version, **together)
                        costs[kind][number].append(measure(command, says, folder / "count"))
                        print(kind, number, costs[kind][number][-1], file=sys.stderr, flush=True)
    print(json.dumps(summary(costs), indent=2))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Measure deploys of a service of its own on this machine: the bare floor, nothing to do, and another model version.

    .venv/bin/python bench/deploy.py --source models --name efficientnet-lite0-imagenet --version 1 --rounds 5

The three are interleaved, so that what else the machine does meets all of them; the medians are compared. The other
model version is a copy of the bundle under another version, made in a temporary folder. Nothing is left behind.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NAME = f"inference-bench-{hashlib.sha256(str(ROOT).encode()).hexdigest()[:6]}"


def free_port() -> int:
    """Return a port of this machine that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def copy_bundle(source: Path, target: Path, version: str) -> None:
    """Copy a bundle under another version, which its manifest states as well."""
    shutil.copytree(source, target / version)
    manifest = target / version / "bundle.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "version": version}))


def write_inventory(folder: Path, model: str) -> Path:
    """Write an inventory for a service of the benchmark's own and return its path."""
    variables = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "inference_service_name": NAME,
        "inference_service_port": free_port(),
        "inference_service_state_dir": str(folder / "state"),
        "model_bundle_source": str(folder / "models"),
        "model_bundle_name": model,
        "model_bundle_version": "a",
    }
    path = folder / "inventory.json"
    path.write_text(json.dumps({"inference_hosts": {"hosts": {"localhost": variables}}}))
    return path


def timed(command: list[str], says: str = "") -> float:
    """Run a command of the virtual environment and return its seconds; failure, or not saying that, ends the run."""
    tool = str(Path(sys.executable).with_name(command[0]))
    started = time.monotonic()
    done = subprocess.run([tool, *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - started
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
    if says not in done.stdout:
        raise SystemExit(f"{' '.join(command)} did not say {says}:\n{done.stdout[-3000:]}")
    return seconds


def last_record(folder: Path) -> dict[str, Any]:
    """Return the newest record of the host."""
    record: dict[str, Any] = json.loads(max((folder / "state" / "records").glob("*.json")).read_text())
    return record


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=ROOT / "models", help="folder of the bundles")
    parser.add_argument("--name", required=True, help="the bundle's name")
    parser.add_argument("--version", required=True, help="the bundle's version")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    times: dict[str, list[float]] = {"floor": [], "nothing_to_do": [], "model_update": []}
    phases: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="bench-deploy.") as name:
        folder = Path(name)
        for version in ("a", "b"):
            copy_bundle(options.source / options.name / options.version, folder / "models" / options.name, version)
        inventory = f"--inventory={write_inventory(folder, options.name)}"
        deploy = ["ansible-playbook", inventory, "playbooks/deploy.yml"]
        try:
            timed(deploy)
            timed([*deploy, "--extra-vars=model_bundle_version=b"])
            for number in range(options.rounds):
                wanted = f"--extra-vars=model_bundle_version={'ab'[number % 2]}"
                times["floor"].append(timed(["ansible", "localhost", inventory, "-m", "ansible.builtin.setup"]))
                times["model_update"].append(timed([*deploy, wanted]))
                record = last_record(folder)
                phases.append({**record["phases"], "rollout": record["seconds"]})
                times["nothing_to_do"].append(timed([*deploy, wanted], says="changed=0"))
        finally:
            subprocess.run(
                [Path(sys.executable).with_name("ansible-playbook"), inventory, "playbooks/teardown.yml"],
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
                check=False,
            )
    medians = {what: statistics.median(values) for what, values in times.items()}
    result = {
        "seconds": {what: [round(value, 2) for value in values] for what, values in times.items()},
        "median": {what: round(value, 2) for what, value in medians.items()},
        "of_floor": {what: round(value / medians["floor"], 2) for what, value in medians.items()},
        "update_phases_median": {what: round(statistics.median(row[what] for row in phases), 3) for what in phases[0]},
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

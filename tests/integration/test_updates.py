"""Many updates in a row under a constant stream of requests: none is lost, and what an update costs is written down.

INFERENCE_TEST_UPDATES sets how many; the figures go to .reports/updates.json.
"""

from __future__ import annotations

import collections
import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest

from tests.integration.support.load import Answer, SteadyClient
from tests.integration.support.playbooks import ROOT, Host, begin, docker

pytestmark = pytest.mark.trial

UPDATES = int(os.environ.get("INFERENCE_TEST_UPDATES", "4"))
PER_SECOND = 40
CALM_SECONDS = 20


def percentile(answers: list[Answer], share: float) -> float:
    """Return the seconds within which this share of the answers came."""
    times = sorted(answer.seconds for answer in answers)
    return times[min(int(len(times) * share), len(times) - 1)]


def figures(client: SteadyClient, began: float, ended: float) -> dict[str, Any]:
    """Sum up what was asked in an interval; the uploads apart, because they take their time on purpose."""
    answers = [answer for answer in client.answers if began <= answer.at < ended]
    small = [answer for answer in answers if not answer.large]
    failed = [answer for answer in answers if answer.status != 200]
    return {
        "requests": len(answers),
        "uploads": len(answers) - len(small),
        "failed": sum(answer.status != 0 for answer in failed),
        "cut": sum(answer.status == 0 for answer in failed),
        "problems": dict(collections.Counter(f"{answer.status} {answer.problem}" for answer in failed)),
        "longest_gap_s": round(client.longest_silence(began, ended), 3),
        "p50_s": round(percentile(small, 0.5), 3),
        "p99_s": round(percentile(small, 0.99), 3),
    }


def update(host: Host, version: str) -> None:
    """Deploy a version. Elsewhere the controller is another machine; here it gives way to what it deploys."""
    process = begin(["nice", "-n", "5", *host.command("deploy", model_bundle_version=version)])
    output, _ = process.communicate()
    assert process.returncode == 0, output[-6000:]


def megabytes(text: str) -> float:
    """Return what Docker says of memory, such as 12.5MiB, in MiB."""
    found = re.fullmatch(r"([\d.]+)(B|KiB|MiB|GiB)", text)
    assert found, text
    return round(float(found[1]) * {"B": 1 / 2**20, "KiB": 1 / 1024, "MiB": 1, "GiB": 1024}[found[2]], 1)


def belongings(host: Host) -> dict[str, Any]:
    """Return how much of everything the service has on this machine."""
    label = f"--filter=name={host.name}"
    memory = docker("stats", "--no-stream", "--format={{.Name}} {{.MemUsage}}", *(i["Id"] for i in host.containers()))
    used = {line.split()[0].removeprefix(f"{host.name}-"): megabytes(line.split()[1]) for line in memory.splitlines()}
    logs = [Path(item["LogPath"]) for item in host.containers()]
    return {
        "images": len(docker("image", "ls", "--quiet").split()),
        "volumes": len(docker("volume", "ls", "--quiet", label).split()),
        "networks": len(docker("network", "ls", "--quiet", label).split()),
        "containers": len(host.containers()),
        "records": len(host.records()),
        "releases": len(list((host.state_dir / "releases").iterdir())),
        "state_files": sum(1 for path in host.state_dir.rglob("*") if path.is_file()),
        "state_kib": sum(path.lstat().st_size for path in host.state_dir.rglob("*") if path.is_file()) // 1024,
        "log_kib": {path.name[:6]: path.stat().st_size // 1024 for path in logs if path.exists()},
        "gateway_mib": used["gateway"],
        "keeper_mib": used["keeper"],
    }


def test_updates_in_a_row_lose_nothing(host: Host, photograph: Path) -> None:
    # On a machine that is busy with the update itself a request may wait long. The question is whether one is lost.
    host.variables["inference_service_env"] = {"API_QUEUE_SECONDS": "30"}
    # What a second of answers says of a release is chance on such a machine; the bake has tests of its own.
    host.variables["inference_service_bake_seconds"] = 0
    host.deploy()
    # From here on both releases are kept, as before every further update.
    update(host, "B")
    update(host, "A")
    before = belongings(host)
    with SteadyClient(host.port, photograph, PER_SECOND) as client:
        time.sleep(1)
        calm = time.monotonic()
        time.sleep(CALM_SECONDS)
        began = time.monotonic()
        for number in range(UPDATES):
            version = "BA"[number % 2]
            update(host, version)
            record = host.records()[-1]
            assert (record["bundle"]["version"], record["result"], record["sequence"]) == (version, "ok", number + 4)
        ended = time.monotonic()
        time.sleep(1)
    after = belongings(host)
    report = {
        "updates": UPDATES,
        "requests_per_second": PER_SECOND,
        "seconds_per_update": round((ended - began) / UPDATES, 1),
        "before": before,
        "after": after,
        "without_update": figures(client, calm, began),
        "with_update": figures(client, began, ended),
    }
    print(json.dumps(report, indent=2))
    (ROOT / ".reports").mkdir(exist_ok=True)
    (ROOT / ".reports" / "updates.json").write_text(json.dumps(report, indent=2) + "\n")

    # An update leaves a record, and nothing else.
    for part in ("volumes", "networks", "containers", "releases"):
        assert after[part] == before[part], part
    assert after["records"] == before["records"] + UPDATES
    assert after["state_files"] == before["state_files"] + UPDATES
    assert client.failures == []
    served = [answer.model_version for answer in sorted(client.answers, key=lambda answer: answer.at)]
    assert set(served) == {"A", "B"}
    # What happened while the requests came is what the figures are about.
    assert {(answer.large, answer.fresh_connection) for answer in client.answers} == {
        (large, fresh) for large in (True, False) for fresh in (True, False)
    }

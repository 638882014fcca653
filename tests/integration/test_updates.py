"""Many updates in a row under a constant stream of requests: none is lost, and what an update costs is written down.

INFERENCE_TEST_UPDATES sets how many; the figures go to .reports/updates.json.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from tests.integration.support.load import Answer, SteadyClient
from tests.integration.support.playbooks import ROOT, Host

pytestmark = pytest.mark.trial

UPDATES = int(os.environ.get("INFERENCE_TEST_UPDATES", "4"))
PER_SECOND = 40
CALM_SECONDS = 20


def percentile(answers: list[Answer], share: float) -> float:
    """Return the seconds within which this share of the answers came."""
    times = sorted(answer.seconds for answer in answers)
    return times[min(int(len(times) * share), len(times) - 1)]


def figures(client: SteadyClient, began: float, ended: float) -> dict[str, float]:
    """Sum up what was asked in an interval; the uploads apart, because they take their time on purpose."""
    answers = [answer for answer in client.answers if began <= answer.at < ended]
    small = [answer for answer in answers if not answer.large]
    return {
        "requests": len(answers),
        "uploads": len(answers) - len(small),
        "failed": sum(answer.status not in (0, 200) for answer in answers),
        "cut": sum(answer.status == 0 for answer in answers),
        "longest_gap_s": round(client.longest_silence(began, ended), 3),
        "p50_s": round(percentile(small, 0.5), 3),
        "p99_s": round(percentile(small, 0.99), 3),
    }


def test_updates_in_a_row_lose_nothing(host: Host, photograph: Path) -> None:
    host.deploy()
    with SteadyClient(host.port, photograph, PER_SECOND) as client:
        time.sleep(1)
        calm = time.monotonic()
        time.sleep(CALM_SECONDS)
        began = time.monotonic()
        for number in range(UPDATES):
            version = "BA"[number % 2]
            host.deploy(model_bundle_version=version)
            record = host.records()[-1]
            assert (record["bundle"]["version"], record["result"], record["sequence"]) == (version, "ok", number + 2)
        ended = time.monotonic()
        time.sleep(1)
    report = {
        "updates": UPDATES,
        "requests_per_second": PER_SECOND,
        "seconds_per_update": round((ended - began) / UPDATES, 1),
        "without_update": figures(client, calm, began),
        "with_update": figures(client, began, ended),
    }
    print(json.dumps(report, indent=2))
    (ROOT / ".reports").mkdir(exist_ok=True)
    (ROOT / ".reports" / "updates.json").write_text(json.dumps(report, indent=2) + "\n")

    assert client.failures == []
    served = [answer.model_version for answer in sorted(client.answers, key=lambda answer: answer.at)]
    assert set(served) == {"A", "B"}
    # What happened while the requests came is what the figures are about.
    assert {(answer.large, answer.fresh_connection) for answer in client.answers} == {
        (large, fresh) for large in (True, False) for fresh in (True, False)
    }

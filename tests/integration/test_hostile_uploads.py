"""Thousands of hostile uploads on the service in its image: the trial itself is one of the service's own tests."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.integration.support.playbooks import ROOT

MEMORY = "2g"


@pytest.mark.trial
def test_hostile_uploads_are_answered_and_cost_no_more_than_honest_ones() -> None:
    image = json.loads((ROOT / ".cache" / "test-images.json").read_text())["test"]
    words = ["docker", "run", "--rm", "--network=none", f"--memory={MEMORY}", "--tmpfs=/tmp", "--env=HOME=/tmp"]
    words += ["--env=PYTHONDONTWRITEBYTECODE=1", f"--volume={ROOT}:/src:ro", "--workdir=/src", image]
    words += ["python", "-m", "pytest", "-p", "no:cacheprovider", "-s", "-m", "trial", "tests/unit/app"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-6000:]

"""What a person sees of a deploy over SSH, with a sudo password, while the link to the host is slow."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import MODEL, NAME
from tests.integration.support.lab import Lab
from tests.integration.support.playbooks import ROOT

pytestmark = pytest.mark.trial


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("lab"), f"{NAME}-screen") as machines:
        machines.variables |= {
            "model_bundle_source": str(models),
            "model_bundle_name": MODEL,
            "model_bundle_version": "A",
        }
        yield machines


def kept(output: str) -> list[str]:
    """Return the lines that a terminal keeps: all but those that tell progress."""
    return [line for line in output.splitlines() if "  … " not in line]


def test_a_first_deploy_over_a_slow_link_shows_what_is_under_way(lab: Lab) -> None:
    with lab["gpu-1"].slowed("4mbit"):
        run = lab.play("deploy")
    assert run.code == 0, run.output[-6000:]
    assert re.search(r"… model bundle .*: copy \d\.\d of \d\.\d MB, 0\.\d MB/s", run.output), run.output
    assert len(kept(run.output)) <= 45, run.output


def test_a_deploy_that_changes_nothing_is_a_dozen_lines(lab: Lab) -> None:
    run = lab.play("deploy")
    assert (run.code, run.changed) == (0, 0), run.output
    assert len(kept(run.output)) <= 12, run.output


def test_json_is_json(lab: Lab) -> None:
    environment = {**os.environ, "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"}
    done = subprocess.run(lab.command("status"), cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["stats"]["gpu-1"]["failures"] == 0


def test_a_failure_is_told_once_and_in_full(lab: Lab) -> None:
    run = lab.play("deploy", inference_service_memory="40m")
    assert run.code != 0, run.output
    assert run.output.count("it needs more memory than inference_service_memory allows") == 1, run.output
    assert "keeps serving" in run.output

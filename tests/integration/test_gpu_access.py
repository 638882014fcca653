"""What the real engine and the real image say where no GPU can be had, and what the access check makes of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.access import assess_access, command
from ansible_collections.gpu_hosts.timm.plugins.module_utils.gpu_host.commands import run
from tests.integration.support.bundles import Workshop
from tests.integration.support.playbooks import ROOT


def access(image: str, driver: str, devices: list[str]) -> dict[str, Any]:
    """Run the module on this machine; its answer comes back."""
    arguments = json.dumps({"image": image, "driver": driver, "devices": devices})
    ansible = str(Path(sys.executable).with_name("ansible"))
    here = ["-i", "localhost,", "-c", "local", "-e", f"ansible_python_interpreter={sys.executable}"]
    done = subprocess.run(
        [ansible, "localhost", *here, "-m", "gpu_hosts.timm.gpu_access", "-a", arguments],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.split("=>", 1)[1])
    return answer


@pytest.mark.parametrize(
    ("driver", "device"), [("cdi", "nvidia.com/gpu=no-such-device"), ("nvidia", "GPU-00000000-no-such-device")]
)
def test_the_engine_refuses_a_device_that_it_cannot_give(workshop: Workshop, driver: str, device: str) -> None:
    answer = access(workshop.image, driver, [device])
    assert not answer["changed"]
    (found,) = answer["findings"]
    assert found["severity"] == "error"
    # Which of them depends on whether this engine reads CDI specifications and has the toolkit's hook.
    assert found["id"] in {"GPU010", "GPU012", "GPU028"}


def test_the_probe_answers_in_the_image_without_a_gpu(workshop: Workshop) -> None:
    """The command of the access check, less the devices: nothing of the driver is in the container, and it says so."""
    outcome = run(command(workshop.image, "cdi", []), 60)
    assert outcome.ok, outcome.text
    (found,) = assess_access(outcome, 1)
    assert (found["id"], "holds no libcuda" in found["summary"]) == ("GPU010", True)

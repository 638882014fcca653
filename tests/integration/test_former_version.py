"""A host that an earlier version deployed is updated by today's playbooks, and goes back, without a lost request.

The earlier playbooks run from a checkout of their own, which git has, and build their own image.
"""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import ARCHITECTURE, MODEL, NAME
from tests.integration.support.bundles import Workshop
from tests.integration.support.load import SteadyClient
from tests.integration.support.playbooks import ROOT, Host, begin

pytestmark = pytest.mark.trial

# The last one before the collection: other labels, other names of variables and modules, another gateway and keeper.
COMMIT = "5539c80"
PER_SECOND = 20


@pytest.fixture(scope="module")
def former(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkout of the earlier version."""
    archive = subprocess.run(["git", "archive", COMMIT], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode != 0:
        pytest.skip(f"the history of this checkout does not reach back to {COMMIT}")
    checkout = tmp_path_factory.mktemp("former")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(checkout, filter="data")
    return checkout


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory, workshop: Workshop, former: Path) -> Iterator[Host]:
    """This machine with what the earlier version deployed; each version makes a bundle of the same checkpoint."""
    host = Host(
        tmp_path_factory.mktemp("host"),
        f"{NAME}-former",
        model_bundle_name=MODEL,
        model_bundle_version="A",
        model_bundle_create={
            "checkpoint": str(workshop.checkpoint(ARCHITECTURE, classes=67, seed=0)),
            "architecture": ARCHITECTURE,
            "labels": str(ROOT / "app/data/labels/cat_breeds.txt"),
        },
        # On a machine that is busy with the update a request may wait long. The question is whether one is lost.
        inference_service_env={"API_PRECISION": "fp32", "API_QUEUE_SECONDS": "30"},
        inference_service_bake_seconds=0,
    )
    host.remove()
    process = begin(host.command("deploy"), former)
    output, _ = process.communicate()
    assert process.returncode == 0, output[-6000:]
    yield host
    host.remove()


def require_nothing_lost(host: Host, photograph: Path, playbook: str, **extra: Any) -> list[str]:
    """Run a playbook while requests come, none of which may fail; return the model versions that answered."""
    with SteadyClient(host.port, photograph, PER_SECOND) as client:
        run = host.play(playbook, **extra)
    print(f"{playbook} {extra}: {client}")
    lost = [dataclasses.asdict(answer) for answer in client.failures]
    assert run.code == 0, f"{run.output[-6000:]}\n{lost[:5]}"
    assert lost == [], json.dumps(lost[:5], indent=2)
    return client.model_versions


def test_the_next_deploy_takes_it_over(deployed: Host, photograph: Path) -> None:
    assert require_nothing_lost(deployed, photograph, "deploy", model_bundle_version="B") == ["A", "B"]
    assert deployed.deploy(model_bundle_version="B").changed == 0
    names = {item["Name"] for item in deployed.containers()}
    assert names >= {f"/{deployed.name}-gateway", f"/{deployed.name}-keeper"}


def test_a_rollback_brings_its_release_back_and_a_deploy_the_new_one(deployed: Host, photograph: Path) -> None:
    first = deployed.records()[0]
    assert require_nothing_lost(deployed, photograph, "rollback") == ["B", "A"]
    assert deployed.instance()["Image"] == first["image"]["id"]
    assert require_nothing_lost(deployed, photograph, "deploy", model_bundle_version="B") == ["A", "B"]

"""What other people's trainers write is deployed by variables alone, and answers as the model that was trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration.support.bundles import Workshop
from tests.integration.support.load import post
from tests.integration.support.playbooks import Host

pytestmark = pytest.mark.trial


@pytest.mark.parametrize("kind", ["timm", "lightning", "fastai"])
def test_a_trainers_file_deploys_by_variables_alone(
    host: Host, workshop: Workshop, photograph: Path, kind: str
) -> None:
    folder = f"/shop/{kind}"
    told = json.loads(workshop.run("python", "/scripts/train_checkpoint.py", kind, folder, f"/shop/{photograph.name}"))
    options = {
        name: str(workshop.folder / kind / "pictures") if name == "labels" else value
        for name, value in told["options"].items()
    }
    host.deploy(
        model_bundle_name=f"of-{kind}",
        model_bundle_version="1",
        model_bundle_create={"checkpoint": str(workshop.folder / kind / "checkpoint"), **options},
    )
    status, answer = post(host.port, photograph.read_bytes())
    assert status == 200
    given = {item["class_name"]: item["confidence"] for item in answer["top_5_predictions"]}
    assert given == pytest.approx(told["expected"], abs=1e-3)
    assert answer["model_info"]["num_classes"] == len(told["expected"])

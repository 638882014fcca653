"""What the integration tests share: the images, photographs, small models, and this machine as a host."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.collection import find_collection
from tests.integration.support.bundles import Workshop
from tests.integration.support.playbooks import ROOT, Host

find_collection()

# Two checkouts on one machine share its engine, so each tests a service of its own.
NAME = f"inference-test-{hashlib.sha256(str(ROOT).encode()).hexdigest()[:6]}"
MODEL = "small"
ARCHITECTURE = "mobilenetv3_small_050"


@pytest.fixture(scope="session")
def images() -> dict[str, str]:
    """Names of the images that tests/prepare.yml made of this checkout."""
    names = Path(os.environ.get("INFERENCE_TEST_IMAGES", ROOT / ".cache" / "test-images.json"))
    if not names.exists():
        pytest.fail(f"{names} is missing; run the tests with make integration, which builds the images first")
    return dict(json.loads(names.read_text()))


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory, images: dict[str, str]) -> Workshop:
    """Runs Python in the service's image."""
    shop = Workshop(images["runtime"], tmp_path_factory.mktemp("workshop"))
    for photograph in (ROOT / "app" / "data" / "golden").glob("*.jpg"):
        (shop.folder / photograph.name).write_bytes(photograph.read_bytes())
    return shop


@pytest.fixture(scope="session")
def photograph() -> Path:
    """A photograph of a cat."""
    return ROOT / "app" / "data" / "golden" / "cat.jpg"


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, workshop: Workshop) -> Path:
    """The small model in versions A and B."""
    folder = tmp_path_factory.mktemp("models")
    for seed, version in enumerate("AB"):
        checkpoint = workshop.checkpoint(ARCHITECTURE, classes=67, seed=seed)
        workshop.bundle(checkpoint, architecture=ARCHITECTURE, name=MODEL, version=version, models=folder)
    return folder


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Host]:
    """This machine with a service of the tests' own, and both versions of the small model; removed afterwards."""
    machine = Host(
        tmp_path_factory.mktemp("host"),
        NAME,
        model_bundle_name=MODEL,
        model_bundle_version="A",
        # Random weights lie closer together than bf16 can tell apart, which a busy machine may measure to be faster.
        inference_service_env={"API_PRECISION": "fp32"},
    )
    shutil.copytree(models, machine.models, dirs_exist_ok=True)
    machine.remove()
    yield machine
    machine.remove()

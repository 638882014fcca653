"""Fixtures: one small bundle and one server for all tests that only ask."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from app.bundle.create import Order, create
from tests.unit.app.support import GOLDEN, SMALL, Server, serve, timm_model, wait_for, write_labels


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain timm state dict on disk."""
    path = tmp_path_factory.mktemp("checkpoint") / "small.pth"
    torch.save(timm_model().state_dict(), path)
    return path


@pytest.fixture(scope="session")
def order(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Order:
    """What the small bundle is made from."""
    folder = tmp_path_factory.mktemp("models")
    return Order(
        checkpoint=checkpoint,
        architecture=SMALL,
        labels=write_labels(folder / "labels.txt"),
        name="small",
        version="1",
        output=folder,
        image_size=64,
        golden=GOLDEN,
    )


@pytest.fixture(scope="session")
def bundle(order: Order) -> Path:
    """The small bundle."""
    return create(order)[2]


@pytest.fixture(scope="session")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A ready service process."""
    folder = tmp_path_factory.mktemp("server")
    logs = folder / "logs"
    logs.mkdir()
    with serve(
        folder,
        bundle_path=bundle,
        release_id="release-7",
        log_dir=logs,
        max_files=4,
        log_level="INFO",
        decode="exact",
        precision="fp32",
    ) as running:
        wait_for(running.ready)
        yield running

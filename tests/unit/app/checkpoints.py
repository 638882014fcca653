"""Checkpoints of any content, read or refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

from app.errors import BundleError
from app.models import checkpoint
from app.models.checkpoint import Checkpoint, Wish

# timm has some for tests: seconds matter here.
SMALL = "test_efficientnet"


def read(folder: Path, content: Any, architecture: str = SMALL, **wish: Any) -> Checkpoint:
    """What is read of a checkpoint with this content."""
    path = folder / "checkpoint.pth"
    torch.save(content, path)
    return checkpoint.read(path, Wish(architecture, **wish))


def refusal(folder: Path, content: Any, architecture: str = SMALL, **wish: Any) -> BundleError:
    """Why a checkpoint with this content is refused."""
    with pytest.raises(BundleError) as caught:
        read(folder, content, architecture, **wish)
    return caught.value

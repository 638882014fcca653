"""Make checkpoints and bundles inside the service's image, where torch is."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from tests.integration.support.playbooks import docker

SCRIPTS = Path(__file__).resolve().parent / "in_image"


class Workshop:
    """Runs Python inside an image, with one folder of this machine to write to."""

    def __init__(self, image: str, folder: Path) -> None:
        self.image = image
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def run(self, *command: str) -> str:
        """Run a command in the image; the folder is /shop there, our own scripts are /scripts."""
        return docker(
            *(
                "run",
                "--rm",
                "--network=none",
                f"--user={os.getuid()}:{os.getgid()}",
                "--tmpfs=/tmp",
                "--env=HOME=/tmp",
            ),
            *(
                f"--volume={self.folder}:/shop",
                f"--volume={SCRIPTS}:/scripts:ro",
                "--entrypoint=",
                self.image,
                *command,
            ),
        )

    def checkpoint(self, architecture: str, classes: int, seed: int, shape: str = "plain") -> Path:
        """Write a checkpoint with random weights; shape is plain (timm's own keys) or trainer (a training run's)."""
        name = f"{architecture}-{seed}-{shape}.pth"
        self.run("python", "/scripts/make_checkpoint.py", architecture, str(classes), str(seed), shape, f"/shop/{name}")
        return self.folder / name

    def bundle(self, checkpoint: Path, *options: str, architecture: str, name: str, version: str, models: Path) -> Path:
        """Make a bundle from a checkpoint of 67 classes, those of the cats, and put it into a folder of models."""
        arguments = {"checkpoint": f"/shop/{checkpoint.name}", "architecture": architecture, "name": name}
        arguments["labels"] = "/app/app/data/labels/cat_breeds.txt"
        flags = [f"--{key}={value}" for key, value in {**arguments, "version": version, "output": "/shop/made"}.items()]
        shutil.rmtree(self.folder / "made", ignore_errors=True)
        self.run("python", "-m", "app.bundle", "create", *flags, *options)
        target = models / name / version
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(self.folder / "made" / name / version, target)
        return target

    def expected(self, script: str, *arguments: str) -> Any:
        """Run one of the reference scripts and return the JSON that it prints."""
        return json.loads(self.run("python", f"/scripts/{script}", *arguments))

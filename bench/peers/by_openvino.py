"""The model by OpenVINO, without torch: what the service converts it to, behind Pillow's resizing."""

import io
import json
import math
from pathlib import Path

import numpy as np
import openvino
from PIL import Image

from bench.peers.common import Answer, answer


class ByOpenVino:
    """One stream; pixels are normalized and classes ranked inside the model."""

    def __init__(self, folder: Path, threads: int, precision: str) -> None:
        settings = json.loads((folder / "1" / "bundle.json").read_text(encoding="utf-8"))["input"]
        self._side = settings["size"][1]
        self._short = math.floor(self._side / settings["crop_pct"])
        self._filter = Image.Resampling[settings["interpolation"].upper()]
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": precision,
            # Processes that know nothing of each other would all take the first core.
            "ENABLE_CPU_PINNING": False,
        }
        self._compiled = openvino.compile_model(str(folder / "openvino.xml"), "CPU", options)

    def prepare(self, content: bytes) -> np.ndarray:
        """The model's input from a file, by the same steps as timm's transform."""
        picture = Image.open(io.BytesIO(content)).convert("RGB")
        scale = self._short / min(picture.size)
        picture = picture.resize((int(picture.width * scale), int(picture.height * scale)), self._filter)
        left, top = (round((length - self._side) / 2) for length in picture.size)
        return np.asarray(picture.crop((left, top, left + self._side, top + self._side)))

    def classify(self, batch: list[np.ndarray]) -> list[Answer]:
        """The best classes of each picture."""
        found = self._compiled([np.stack(batch)])
        return [answer(*pair) for pair in zip(found[1].tolist(), found[0].tolist(), strict=True)]

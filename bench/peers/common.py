"""What the peers' servers share: their settings, the labels, and the model by torch or by OpenVINO."""

import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np

CPUS = len(os.sched_getaffinity(0))
PORT = int(os.environ.get("BENCH_PORT", "0"))
# A folder made by bench/prepare.py: a bundle in 1, and what the service converts it to.
MODEL = Path(os.environ["BENCH_MODEL"])
# "1" for fp32, or the name of a precision.
OPENVINO = os.environ.get("BENCH_OPENVINO", "")
LABELS = (MODEL / "1" / "labels.txt").read_text(encoding="utf-8").splitlines()

Answer = dict[str, object]


class Model(Protocol):
    """What a server needs."""

    def prepare(self, content: bytes) -> np.ndarray:
        """The model's input from a file."""

    def classify(self, batch: list[np.ndarray]) -> list[Answer]:
        """The answers to some inputs."""


def option(name: str, default: int) -> int:
    """A setting of the peer that the comparison varies."""
    return int(os.environ.get(f"BENCH_{name}", default))


def load(threads: int) -> Model:
    """The model, computed by so many threads."""
    if OPENVINO:
        from bench.peers.by_openvino import ByOpenVino

        return ByOpenVino(MODEL, threads, "f32" if OPENVINO == "1" else OPENVINO)
    from bench.peers.by_torch import ByTorch

    return ByTorch(MODEL.name, threads, os.environ.get("BENCH_PRECISION", "fp32"))


def classified(model: Model, inputs: Any, *, batched: bool) -> Any:
    """Answers to a list of inputs; a server that does not batch gives one and wants one."""
    return model.classify(inputs) if batched else model.classify([inputs])[0]


def answer(class_ids: list[int], probabilities: list[float]) -> Answer:
    """The answer to one picture."""
    best = zip(class_ids, probabilities, strict=True)
    return {"top": [{"class_id": i, "class_name": LABELS[i], "confidence": value} for i, value in best]}

"""The model by torch and timm, and timm's own transform, as their users write it."""

import io
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bench.peers.common import Answer, answer


def _declare_operators() -> None:
    """Declare the operators that torchvision describes, where its own do not load.

    Its wheel is built for CUDA and does not find its operators beside a torch for CPUs; no classifier has any of them.
    """
    found = find_spec("torchvision")
    for folder in (found.submodule_search_locations or ()) if found else ():
        for library in Path(folder).glob("_C*.so"):
            try:
                torch.ops.load_library(str(library))
            except OSError:
                continue
            return
    operators = torch.library.Library("torchvision", "FRAGMENT")
    operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _KEPT.append(operators)


# They are gone with the object that declared them.
_KEPT: list[torch.library.Library] = []
_declare_operators()


class ByTorch:
    """A model with random weights."""

    def __init__(self, name: str, threads: int, precision: str) -> None:
        # Only now: it wants torchvision's operators.
        import timm
        from timm.data import create_transform, resolve_data_config

        torch.set_num_threads(threads)
        torch.manual_seed(0)
        self.type = torch.bfloat16 if precision == "bf16" else torch.float32
        self.module = timm.create_model(name).eval().to(self.type)
        recipe = resolve_data_config({}, model=self.module)
        self.size: tuple[int, ...] = recipe["input_size"]
        self._transform = create_transform(**recipe, is_training=False)

    def prepare(self, content: bytes) -> np.ndarray:
        """The model's input from a file."""
        return self._transform(Image.open(io.BytesIO(content)).convert("RGB")).numpy()

    def classify(self, batch: list[np.ndarray]) -> list[Answer]:
        """The five best classes of each picture."""
        with torch.inference_mode():
            logits = self.module(torch.from_numpy(np.stack(batch)).to(self.type))
            values, ids = logits.float().softmax(1).topk(5)
        return [answer(*pair) for pair in zip(ids.tolist(), values.tolist(), strict=True)]

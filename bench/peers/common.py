"""What the peers' servers share: the model and timm's own transform, as their users would write it."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config

MODEL = os.environ["BENCH_MODEL"]
FOLDED = os.environ.get("BENCH_FOLDED") == "1"
# "1" for fp32, or the name of a precision.
OPENVINO = os.environ.get("BENCH_OPENVINO", "")
CPUS = len(os.sched_getaffinity(0))
PORT = int(os.environ["BENCH_PORT"])
LABELS = Path("/app/app/data/labels/imagenet_1k.txt").read_text(encoding="utf-8").splitlines()


def option(name: str, default: int) -> int:
    """A setting of the peer that the comparison varies."""
    return int(os.environ.get(f"BENCH_{name}", default))


def load(threads: int) -> tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[Image.Image], torch.Tensor]]:
    """The model with random weights, folded or by OpenVINO when asked, and its transform."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = timm.create_model(MODEL).eval().requires_grad_(requires_grad=False)
    transform = create_transform(**resolve_data_config({}, model=model), is_training=False)
    if FOLDED:
        torch.jit.set_fusion_strategy([])
        model = torch.jit.freeze(torch.jit.trace(model, torch.rand(1, 3, 224, 224), check_trace=False))
    if OPENVINO:
        return _by_openvino(model, threads), transform
    return model, transform


def _by_openvino(model: torch.nn.Module, threads: int) -> Callable[[torch.Tensor], torch.Tensor]:
    import openvino

    converted = openvino.convert_model(model, example_input=torch.rand(1, 3, 224, 224))
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32" if OPENVINO == "1" else OPENVINO,
        "ENABLE_CPU_PINNING": False,
    }
    compiled = openvino.compile_model(converted, "CPU", options)
    return lambda batch: torch.from_numpy(compiled(batch.numpy())[0])


def decode(content: bytes) -> Image.Image:
    """The picture of a request."""
    return Image.open(io.BytesIO(content)).convert("RGB")


def rank(logits: torch.Tensor) -> list[dict[str, object]]:
    """The five best classes of each image."""
    values, ids = logits.softmax(1).topk(5)
    return [
        {"top": [{"class_id": i, "class_name": LABELS[i], "confidence": v} for i, v in zip(row, best, strict=True)]}
        for row, best in zip(ids.tolist(), values.tolist(), strict=True)
    ]

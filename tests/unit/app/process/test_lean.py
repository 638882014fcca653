import json
from typing import Any

import pytest
import timm
import torch

from app.bundle.manifest import Design
from app.models import networks
from tests.unit.app.support import fresh

LEAN = """
import json, sys
from app.process import lean
with lean.imports():
    from app.start import candidates
"""
# What a start must not pay for.
HEAVY = ("sympy", "torch._dynamo", "torch._inductor", "torch._meta_registrations", "torch.onnx", "torchvision.datasets",
         "torchvision.models", "huggingface_hub")  # fmt: skip


def run(code: str) -> Any:
    """What a fresh interpreter prints after the service's own imports."""
    return json.loads(fresh(LEAN + code).stdout)


def test_a_start_imports_none_of_what_it_never_uses() -> None:
    assert run(f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))") == []


@pytest.mark.parametrize(
    "name", ["torchvision.datasets", "torchvision.models", "torch._dynamo.utils", "torch.quantization"]
)
def test_whoever_asks_later_gets_the_real_module(name: str) -> None:
    code = f"import importlib; module = importlib.import_module({name!r}); print(json.dumps(module.__file__))"
    assert name.replace(".", "/") in run(code)


def test_a_function_of_a_module_that_was_put_off_works() -> None:
    assert run(
        "from torchvision.ops import roi_align\n"
        "from torchvision.ops.roi_align import is_compile_supported\n"
        "print(json.dumps([isinstance(is_compile_supported('cpu'), bool), 'torch._dynamo' in sys.modules]))"
    ) == [True, True]


def test_models_answer_as_they_do_after_a_full_import() -> None:
    torch.manual_seed(0)
    full = timm.create_model("mobilenetv3_small_050").eval()(torch.full((1, 3, 64, 64), 0.5))[0, :5]
    lean = run(
        "import timm, torch\n"
        "torch.manual_seed(0)\n"
        "output = timm.create_model('mobilenetv3_small_050').eval()(torch.full((1, 3, 64, 64), 0.5))[0, :5]\n"
        "print(json.dumps(output.tolist()))"
    )
    assert lean == pytest.approx(full.tolist(), abs=1e-5)


@pytest.mark.parametrize("architecture", ["levit_128", "swinv2_cr_tiny_224", "vitamin_small_224"])
def test_an_architecture_that_needs_what_was_put_off_is_built(architecture: str) -> None:
    built = run(
        "from app.models import networks\n"
        "from app.bundle.manifest import Design\n"
        f"module = networks.build(Design(architecture={architecture!r}, num_classes=7))\n"
        "print(json.dumps([sum(value.numel() for value in module.parameters()), next(module.parameters()).is_meta]))"
    )
    here = networks.build(Design(architecture=architecture, num_classes=7))
    assert built == [sum(value.numel() for value in here.parameters()), True]


def test_openvino_converts_a_model_after_a_lean_import_and_brings_nothing_heavy() -> None:
    assert run(
        "import timm\n"
        "from app.bundle.manifest import Input\n"
        "from app.engines.conversion import convert\n"
        "settings = Input(size=(3, 64, 64), mean=(0, 0, 0), std=(1, 1, 1), interpolation='bicubic', crop_pct=1, "
        "crop_mode='center')\n"
        "model = timm.create_model('mobilenetv3_small_050').eval().requires_grad_(False)\n"
        "inputs = len(convert(model, settings, 'softmax').inputs)\n"
        f"print(json.dumps([inputs, [name for name in {HEAVY!r} if name in sys.modules]]))"
    ) == [1, []]


def test_http_builds_no_validators_for_a_document_that_nobody_asked_for() -> None:
    printed = fresh(
        "import json, app.http.server\n"
        "from fastapi import FastAPI\n"
        "from fastapi.openapi import models\n"
        "from pydantic import BaseModel\n"
        "class Whole(BaseModel): pass\n"
        "print(json.dumps([models.OpenAPI.__pydantic_complete__, Whole.__pydantic_complete__, "
        "FastAPI(title='a', version='1').openapi()['info']['title']]))"
    ).stdout
    assert json.loads(printed) == [False, True, "a"]

import warnings

import pytest
import torch
from torch import nn

from app.engines import folding
from tests.unit.app.support import timm_model, with_statistics

EXAMPLE = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))


def untraceable() -> nn.Sequential:
    def fail(*_: object) -> None:
        raise TypeError("this model needs more than a tensor")

    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    model.register_forward_pre_hook(fail)
    return model


def branching() -> nn.Sequential:
    """A model that answers by its batch size, which a trace turns into a constant."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    model.register_forward_hook(lambda _, inputs, output: output if inputs[0].shape[0] == 1 else output + 1)
    return model


def reshaping() -> nn.Sequential:
    """A model whose trace has the size of the batch in it."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    model.register_forward_hook(lambda _, inputs, output: output.reshape(int(inputs[0].shape[0]), 4, 62, 62))
    return model


def test_a_frozen_model_has_no_batch_norm_and_answers_alike() -> None:
    model = timm_model().requires_grad_(False)
    frozen = folding.freeze(model, EXAMPLE[:1])
    assert isinstance(frozen, torch.jit.ScriptModule)
    assert "batch_norm" not in str(frozen.graph)
    for count in (1, 2):
        folding.check(frozen, EXAMPLE[:count], model(EXAMPLE[:count]), 1e-4)


def test_a_model_that_cannot_be_traced_says_so() -> None:
    with pytest.raises(folding.NotFoldedError, match="more than a tensor"):
        folding.freeze(untraceable().requires_grad_(False).eval(), EXAMPLE[:1])


@pytest.mark.parametrize(("model", "said"), [(branching(), "differ by"), (reshaping(), "shape")])
def test_a_trace_that_only_holds_for_one_image_does_not_fit(model: nn.Module, said: str) -> None:
    model = model.requires_grad_(False).eval()
    with warnings.catch_warnings(record=True) as warned:
        frozen = folding.freeze(model, EXAMPLE[:1])
    assert not warned
    with pytest.raises(folding.NotFoldedError, match=said):
        folding.check(frozen, EXAMPLE, model(EXAMPLE), 1e-4)


@pytest.mark.parametrize("architecture", ["mobilenetv3_small_050", "resnet18", "densenet121", "convnext_atto"])
def test_batch_norms_that_do_nothing_leave_the_answers(architecture: str) -> None:
    model = with_statistics(timm_model(architecture)).requires_grad_(False)
    expected = model(EXAMPLE)
    changed = folding.without_norms(model)
    for name, value in changed.items():
        parent, _, leaf = name.rpartition(".")
        module = model.get_submodule(parent)
        setattr(module, leaf, nn.Parameter(value) if leaf in ("weight", "bias") else value)
    assert torch.allclose(model(EXAMPLE), expected, atol=1e-3 * float(expected.abs().max()))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    still = [module for module in norms if not torch.allclose(module.weight, torch.ones(()))]
    # A batch norm that comes before its convolution stays.
    assert len(still) < len(norms) * 0.6 if norms else not changed

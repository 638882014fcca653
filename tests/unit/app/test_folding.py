import pytest
import torch
from torch import nn

from app.folding import fold
from tests.unit.app.support import timm_model

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


def test_a_folded_model_has_no_batch_norm_and_answers_alike() -> None:
    model = timm_model().requires_grad_(False)
    folded = fold(model, EXAMPLE)
    assert isinstance(folded, torch.jit.ScriptModule)
    assert "batch_norm" not in str(folded.graph)
    for count in (1, 2):
        assert torch.allclose(folded(EXAMPLE[:count]), model(EXAMPLE[:count]), atol=1e-4)


@pytest.mark.parametrize(("model", "said"), [(untraceable(), "more than a tensor"), (branching(), "differ by")])
def test_a_model_that_cannot_be_folded_is_served_as_it_is(
    model: nn.Module, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert fold(model.requires_grad_(False).eval(), EXAMPLE) is model
    (record,) = caplog.records
    assert record.__dict__["code"] == "not_folded"
    assert said in record.__dict__["detail"]

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from app import folding, packing
from tests.unit.app.support import timm_model

IMAGES = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(5)).to(memory_format=torch.channels_last)


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def frozen(model: nn.Module, example: Tensor = IMAGES) -> nn.Module:
    trace = folding.freeze(model.requires_grad_(False).eval(), example[:1])
    assert trace is not None
    return trace


def packed(model: nn.Module) -> nn.Module:
    result = packing.pack(frozen(model))
    assert result is not None
    return result


def wired(wiring: Callable[[nn.Module, Tensor], Tensor]) -> nn.Module:
    """Three convolutions, used as a test says."""
    torch.manual_seed(6)
    model = nn.Module()
    model.first, model.second, model.third = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
    model.forward = partial(wiring, model)
    return model


@pytest.mark.parametrize(
    ("architecture", "gone"),
    [
        ("resnet18", "aten::relu aten::add"),
        ("mobilenetv2_050", "aten::hardtanh aten::add"),
        ("mobilenetv3_small_050", "aten::hardswish"),
        ("efficientnet_b0", "aten::silu"),
        ("tf_efficientnet_lite0", "aten::relu6"),
        ("regnety_002", ""),
        ("densenet121", ""),
        ("convnext_atto", ""),
    ],
)
def test_a_packed_model_answers_as_before_and_its_convolutions_do_what_follows_them(
    architecture: str, gone: str
) -> None:
    model = timm_model(architecture)
    expected = model(IMAGES)
    result = packed(model)
    for name in ("aten::_convolution", *gone.split()):
        assert name not in str(result.graph)
    for count in (1, 2, 3):
        assert torch.allclose(result(IMAGES[:count]), expected[:count], atol=1e-4 * float(expected.abs().max()))


def kept_view(model: nn.Module, batch: Tensor) -> Tensor:
    first = model.first(batch)
    view = first[:, :1]
    return torch.cat((model.second(batch) + first, view), 1)


def read_later(model: nn.Module, batch: Tensor) -> Tensor:
    first = model.first(batch)
    return torch.cat((model.second(first) + first, model.third(first)), 1)


def activated_in_between(model: nn.Module, batch: Tensor) -> Tensor:
    batch = batch + 0
    first = model.first(batch)
    batch -= 1
    second = model.second(batch)
    batch += 1
    return (second + first).relu_() + model.third(batch)


def scaled(model: nn.Module, batch: Tensor) -> Tensor:
    return torch.add(model.second(batch), model.first(batch), alpha=2)


def added_to_itself(model: nn.Module, batch: Tensor) -> Tensor:
    first = model.first(batch)
    return (first + first).relu()


def added_to_the_input(model: nn.Module, batch: Tensor) -> Tensor:
    return model.second(batch + model.first(batch)) + batch


def broadcast(model: nn.Module, batch: Tensor) -> Tensor:
    return model.second(batch) + model.first(batch).mean((2, 3), keepdim=True)


def a_number_added(model: nn.Module, batch: Tensor) -> Tensor:
    return (model.first(batch) + 1).relu()


def read_twice(model: nn.Module, batch: Tensor) -> Tensor:
    first = model.first(batch)
    return first.relu() + first.sigmoid()


def added_to_what_it_read(model: nn.Module, batch: Tensor) -> Tensor:
    first = model.first(batch)
    return model.second(first) + first


def in_a_chain(model: nn.Module, batch: Tensor) -> Tensor:
    first = model.first(batch).relu_()
    second = (model.second(model.third(first)) + first).relu_()
    return model.second(model.third(second)) + second


@pytest.mark.parametrize(
    "wiring",
    [
        kept_view,
        read_later,
        activated_in_between,
        scaled,
        added_to_itself,
        added_to_the_input,
        broadcast,
        a_number_added,
        read_twice,
        added_to_what_it_read,
        in_a_chain,
    ],
)
def test_what_a_model_still_needs_is_not_overwritten(wiring: Callable[[nn.Module, Tensor], Tensor]) -> None:
    model = wired(wiring)
    before = IMAGES.clone()
    expected = model(IMAGES)
    assert torch.allclose(packed(model)(IMAGES), expected, atol=1e-5)
    assert torch.equal(IMAGES, before)


def test_a_sum_takes_the_memory_of_what_nobody_reads_again() -> None:
    assert str(packed(wired(in_a_chain)).graph).count("mkldnn::_convolution_pointwise_(") == 2
    assert "aten::add" not in str(packed(wired(in_a_chain)).graph)
    for wiring in (read_later, added_to_what_it_read, kept_view):
        assert "mkldnn::_convolution_pointwise_(" not in str(packed(wired(wiring)).graph)


def test_the_frozen_trace_stays_as_it_was() -> None:
    trace = frozen(timm_model("resnet18"))
    before = str(trace.graph)
    assert packing.pack(trace) is not None
    assert str(trace.graph) == before


def test_threads_share_a_packed_model() -> None:
    result = packed(timm_model("resnet18"))
    batches = [IMAGES.roll(shift, 2) for shift in range(8)]
    expected = [result(batch) for batch in batches]

    def answer(batch: Tensor) -> Tensor:
        with torch.inference_mode():
            return result(batch)

    with ThreadPoolExecutor(4) as pool:
        for answered, alone in zip(pool.map(answer, batches * 4), expected * 4, strict=True):
            assert torch.allclose(answered, alone, atol=1e-5)


def test_a_model_without_convolutions_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    assert packing.pack(frozen(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 4)))) is None
    assert not caplog.records


def test_weights_that_onednn_does_not_know_are_left_as_they_are_and_said_so(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3)).double()
    assert packing.pack(frozen(model, IMAGES.double())) is None
    (record,) = caplog.records
    assert record.__dict__["code"] == "not_packed"
    assert record.__dict__["detail"]

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from app.bundle.manifest import Activation, Input
from app.engines.agreement import Ranking
from app.engines.conversion import convert
from app.engines.engine import NotBuiltError, Pixels
from app.engines.openvino_engine import OpenVinoEngine
from app.engines.torch_engine import TorchEngine
from tests.unit.app.support import timm_model

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SETTINGS = Input(size=(3, 64, 48), mean=MEAN, std=STD, interpolation="bicubic", crop_pct=1.0, crop_mode="center")
GRAY = SETTINGS.model_copy(update={"size": (1, 64, 48), "mean": (0.4,), "std": (0.2,)})


def images(count: int) -> list[Pixels]:
    """Pixels as decoders deliver them."""
    return list(np.random.default_rng(1).integers(0, 256, (count, 64, 48, 3), np.uint8))


def linear(outputs: int, channels: int = 3) -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * 64 * 48, outputs)).requires_grad_(False).eval()


def assert_alike(actual: list[Ranking], expected: list[Ranking], change: float = 1e-4) -> None:
    assert [ranking.class_ids for ranking in actual] == [ranking.class_ids for ranking in expected]
    for ranking, reference in zip(actual, expected, strict=True):
        assert ranking.probabilities == pytest.approx(reference.probabilities, abs=change)


@pytest.mark.parametrize(
    ("module", "settings", "activation", "ranked"),
    [
        (timm_model(), SETTINGS, "softmax", 5),
        (linear(9), SETTINGS, "sigmoid", 9),
        (linear(3), SETTINGS, "softmax", 3),
        (linear(1), SETTINGS, "binary", 2),
        (linear(7, channels=1), GRAY, "softmax", 5),
        # Its trace does not know how many outputs it has.
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 9, 1), nn.Flatten()), SETTINGS, "softmax", 5),
    ],
)
def test_it_answers_as_torch_does_in_any_batch(
    module: nn.Module, settings: Input, activation: Activation, ranked: int
) -> None:
    module = module.requires_grad_(False)
    reference = TorchEngine(module, settings, activation, "cpu", 4, ranked=ranked)
    engine = OpenVinoEngine(convert(module, settings, activation, ranked), 4, "fp32", threads=2)
    for count in (1, 3, 4):
        assert_alike(engine.predict(images(count)), reference.predict(images(count)))


def test_threads_share_it_and_a_lone_image_is_answered_alike() -> None:
    module = timm_model().requires_grad_(False)
    expected = TorchEngine(module, SETTINGS, "softmax", "cpu", 1).predict(images(8))
    engine = OpenVinoEngine(convert(module, SETTINGS, "softmax"), 4, "fp32", threads=2)
    # So long that a lone image is worth all cores.
    engine.prepare(1.0)
    for thread in threading.enumerate():
        if thread.name == "lone":
            thread.join()
    with ThreadPoolExecutor(4) as pool:
        lone = pool.map(lambda image: engine.predict([image], alone=True)[0], images(8))
        batches = pool.map(engine.predict, [images(8)[:4], images(8)[4:]] * 4)
        assert_alike(list(lone), expected)
        for number, batch in enumerate(batches):
            assert_alike(batch, expected[4:] if number % 2 else expected[:4])


def test_a_large_model_computes_images_one_by_one() -> None:
    module = timm_model().requires_grad_(False)
    expected = TorchEngine(module, SETTINGS, "softmax", "cpu", 1).predict(images(8))
    converted = convert(module, SETTINGS, "softmax")
    tried = OpenVinoEngine(converted, 4, "fp32", threads=2)
    assert_alike(tried.predict(images(4)), expected[:4])
    tried.prepare(0.1)
    kept = OpenVinoEngine(converted, 1, "fp32", threads=2)
    kept.prepare(0.1)
    assert [tried.max_batch, kept.max_batch] == [1, 1]
    with ThreadPoolExecutor(4) as pool:
        for engine in (tried, kept):
            assert_alike([best for (best,) in pool.map(engine.predict, [[image] for image in images(8)])], expected)
    # What the others compute may have any number of images, as before.
    assert_alike(OpenVinoEngine(converted, 4, "fp32", threads=1).predict(images(4)), expected[:4])


def test_how_long_an_image_takes_one_core_says_whether_a_model_is_large() -> None:
    for seconds, threads, batch in ((0.04, 1, 1), (0.02, 1, 4), (0.02, 2, 1)):
        engine = OpenVinoEngine(convert(linear(9), SETTINGS, "softmax"), 4, "fp32", threads)
        engine.prepare(seconds)
        assert engine.max_batch == batch


class Held(OpenVinoEngine):
    """It cannot be compiled for all cores until it is let go."""

    go = threading.Event()

    def _requests(self, streams: int) -> Any:
        assert streams > 1 or self.go.wait(20)
        return super()._requests(streams)


def test_a_start_does_not_wait_for_what_only_lone_images_gain_by() -> None:
    module = timm_model().requires_grad_(False)
    expected = TorchEngine(module, SETTINGS, "softmax", "cpu", 1).predict(images(1))
    engine = Held(convert(module, SETTINGS, "softmax"), 4, "fp32", threads=2)
    engine.prepare(1.0)
    try:
        assert_alike(engine.predict(images(1), alone=True), expected)
    finally:
        Held.go.set()


def failing(*_: Any) -> None:
    raise TypeError("this model needs more than a tensor")


def unknown(_: nn.Module, __: Any, output: Tensor) -> Tensor:
    return torch.linalg.eigvals(output[:, :4, None] * output[:, None, :4]).real


@pytest.mark.parametrize(("hook", "said"), [(failing, "more than a tensor"), (unknown, "eigvals")])
def test_a_model_that_it_does_not_know_is_refused_in_one_line(hook: Callable[..., Any], said: str) -> None:
    module = linear(9)
    if hook is failing:
        module.register_forward_pre_hook(hook)
    else:
        module.register_forward_hook(hook)
    with pytest.raises(NotBuiltError, match="OpenVINO cannot convert it") as caught:
        convert(module, SETTINGS, "softmax")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_precision_that_it_has_not_on_a_cpu_is_refused() -> None:
    with pytest.raises(NotBuiltError, match="fp16"):
        OpenVinoEngine(convert(linear(9), SETTINGS, "softmax"), 4, "fp16", threads=1)

from typing import Any

import pytest
import torch

from app.bundle.manifest import Input
from app.engines.torch_engine import TorchEngine, choose_device
from app.errors import BundleError, DeviceLostError, ServiceError
from tests.unit.app.support import timm_model

HALF = (0.5, 0.5, 0.5)
SETTINGS = Input(size=(3, 32, 32), mean=HALF, std=HALF, interpolation="bicubic", crop_pct=1.0, crop_mode="center")
RAMP = [torch.full((3, 32, 32), value, dtype=torch.uint8) for value in (0, 50, 100, 150, 200, 250)]


def images(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=generator) for _ in range(count)]


def failing(fail: Any, max_batch: int = 8, threads: int = 0) -> TorchEngine:
    """An engine whose forward first calls `fail` with the batch."""
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 4))
    module.register_forward_pre_hook(lambda _, inputs: fail(inputs[0]))
    return TorchEngine(module, SETTINGS, "softmax", "cpu", max_batch, threads=threads)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_batch_answers_as_plain_torch_does(activation: Any) -> None:
    model = timm_model(num_classes=11)
    batch = images(3)
    logits = model((torch.stack(batch).float() / 255 - 0.5) / 0.5)
    values, ids = (logits.softmax(1) if activation == "softmax" else logits.sigmoid()).topk(5)
    rankings = TorchEngine(timm_model(num_classes=11), SETTINGS, activation, "cpu", 8).predict(batch)
    assert [ranking.class_ids for ranking in rankings] == ids.tolist()
    for ranking, expected in zip(rankings, values.tolist(), strict=True):
        assert ranking.probabilities == pytest.approx(expected, abs=1e-5)


def test_a_model_with_fewer_classes_than_five_ranks_them_all() -> None:
    ranking = failing(lambda _: None).predict(images(1))[0]
    assert sorted(ranking.class_ids) == [0, 1, 2, 3]
    assert sum(ranking.probabilities) == pytest.approx(1)


def test_out_of_memory_halves_the_batch_and_answers_in_order() -> None:
    sizes: list[int] = []

    def fail(batch: torch.Tensor) -> None:
        sizes.append(len(batch))
        if len(batch) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")

    engine = failing(fail)
    rankings = engine.predict(RAMP)
    assert sizes == [6, 3, 3]
    assert engine.max_batch == 3
    expected = [engine.predict([image])[0] for image in RAMP]
    for ranking, alone in zip(rankings, expected, strict=True):
        assert ranking.class_ids == alone.class_ids
        assert ranking.probabilities == pytest.approx(alone.probabilities, abs=1e-5)


@pytest.mark.parametrize(
    "message",
    [
        "GET was unable to find an engine to execute this computation",
        "FIND was unable to find an engine to execute this computation",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    ],
)
def test_a_library_without_memory_to_compute_in_halves_the_batch_too(message: str) -> None:
    engine = failing(lambda batch: _raise(RuntimeError(message)) if len(batch) > 4 else None)
    assert len(engine.predict(RAMP)) == len(RAMP)
    assert engine.max_batch == 3


def test_out_of_memory_twice_in_a_row_loses_the_device() -> None:
    def fail(_: torch.Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(DeviceLostError, match="twice in a row"):
        failing(fail).predict(images(4))


def test_out_of_memory_later_again_is_not_twice_in_a_row() -> None:
    engine = failing(lambda batch: _raise(torch.OutOfMemoryError("no memory")) if len(batch) > 2 else None)
    assert len(engine.predict(images(4))) == 4
    assert len(engine.predict(images(2))) == 2
    assert len(engine.predict(images(3))) == 3


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling cublasSgemm",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "cuDNN Frontend error: [cudnn_frontend] Error: No execution plans support the graph.",
        "CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR cudnnFinalize failed",
        "captures_underway.empty() INTERNAL ASSERT FAILED at CUDACachingAllocator.cpp",
    ],
)
def test_a_device_error_loses_the_device(message: str) -> None:
    with pytest.raises(DeviceLostError, match="The device failed"):
        failing(lambda _: _raise(RuntimeError(message))).predict(images(1))


@pytest.mark.parametrize(
    "message",
    [
        "cuFFT error: CUFFT_NOT_SUPPORTED",
        "CUDA error: libcusparse.so.12 is a stand-in: this image leaves out sparse tensors",
    ],
)
def test_a_library_that_the_image_leaves_out_is_no_lost_device(message: str) -> None:
    with pytest.raises(BundleError, match=r"leaves out: .*CUDA_LIBRARIES=whole") as caught:
        failing(lambda _: _raise(RuntimeError(message))).predict(images(1))
    assert caught.value.code == "library_left_out"


def test_another_error_of_the_model_is_not_the_devices() -> None:
    with pytest.raises(RuntimeError, match="shape"):
        failing(lambda _: _raise(RuntimeError("shape mismatch"))).predict(images(1))


def test_it_is_prepared_for_the_smallest_and_the_largest_batch() -> None:
    sizes: list[int] = []
    failing(lambda batch: sizes.append(len(batch))).prepare(0.0)
    assert sizes[0] == 8
    assert set(sizes[1:]) == {1}


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize(("device", "said"), [("auto", "torch sees no CUDA"), ("cpu", "API_DEVICE is cpu")])
def test_a_demanded_gpu_that_is_missing_says_what_to_check(device: str, said: str) -> None:
    with pytest.raises(ServiceError) as caught:
        choose_device(device, require_gpu=True)
    assert caught.value.code == "gpu_required"
    assert said in caught.value.detail
    assert "nvidia-smi" in caught.value.detail


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_auto_takes_the_cpu_and_cuda_insists() -> None:
    assert choose_device("auto", require_gpu=False) == "cpu"
    with pytest.raises(ServiceError):
        choose_device("cuda", require_gpu=False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_answers_as_the_cpu_does() -> None:
    expected = TorchEngine(timm_model(), SETTINGS, "softmax", "cpu", 8).predict(images(4))
    actual = TorchEngine(timm_model(), SETTINGS, "softmax", "cuda", 8).predict(images(4))
    for ranking, reference in zip(actual, expected, strict=True):
        assert ranking.class_ids[0] == reference.class_ids[0]
        assert ranking.probabilities == pytest.approx(reference.probabilities, abs=1e-3)


def _raise(error: Exception) -> None:
    raise error


def test_reduced_precision_leaves_the_weights_of_the_module_beside_it() -> None:
    module = timm_model().requires_grad_(False)
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    reduced = TorchEngine(module, SETTINGS, "softmax", "cpu", 4, "bf16")
    assert {name: value.dtype for name, value in module.state_dict().items()} == {
        name: value.dtype for name, value in weights.items()
    }
    assert all(torch.equal(value, weights[name]) for name, value in module.state_dict().items())
    assert {value.dtype for value in reduced._module.parameters()} == {torch.bfloat16}


def test_a_large_model_gives_a_lone_image_all_threads_without_measuring() -> None:
    threads: list[int] = []
    engine = failing(lambda _: threads.append(torch.get_num_threads()), threads=2)
    engine.prepare(1.0)
    engine.predict(images(1), alone=True)
    engine.predict(images(1))
    assert threads == [1, 2, 2, 1]

"""What only a real GPU can show; other modules ask it what they ask of a simulated one."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.unit.app.engines.test_graphs import decided, engine, images
from tests.unit.app.support import ROOT, SMALL, fresh

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


def test_who_waits_for_a_gpu_leaves_the_cpu_to_others() -> None:
    replaying = engine(decided(), "fp16", 2)
    assert replaying._graphs
    with torch.cuda.stream(replaying._graphs._compute):
        torch.cuda._sleep(1 << 31)
    finish = replaying.begin(images(2))
    began, computed = time.monotonic(), time.thread_time()
    assert len(finish()) == 2
    assert time.thread_time() - computed < 0.1 * (time.monotonic() - began)


def test_two_batches_take_a_gpu_less_than_one_after_the_other() -> None:
    replaying = engine(decided(), "fp16", 32)
    batch = images(32)

    def seconds(in_flight: int) -> float:
        began = time.perf_counter()
        for _ in range(20):
            for finish in [replaying.begin(batch) for _ in range(in_flight)]:
                finish()
        return (time.perf_counter() - began) / (20 * in_flight)

    seconds(2)
    assert min(seconds(2) for _ in range(3)) < min(seconds(1) for _ in range(3))


@pytest.mark.skipif(not (ROOT / "bench").exists(), reason="needs the checkout")
def test_the_bench_compares_with_replays_which_beat_launching_kernel_by_kernel(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    words = [sys.executable, "-m", "bench.gpu", "--device", "cuda", "--models", SMALL, "--precisions", "fp16"]
    words += ["--batches", "4", "--seconds", "0.5", "--clients", "8", "--processes", "2", "--json", str(figures)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    [row] = json.loads(figures.read_text())
    assert row["bound"] > row["eager"]
    assert row["service"]["rate"] > 0


@pytest.mark.skipif(not (ROOT / "bench").exists(), reason="needs the checkout")
def test_jpegs_are_decoded_on_a_gpu_and_compared_with_the_services_own(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    words = [sys.executable, "-m", "bench.jpegs", "--device", "cuda", "--small", "--batch", "6", "--seconds", "0.2"]
    done = subprocess.run([*words, "--json", str(figures)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    by_service, by_gpu = json.loads(figures.read_text())
    assert by_gpu["cpu_us"] < by_service["cpu_us"]
    # Chroma that is not smoothed, but the same pictures.
    assert by_gpu["mean_change"] < 4


def test_recorded_forward_passes_call_no_library_that_is_stood_in_for() -> None:
    # In a process of its own: a stand-in speaks on stderr, once.
    said = fresh("""
import torch
from tests.unit.app.support import timm_model, with_statistics
from tests.unit.app.engines.test_graphs import engine, images
for architecture in ("resnet18", "convnext_atto", "efficientnet_b0", "regnety_002"):
    for precision in ("fp32", "fp16", "bf16"):
        assert engine(with_statistics(timm_model(architecture)).requires_grad_(False), precision, 4).predict(images(3))
attention = torch.nn.TransformerEncoderLayer(64, 4, batch_first=True).cuda().half().eval()
with torch.inference_mode():
    print(attention(torch.randn(2, 16, 64, device="cuda", dtype=torch.float16)).isfinite().all().item())
""")
    assert said.stdout == "True\n"
    assert "is a stand-in" not in said.stderr

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.unit.app.support import ROOT

# The image alone has the service and its tests, not the tools beside them.
SCRIPT = ROOT / "scripts" / "gpu-proof"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.skipif(not SCRIPT.exists(), reason="needs the checkout")
def test_without_a_gpu_the_proof_tries_everything_on_the_cpu_and_says_so(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--out", str(tmp_path), "--seconds", "240"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "There is no GPU here" in done.stdout
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert {name: step["result"] for name, step in summary["steps"].items()} == {
        "hardware": "passed",
        "packages": "passed",
        "host facts and access probe": "passed",
        "tests marked gpu": "passed",
        "engine beside the bound, service under load, drain": "passed",
        "JPEGs on the GPU beside the CPU": "passed",
    }
    by_service, by_torchvision = summary["steps"]["JPEGs on the GPU beside the CPU"]["figures"]
    # libjpeg-turbo decodes for both here, and torchvision resizes in a way of its own.
    for found, most in ((by_service, 4), (by_torchvision, 8)):
        assert found["rate"] > 0
        assert found["cpu_us"] > 0
        assert found["largest_change"] <= most
        assert found["agrees"]
    [row] = summary["figures"]
    assert row["engine"] > 0
    assert row["service"]["rate"] > 0
    assert row["service"]["loop_us"] > 0
    assert row["service"]["drained_s"] < 30
    head, _, cells = [line.strip("| ").split(" | ") for line in (tmp_path / "table.md").read_text().splitlines()]
    shown = dict(zip(head, cells, strict=True))
    assert [shown.pop(name) for name in ("model", "precision", "batch")] == ["mobilenetv3_small_050", "fp32", "2"]
    bound, served = row["bound"], row["service"]
    rates = {"with cudnn.benchmark": "bound_with_benchmark", "eager": "eager", "engine with uploads": "engine"}
    expected = {name: f"{row[key]:.1f}/s ({row[key] / bound:.0%})" for name, key in rates.items()}
    expected |= {
        "bound, CPU": f"{bound:.1f}/s",
        "whole service": f"{served['rate']:.1f}/s ({served['rate'] / bound:.0%})",
    }
    expected["µs of its loop + threads"] = f"{served['loop_us']:.0f} + {sum(served['threads_us']):.0f}"
    assert shown == expected
    assert (tmp_path / "table.md").read_text().strip() in done.stdout

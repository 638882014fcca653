"""The measurements run: what nobody runs is broken on the day somebody has a GPU."""

from __future__ import annotations

import re

from tests.integration.conftest import ARCHITECTURE
from tests.integration.support.bundles import Workshop
from tests.integration.support.playbooks import ROOT, docker


def test_the_gpu_table_can_be_made_on_a_cpu(workshop: Workshop) -> None:
    printed = docker(
        *("run", "--rm", "--network=none", "--read-only", "--tmpfs=/tmp", f"--volume={ROOT / 'bench'}:/bench:ro"),
        # One thread: on a busy machine, threads that wait for each other take minutes.
        *("--env=OMP_NUM_THREADS=1", "--env=API_TORCH_THREADS=1", "--env=PYTHONPATH=/app:/"),
        *(workshop.image, "python", "-m", "bench.gpu", "--device=cpu"),
        *(f"--models={ARCHITECTURE}", "--precisions=fp32", "--batch=2", "--clients=2", "--seconds=0.3"),
    )
    row = next(line for line in printed.splitlines() if line.startswith(f"| {ARCHITECTURE}"))
    rates = [float(rate) for rate in re.findall(r"([\d.]+)/s", row)]
    # The bound with and without tuned convolutions, eager, the engine, the service.
    assert len(rates) == 5
    assert all(rate > 0 for rate in rates)

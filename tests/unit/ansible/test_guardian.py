"""What a killed process leaves is put back by the one that it left beside itself."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from ansible_collections.gpu_hosts.timm.plugins.module_utils.guardian import Guardian


def process(path: Path, dismissed: bool) -> None:
    """Let a process of its own begin something, and kill it."""
    child = os.fork()
    if child == 0:
        guardian = Guardian(lambda: path.write_text("put back"))
        if dismissed:
            guardian.dismiss()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


def test_a_killed_process_is_undone(tmp_path: Path) -> None:
    process(tmp_path / "note", dismissed=False)
    deadline = time.monotonic() + 10
    while not (tmp_path / "note").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_that_came_to_its_end_is_not(tmp_path: Path) -> None:
    process(tmp_path / "dismissed", dismissed=True)
    process(tmp_path / "killed", dismissed=False)
    while not (tmp_path / "killed").exists():
        time.sleep(0.01)
    assert not (tmp_path / "dismissed").exists()

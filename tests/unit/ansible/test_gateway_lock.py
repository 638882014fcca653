"""The lock of the gateway's folder, taken in a real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.gpu_hosts.timm.plugins.module_utils.gateway_replace import ReplaceError, alone


def test_a_folder_in_the_place_of_the_lock_makes_room_and_is_kept(tmp_path: Path) -> None:
    (tmp_path / "replace.lock").mkdir()
    (tmp_path / "replace.lock" / "notes.txt").write_text("mine\n")
    with alone(tmp_path):
        assert (tmp_path / "replace.lock").is_file()
    (kept,) = tmp_path.glob("replace.lock.aside-*/replace.lock/notes.txt")
    assert kept.read_text() == "mine\n"


def test_who_comes_second_waits_no_longer_than_he_is_told(tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(ReplaceError, match="another run has been replacing"), alone(tmp_path, 0):
        pass
    with alone(tmp_path, 0):
        pass

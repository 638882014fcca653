"""What a purge removes: known names, and only from a folder that says whose it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.gpu_hosts.timm.plugins.module_utils.state_folder import (
    MARKER,
    NotOursError,
    find_parts,
    is_marked,
    mark,
    remove,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as a service leaves it, with something in it that is somebody else's."""
    for name in ("releases/a", "records", "bundles/m/1", "gateway/conf", "photographs"):
        (tmp_path / "state" / name).mkdir(parents=True)
    return tmp_path / "state"


def test_only_known_names_go_and_the_marker_last(folder: Path) -> None:
    assert mark(folder, "svc") is True
    assert mark(folder, "svc") is False
    parts = find_parts(folder, "svc")
    assert parts[-1] == folder / MARKER
    for part in parts:
        remove(part)
    assert [path.name for path in folder.iterdir()] == ["photographs"]
    # A second time there is nothing left to do.
    assert find_parts(folder, "svc") == []


@pytest.mark.parametrize("content", [None, b"", b"other\n", b"svc2\n", b"\xff"])
def test_a_folder_that_is_not_known_to_be_the_services_is_left_alone(folder: Path, content: bytes | None) -> None:
    if content is not None:
        (folder / MARKER).write_bytes(content)
    with pytest.raises(NotOursError, match=r"Nothing was removed.*Correct inference_service_state_dir"):
        find_parts(folder, "svc")


def test_a_folder_of_somebody_with_nothing_of_ours_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "photographs").mkdir()
    assert find_parts(tmp_path, "svc") == []
    assert find_parts(tmp_path / "nowhere", "svc") == []


def test_a_link_goes_and_what_it_leads_to_stays(folder: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (folder / "build").symlink_to(precious)
    mark(folder, "svc")
    for part in find_parts(folder, "svc"):
        remove(part)
    assert precious.is_dir()
    assert not is_marked(folder, "svc")


def test_what_is_no_folder_where_one_belongs_makes_room_and_is_kept(tmp_path: Path) -> None:
    (tmp_path / "records").write_text("mine")
    assert mark(tmp_path, "cats")
    assert [path.read_text() for path in tmp_path.glob("records.aside-*/records")] == ["mine"]
    assert not (tmp_path / "records").exists()
    assert not mark(tmp_path, "cats")


def test_what_is_no_file_where_one_belongs_makes_room_and_is_kept(tmp_path: Path) -> None:
    (tmp_path / MARKER / "notes").mkdir(parents=True)
    assert mark(tmp_path, "cats")
    assert is_marked(tmp_path, "cats")
    assert list(tmp_path.glob(f"{MARKER}.aside-*/{MARKER}/notes"))


def test_an_empty_folder_that_an_engine_made_is_replaced(tmp_path: Path) -> None:
    (tmp_path / MARKER).mkdir()
    assert mark(tmp_path, "cats")
    assert [path.name for path in tmp_path.iterdir()] == [MARKER]


def test_bundles_that_somebody_closed_can_be_read_again(tmp_path: Path) -> None:
    mark(tmp_path, "cats")
    bundle = tmp_path / "bundles" / "cats" / "1"
    bundle.mkdir(parents=True)
    (bundle / "labels.txt").touch(mode=0o600)
    bundle.chmod(0o700)
    coming = bundle.with_name(".2.x")
    coming.mkdir(mode=0o700)
    assert mark(tmp_path, "cats")
    assert [path.stat().st_mode & 0o777 for path in (bundle, bundle / "labels.txt", coming)] == [0o755, 0o644, 0o700]
    assert not mark(tmp_path, "cats")


def test_derived_models_that_a_umask_closed_can_be_read_again(tmp_path: Path) -> None:
    mark(tmp_path, "cats")
    derived = tmp_path / "derived"
    (derived / "a-b" / "c").mkdir(parents=True)
    derived.chmod(0o700)
    (derived / "a-b" / "c" / "model.bin").touch(mode=0o600)
    assert mark(tmp_path, "cats")
    assert derived.stat().st_mode & 0o777 == 0o755
    assert (derived / "a-b" / "c" / "model.bin").stat().st_mode & 0o777 == 0o644
    assert not mark(tmp_path, "cats")

"""Images on their way: how a host's words are read, and what a look at a long step finds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ansible import constants
from ansible.errors import AnsibleActionFail

from ansible_collections.gpu_hosts.timm.plugins.action.service_image import (
    LOOK_AT_BUILD,
    LOOK_AT_DD,
    LOOK_AT_SIZE,
    Image,
    growing,
    read_images,
)
from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.watched import ANSWER, FOLDER, Progress, read_progress
from tests.unit.ansible import playbook_run
from tests.unit.ansible.action_run import run_action

BUILD = """#0 building with "default" instance using docker driver

#1 [internal] load build definition from Dockerfile
#1 transferring dockerfile: 9.21kB done
#1 DONE 0.0s

#13 [builder 2/6] RUN --mount=type=secret,id=ca     sh /build/pip-install.sh -r /build/common.lock
#17 [distribution 1/3] RUN --mount=type=secret,id=ca     sh /build/apt-install.sh python3-torch
#17 2.113 Get:1 python3-torch 2.6.0 [61.2 MB]
"""


def look(script: str, tmp_path: Path, content: str) -> list[tuple[str, str, str]]:
    """Return what a look finds in a file with this content."""
    file = tmp_path / "it's a file"
    file.write_text(content)
    command = ["sh", "-c", script, "sh", str(file), "unpacking"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return ANSWER.findall(done.stdout)


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ("", ("1", "3", "distribution: Get:1 python3-torch 2.6.0 [61.2 MB]")),
        ("#13 9.5 Collecting timm==1.0.19\n", ("2", "6", "builder: Collecting timm==1.0.19")),
        ("#13 DONE 12.1s\n\n", ("2", "6", "builder: DONE 12.1s")),
        ("#20 [2/9] COPY app /app\n", ("2", "9", "COPY app /app")),
        ("#28 exporting to image\n", ("0", "", "exporting to image")),
    ],
)
def test_a_build_says_its_stage_step_and_last_words(tmp_path: Path, more: str, found: tuple[str, str, str]) -> None:
    assert look(LOOK_AT_BUILD, tmp_path, BUILD + more) == [found]


def test_bytes_are_counted_while_they_are_handed_over(tmp_path: Path) -> None:
    said = "1048576 bytes (1.0 MB, 1.0 MiB) copied, 1 s\r812482560 bytes (812 MB, 775 MiB) copied, 5 s, 162 MB/s"
    assert look(LOOK_AT_DD, tmp_path, said) == [("812482560", "", "")]
    over = f"{said}\n774+1 records in\n774+1 records out\n812482561 bytes (812 MB, 775 MiB) copied, 6 s, 135 MB/s\n"
    assert look(LOOK_AT_DD, tmp_path, over) == [("812482561", "", "unpacking")]
    assert look(LOOK_AT_DD, tmp_path, "") == []
    assert look(LOOK_AT_SIZE, tmp_path, "12345") == [("5", "", "")]


def test_images_are_read_by_their_names() -> None:
    identity = f"sha256:{'0a' * 32}"
    said = f'IMAGE timm-classifier:cpu-1 {identity} 816 ["sha256:1","sha256:2"]\nIMAGE empty:1 {identity} 0 null\n'
    assert read_images(said) == {
        "timm-classifier:cpu-1": Image(identity, 816, ["sha256:1", "sha256:2"]),
        "empty:1": Image(identity, 0, []),
    }


def test_an_image_is_the_same_by_its_id_or_its_layers() -> None:
    image = Image("sha256:1", 816, ["a", "b"])
    assert image.same(Image("sha256:1", 800, []))
    assert image.same(Image("sha256:2", 800, ["a", "b"]))
    assert not image.same(Image("sha256:2", 816, ["a", "c"]))
    assert not Image("sha256:1", 0, []).same(Image("sha256:2", 0, []))


# Keeps an image as a file that has the line which a look at it prints.
DOCKER = """#!/bin/sh
here={folder}
for last; do :; done
case "$1 $2" in
  "image inspect") cat "$here/$(echo "$last" | tr : -)" 2>/dev/null ;;
  "image rm") rm "$here/$(echo "$last" | tr : -)" ;;
  "save "*) echo saved ;;
  "load "*) gzip -dc >/dev/null 2>&1; cp "$here/arrives" "$here/svc-1" ;;
  "build "*) [ -e "$here/builds" ] && cp "$here/arrives" "$here/svc-1" || {{ echo "the mirror is down"; exit 1; }} ;;
esac
"""
IMAGE = f'IMAGE svc:1 sha256:{"1" * 64} 1000 ["sha256:a"]\n'
PLAYBOOK = """
- hosts: all
  gather_facts: false
  tasks:
    - name: Build, twice
      gpu_hosts.timm.service_image:
        state: built
        images: [svc:1]
        command: [docker, build, here]
        source_dir: FOLDER
      loop: [1, 2]
      register: built
    - name: Save
      gpu_hosts.timm.service_image: {state: saved, images: [svc:1]}
      register: saved
    - name: Lose
      ansible.builtin.command: rm FOLDER/svc-1
    - name: Have the engine load this
      ansible.builtin.command: cp FOLDER/LOADED FOLDER/arrives
    - name: Load, twice
      gpu_hosts.timm.service_image: {state: loaded, parcel: "{{ saved.parcel }}"}
      loop: [1, 2]
      register: loaded
    - name: Tell
      ansible.builtin.copy:
        content: "{{ [built, loaded] | map(attribute='results') | flatten | map(attribute='changed') | to_json }}"
        dest: FOLDER/told
        mode: "0600"
"""


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a Docker that builds and loads the file `arrives`."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "docker").write_text(DOCKER.format(folder=tmp_path))
    (tmp_path / "bin" / "docker").chmod(0o755)
    (tmp_path / "arrives").write_text(IMAGE)
    (tmp_path / "same").write_text(IMAGE)
    (tmp_path / "other").write_text(IMAGE.replace("1" * 64, "2" * 64).replace("sha256:a", "sha256:b"))
    (tmp_path / "builds").touch()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return tmp_path


def ship(engine: Path, loaded: str = "same") -> tuple[int, str]:
    """Build, save and load on this machine; the engine loads what the file of this name has."""
    playbook = engine / "ship.yml"
    playbook.write_text(PLAYBOOK.replace("FOLDER", str(engine)).replace("LOADED", loaded))
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    return playbook_run.run("-i", "here,", "-e", json.dumps(local), str(playbook))


def test_an_image_is_built_saved_and_loaded_once(engine: Path) -> None:
    code, said = ship(engine)
    assert code == 0, said
    assert json.loads((engine / "told").read_text()) == [True, False, True, False]


def test_a_build_that_fails_says_its_last_words(engine: Path) -> None:
    (engine / "builds").unlink()
    code, said = ship(engine)
    assert code != 0
    assert "svc:1 could not be built. The build's last words: the mirror is down" in said


def test_what_is_not_what_was_saved_is_removed_again(engine: Path) -> None:
    code, said = ship(engine, loaded="other")
    assert code != 0
    assert "The image on here differs from the one that was saved (svc:1), so it was removed." in said
    assert not (engine / "svc-1").exists()


@pytest.fixture
def parcel(engine: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """An image that was saved, for a host that does not have it."""
    monkeypatch.setattr(constants, "DEFAULT_LOCAL_TMP", str(engine))
    (engine / "svc-1").write_text(IMAGE)
    saved: dict[str, Any] = run_action("service_image", state="saved", images=["svc:1"])["parcel"]
    (engine / "svc-1").unlink()
    return saved


def test_what_was_saved_is_loaded_where_it_is_missing(engine: Path, parcel: dict[str, Any]) -> None:
    loaded = [run_action("service_image", state="loaded", parcel=parcel)["changed"] for _ in range(2)]
    assert loaded == [True, False]
    assert (engine / "svc-1").read_text() == IMAGE


def test_a_host_without_room_for_the_archive_gets_nothing(engine: Path, parcel: dict[str, Any]) -> None:
    (engine / "bin" / "df").write_text("#!/bin/sh\necho Filesystem\necho /dev/x 1 1 0 100% /tmp\n")
    (engine / "bin" / "df").chmod(0o755)
    with pytest.raises(AnsibleActionFail, match=r"gpu-1 has only 0 MB free in .*, where the image takes .*Nothing was"):
        run_action("service_image", state="loaded", parcel=parcel)
    assert not (engine / "svc-1").exists()


def test_an_image_that_the_host_does_not_have_cannot_be_saved(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DEFAULT_LOCAL_TMP", str(engine))
    with pytest.raises(AnsibleActionFail, match=r"gpu-1 has no image svc:1 \(see `docker image ls` there\)"):
        run_action("service_image", state="saved", images=["svc:1"])


def test_an_archive_that_grows_is_said_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    archive = tmp_path / "archive"
    archive.write_bytes(b"0" * 500)
    step = Progress("gpu-1", "fetch the image", 1000, "B")
    with growing(archive, step):
        deadline = time.monotonic() + 30
        while (told := read_progress(tmp_path)[0]["done"]) != 500:
            assert time.monotonic() < deadline, told
            time.sleep(0.05)
    step.end()

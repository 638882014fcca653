"""What a record removes from a host: releases that are not kept, and what only those used; nothing that lies beside."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpu_hosts.timm.plugins.module_utils.releases import ReleaseError, bundle_folder, derived_folder
from ansible_collections.gpu_hosts.timm.plugins.modules.release_prepare import write_release
from ansible_collections.gpu_hosts.timm.plugins.modules.release_record import prune, repository_of

OLD, MIDDLE, LIVE = "0" * 12, "1" * 12, "f" * 12
# Answers as Docker does: the tags of an image, the containers of other services, and what it was told to remove.
DOCKER = """#!/bin/sh
case "$1 $2" in
  "image inspect") for last; do :; done; cat "{folder}/$last" 2>/dev/null ;;
  "ps --quiet") cat "{folder}/containers" ;;
  "inspect --type") cat "{folder}/inspected" ;;
  "image rm") shift 2; echo "$*" >>"{folder}/removed" ;;
esac
"""


class Host:
    """A state folder with three releases, each with a bundle and an image of its own."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self.images = folder / "images"
        self.images.mkdir()
        (self.images / "containers").touch()
        for number, identity in enumerate((OLD, MIDDLE, LIVE)):
            self.release(identity, version=str(number), image=f"sha256:{number}")

    def release(self, identity: str, version: str, image: str, tags: str = "") -> dict[str, Any]:
        """Keep a release, its bundle and its image."""
        content = {
            "release_id": identity,
            "bundle": {"name": "cats", "version": version, "sha256": version * 64},
            "image": {"id": image, "tag": f"svc:{image[-1]}"},
            "settings": {"compose_files": []},
        }
        folder = self.state / "releases" / identity
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "release.json").write_text(json.dumps(content))
        (folder / "release.env").touch()
        (folder / "service.env").touch()
        (self.state / "bundles" / "cats" / version).mkdir(parents=True, exist_ok=True)
        (self.images / image).write_text(tags or f"svc:{image[-1]}\n")
        return content

    def prune(self, *keep: str) -> list[str]:
        """Keep these releases and the live one."""
        return prune(
            self.state, [*keep, LIVE], json.loads((self.state / "releases" / LIVE / "release.json").read_text())
        )

    def there(self, part: str) -> list[str]:
        return sorted(path.name for path in (self.state / part).iterdir())

    @property
    def removed(self) -> list[str]:
        """What Docker was told to remove."""
        log = self.images / "removed"
        return log.read_text().split() if log.exists() else []


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    made = Host(tmp_path)
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(DOCKER.format(folder=made.images))
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{docker.parent}:/usr/bin:/bin")
    return made


def test_a_release_that_is_not_kept_goes_with_its_bundle_and_image(host: Host) -> None:
    assert host.prune(MIDDLE) == [f"release {OLD}", "bundle cats 0", "image sha256:0"]
    assert (host.there("releases"), host.there("bundles/cats"), host.removed) == ([MIDDLE, LIVE], ["1", "2"], ["svc:0"])
    assert host.prune(MIDDLE) == []


def test_what_was_derived_goes_with_the_bundle_or_the_image_that_it_was_made_of(host: Host, tmp_path: Path) -> None:
    names = [derived_folder(host.state, host.release(name, str(number), f"sha256:{str(number) * 64}")).name
             for number, name in enumerate((OLD, MIDDLE, LIVE))]  # fmt: skip
    beside = ["backup", f".{names[0]}"]
    for name in (*names, *beside):
        (host.state / "derived" / name / "0123").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (host.state / "derived" / f"{'a' * 12}-{'b' * 12}").symlink_to(tmp_path / "elsewhere")
    assert host.prune(MIDDLE)[-1] == f"derived model {names[0]}"
    assert host.there("derived") == sorted([*names[1:], *beside, f"{'a' * 12}-{'b' * 12}"])
    # Another release of the same bundle with another image.
    host.release(MIDDLE, "1", f"sha256:{'2' * 64}")
    assert host.prune(MIDDLE) == [f"derived model {names[1]}"]


def test_what_another_release_uses_stays(host: Host) -> None:
    host.release(OLD, version="1", image="sha256:2")
    assert host.prune(MIDDLE) == [f"release {OLD}"]
    assert (host.there("bundles/cats"), host.removed) == (["0", "1", "2"], [])


@pytest.mark.parametrize("name", ["backup", "cafe", "ab" * 7, "0" * 11, f"{OLD}.old", "lost+found"])
def test_what_lies_beside_the_releases_is_nobodys_business(host: Host, name: str) -> None:
    (host.state / "releases" / name / "precious").mkdir(parents=True)
    host.prune(MIDDLE)
    assert (host.state / "releases" / name / "precious").is_dir()


def test_a_link_and_what_it_leads_to_stay(host: Host, tmp_path: Path) -> None:
    for link in (host.state / "releases" / ("a" * 12), host.state / "bundles" / "cats" / "0"):
        target = tmp_path / f"target-{link.name}"
        target.mkdir()
        (target / "precious").touch()
        if link.is_dir():
            link.rmdir()
        link.symlink_to(target)
    assert host.prune(MIDDLE) == [f"release {OLD}", "image sha256:0"]
    assert sorted(path.parent.name for path in tmp_path.glob("target-*/precious")) == ["target-0", f"target-{'a' * 12}"]


@pytest.mark.parametrize(
    ("tags", "removed"),
    [
        ("svc:0\nsvc:latest\n", ["svc:0", "svc:latest"]),
        ("svc:0\nmine:prod\n", ["svc:0"]),
        ("mine:prod\n", []),
        ("\n", ["sha256:0"]),
    ],
)
def test_a_tag_of_somebody_else_keeps_the_image(host: Host, tags: str, removed: list[str]) -> None:
    (host.images / "sha256:0").write_text(tags)
    host.prune(MIDDLE)
    assert host.removed == removed


@pytest.mark.parametrize("kept", [True, False])
def test_an_image_that_another_service_can_go_back_to_stays(host: Host, tmp_path: Path, kept: bool) -> None:
    """Docker keeps what a container has; a release that served before has none."""
    folder = tmp_path / "other" / "releases" / MIDDLE
    shutil.copytree(host.state / "releases" / OLD, folder)
    described = (folder / "release.json").read_text().replace(OLD, MIDDLE if kept else LIVE)
    (folder / "release.json").write_text(described)
    mounts = [{"Source": str(tmp_path / "other" / "gateway" / "conf")}]
    (host.images / "containers").write_text("cafe\n")
    (host.images / "inspected").write_text(json.dumps([{"Mounts": mounts}, {"Mounts": None}]))
    host.prune(MIDDLE)
    assert host.removed == ([] if kept else ["svc:0"])


def test_what_a_damaged_release_used_stays(host: Host) -> None:
    (host.state / "releases" / OLD / "release.json").write_text("{")
    assert host.prune(MIDDLE) == [f"release {OLD}"]
    assert (host.there("bundles/cats"), host.removed) == (["0", "1", "2"], [])


@pytest.mark.parametrize(
    ("reference", "repository"),
    [
        ("", ""),
        ("svc:cpu-1", "svc"),
        ("registry.example:5000/a/svc", "registry.example:5000/a/svc"),
        ("registry.example:5000/a/svc:1@sha256:ab", "registry.example:5000/a/svc"),
    ],
)
def test_the_repository_of_a_reference(reference: str, repository: str) -> None:
    assert repository_of(reference) == repository


def test_a_new_release_removes_what_a_dead_run_left_and_no_other_hidden_folder(tmp_path: Path) -> None:
    for name in (f".{OLD}.x1y2", ".snapshot", f".{OLD}"):
        (tmp_path / name / "precious").mkdir(parents=True)
    assert write_release(tmp_path / LIVE, {"release.json": "{}"})
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".{OLD}", ".snapshot", LIVE]


@pytest.mark.parametrize("bundle", [{}, {"name": "..", "version": "1"}, {"name": "a/b", "version": "1"}, {"name": "a"}])
def test_no_path_outside_the_bundles_is_made_of_a_release(tmp_path: Path, bundle: dict[str, str]) -> None:
    with pytest.raises(ReleaseError, match="no bundle is called"):
        bundle_folder(tmp_path, {"bundle": bundle})

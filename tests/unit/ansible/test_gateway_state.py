"""What counts as a difference between the gateway on a host and the wanted one."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
from pathlib import Path

import pytest

from ansible_collections.gpu_hosts.timm.plugins.module_utils.gateway_state import (
    Container,
    compare_containers,
    compare_files,
    compare_folders,
    compare_gateway,
    is_cut_off,
    is_deaf,
    parse_config_hashes,
    parse_container,
)
from ansible_collections.gpu_hosts.timm.plugins.module_utils.haproxy_runtime import connect
from ansible_collections.gpu_hosts.timm.plugins.module_utils.published import Address

WANTED = {"gateway": "aa", "keeper": "bb"}
GATEWAY = Container(service="gateway", running=True, image_id="sha256:1", config_hash="aa", name="svc-gateway")
KEEPER = Container(service="keeper", running=True, image_id="sha256:1", config_hash="bb")
FORMER = dataclasses.replace(GATEWAY, running=False, config_hash="cc", name="svc-gateway-gateway-2")
TRIAL = dataclasses.replace(GATEWAY, one_off=True, name="svc-gateway-trial")


def test_a_gateway_that_cannot_be_told_anything_is_found(tmp_path: Path) -> None:
    """Its socket was removed, or nobody listens on it, as of one that ends as often as Docker starts it."""
    inspected = {
        "State": {"Running": True},
        "Mounts": [{"Type": "bind", "Source": str(tmp_path), "Destination": "/run/haproxy"}],
    }
    assert is_deaf(inspected, seconds=0)
    assert not is_deaf({**inspected, "State": {"Running": False}}, seconds=0)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "admin.sock"))
        assert is_deaf(inspected, seconds=0)
        listener.listen()
        assert not is_deaf(inspected, seconds=0)


def test_a_socket_is_reached_however_long_its_path_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    monkeypatch.chdir(folder)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("admin.sock")
        with pytest.raises(ConnectionRefusedError):
            connect(folder / "admin.sock")
        listener.listen()
        connect(folder / "admin.sock").close()


@pytest.mark.parametrize(
    ("containers", "difference"),
    [
        ([GATEWAY], "the container of keeper is missing"),
        ([GATEWAY, Container("keeper", False, "sha256:1", "bb")], "the container of keeper is not running"),
        ([GATEWAY, dataclasses.replace(KEEPER, paused=True)], "the container of keeper is paused"),
        ([GATEWAY, Container("keeper", True, "sha256:1", "cc")], "the container of keeper was made from another"),
        ([GATEWAY, KEEPER, Container("old", True, "sha256:1", "dd")], "the container of old is not wanted"),
        ([GATEWAY, KEEPER, FORMER], "an interrupted run left the container svc-gateway-gateway-2"),
        ([GATEWAY, KEEPER, TRIAL], "an interrupted run left the container svc-gateway-trial"),
    ],
)
def test_each_way_in_which_a_container_differs_is_named(containers: list[Container], difference: str) -> None:
    found = compare_containers(containers, WANTED)
    assert len(found) == 1
    assert found[0].startswith(difference)


def test_containers_in_order_are_no_difference() -> None:
    assert compare_containers([KEEPER, GATEWAY], WANTED) == []


def test_a_container_is_read_from_what_docker_says() -> None:
    labels = {"com.docker.compose.service": "gateway", "com.docker.compose.config-hash": "aa"}
    inspected = {
        "Id": "0123",
        "Name": "/svc-gateway",
        "Config": {"Labels": labels},
        "State": {"Running": True},
        "Image": "sha256:1",
        "HostConfig": {"PortBindings": {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8000"}]}},
    }
    found = parse_container(json.loads(json.dumps(inspected)))
    assert found == dataclasses.replace(GATEWAY, id="0123", addresses=(Address("127.0.0.1", 8000),))
    bare = {"Id": "4", "Name": "/x", "Config": {"Labels": None}, "State": {}, "HostConfig": {}}
    assert parse_container(bare) == Container("", False, "", "", "4", "x")


def test_digests_are_read_from_what_compose_says() -> None:
    assert parse_config_hashes("gateway aa\nkeeper bb\n") == WANTED
    assert parse_config_hashes("") == {}


def test_a_file_differs_by_absence_content_and_mode(tmp_path: Path) -> None:
    path = tmp_path / "haproxy.cfg"
    assert compare_files({str(path): "global\n"}) == [f"{path} is missing"]
    path.write_text("global\n# by hand\n")
    assert compare_files({str(path): "global\n"}) == [f"{path} has another content"]
    path.write_text("global\n")
    path.chmod(0o600)
    assert compare_files({str(path): "global\n"}) == [f"{path} has another owner or mode"]


def test_a_folder_differs_by_absence_and_mode(tmp_path: Path) -> None:
    path, owner = tmp_path / "conf", os.getuid()
    assert compare_folders({str(path): owner}) == [f"{path} is missing"]
    path.mkdir(mode=0o700)
    assert compare_folders({str(path): owner}) == [f"{path} has another owner or mode"]


def test_a_container_whose_folders_were_removed_under_it_is_cut_off(tmp_path: Path) -> None:
    """It goes on with what it has mounted; what is written to the folders of the same names does not reach it."""
    conf, inside = tmp_path / "conf", tmp_path / "proc" / "7" / "root" / "etc" / "conf"
    conf.mkdir()
    inside.parent.mkdir(parents=True)
    inside.symlink_to(conf)
    mounts = [{"Type": "bind", "Source": str(conf), "Destination": "/etc/conf"}, {"Type": "volume", "Source": "/none"}]
    inspected = {"State": {"Running": True, "Pid": 7}, "Mounts": mounts}
    assert not is_cut_off(inspected, tmp_path / "proc")
    kept = conf.rename(tmp_path / "removed")
    inside.unlink()
    inside.symlink_to(kept)
    assert is_cut_off(inspected, tmp_path / "proc")
    conf.mkdir()
    assert is_cut_off(inspected, tmp_path / "proc")
    # One that does not run sees nothing; it will see what is there when it starts.
    assert not is_cut_off({**inspected, "State": {"Running": False, "Pid": 0}}, tmp_path / "proc")


def test_a_container_that_is_cut_off_is_a_difference() -> None:
    containers = [dataclasses.replace(GATEWAY, cut_off=True), KEEPER]
    said = ["the container of gateway has lost its folders, or nobody answers at its socket"]
    assert compare_containers(containers, WANTED) == said


@pytest.mark.parametrize(
    ("upgrade", "there", "image"),
    [(False, True, "sha256:1"), (True, True, "sha256:2"), pytest.param(False, False, "sha256:2", id="image-removed")],
)
def test_a_gateway_keeps_its_image_until_an_upgrade_or_the_image_is_gone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, upgrade: bool, there: bool, image: str
) -> None:
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\n" + ("echo []" if there else "echo 'Error: No such image: sha256:1' >&2; exit 1"))
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    wanted = {"name": "svc", "state_dir": str(tmp_path), "image": "sha256:2", "upgrade": upgrade}
    files = {"docker-compose.yml": "image: sha256:2"}
    compared = compare_gateway({**wanted, "files": files, "folders": {}}, [GATEWAY, KEEPER])
    assert compared.image == image
    assert compared.files == {str(tmp_path / "docker-compose.yml"): f"image: {image}"}

"""The lock of the gateway's folder, taken in a real one, and what the one that makes way is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.gpu_hosts.timm.plugins.module_utils.gateway_replace import (
    ReplaceError,
    alone,
    ending_connections,
)
from tests.collection import REPOSITORY


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


# As version 5539c80 wrote them, in short.
FORMER = """global
    maxconn 4096

defaults
    mode http

backend bk_blue
    default-server check resolvers docker init-addr none
    server 0 blue-0:8000
"""
CLOSING = """global
    server-state-file /run/haproxy/servers.state
    maxconn 4096

defaults
    load-server-state-from-file global
    option httpclose
    mode http

backend bk_blue
    default-server check resolvers docker init-addr last,none
    server 0 blue-0:8000
"""


def test_one_that_makes_way_ends_connections_and_keeps_its_servers_addresses() -> None:
    assert ending_connections(FORMER) == CLOSING
    # One that a killed run has left is told the same again.
    assert ending_connections(CLOSING) == CLOSING


def test_a_gateway_of_today_is_told_only_what_it_does_not_know() -> None:
    template = (REPOSITORY / "roles/gateway/templates/haproxy.cfg.j2").read_text()
    added = set(ending_connections(template).splitlines()) - set(template.splitlines())
    assert added == {"    option httpclose"}

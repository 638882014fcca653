"""The firewall's rules by which new connections wait."""

from __future__ import annotations

import datetime
import shlex

import pytest

from ansible_collections.gpu_hosts.timm.plugins.module_utils.patience import named, rule

NAME = "cats-gateway makes way"
UNTIL = datetime.datetime(2026, 11, 1, 10, 0, 15, tzinfo=datetime.UTC)


def test_only_what_begins_a_connection_waits_and_only_for_a_while() -> None:
    words = rule("10.0.0.5", 8000, NAME, UNTIL)
    assert words[:2] == ["--destination", "10.0.0.5"]
    assert "--syn" in words
    assert words[words.index("--datestop") + 1] == "2026-11-01T10:00:15"


@pytest.mark.parametrize("ip", ["::", "::0"])
def test_every_address_needs_no_destination(ip: str) -> None:
    assert "--destination" not in rule(ip, 8000, NAME, UNTIL)


def test_rules_are_found_by_their_name_alone() -> None:
    ours = f'-A OUTPUT -p tcp -m tcp --dport 8000 -m time --datestop x -m comment --comment "{NAME}" -j DROP'
    others = '-P OUTPUT ACCEPT\n-A OUTPUT -m comment --comment "dogs-gateway makes way" -j DROP\n-A OUTPUT -j DROP'
    assert list(named(f"{others}\n{ours}\n", NAME)) == [["--delete", *shlex.split(ours)[1:]]]

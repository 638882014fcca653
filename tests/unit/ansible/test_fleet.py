"""The closing table of a fleet, and where a load balancer finds the hosts."""

from __future__ import annotations

from typing import Any

import pytest

from plugins.callback.fleet_summary import HostState, fleet_table
from plugins.filter.balanced_hosts import balanced_hosts


def release(identity: str, version: str) -> dict[str, Any]:
    return {"release_id": identity, "bundle": {"name": "cats", "version": version}, "settings": {"device": "cuda"}}


OLD, NEW = release("aaa", "1"), release("bbb", "2")
OBSERVED = {"live": {"colour": "blue", "release": OLD}}
PLANNED = {**OBSERVED, "plan": {"rollout": True}, "release": NEW}


def state(*answers: dict[str, Any], **flags: Any) -> HostState:
    host = HostState(**flags)
    for answer in answers:
        host.learn(answer)
    return host


@pytest.mark.parametrize(
    ("host", "line"),
    [
        (state(OBSERVED), "aaa      cats 1  cuda    untouched"),
        (state(OBSERVED, PLANNED, switched=True, recorded=True), "bbb      cats 2  cuda    updated"),
        (state(OBSERVED, PLANNED), "aaa      cats 1  cuda    interrupted; run again"),
        (state(OBSERVED, PLANNED, switched=True), "bbb      cats 2  cuda    interrupted; run again"),
        (state(OBSERVED, {**PLANNED, "plan": {"rollout": False}}), "aaa      cats 1  cuda    unchanged"),
        (state(OBSERVED, PLANNED, failed=True), "aaa      cats 1  cuda    failed, kept"),
        (
            state(OBSERVED, PLANNED, unreachable=True),
            "aaa      cats 1  cuda    unreachable; this is what it served before",
        ),
    ],
)
def test_each_end_of_a_host_has_its_words(host: HostState, line: str) -> None:
    assert fleet_table({"gpu-1": host}) == ["host   release  model   device  state", f"gpu-1  {line}"]


def test_a_host_without_a_release_serves_nothing() -> None:
    assert fleet_table({"gpu-1": state({"msg": "no engine"}, failed=True)})[1] == (
        "gpu-1  -        -      -       failed, serves nothing"
    )


def test_a_dry_run_promises_and_does_not_claim() -> None:
    assert fleet_table({"gpu-1": state(PLANNED)}, dry=True)[1] == "gpu-1  aaa      cats 1  cuda    would be updated"


def test_hosts_keep_the_order_of_the_inventory() -> None:
    lines = fleet_table({"b": state(OBSERVED), "a": state(OBSERVED)})
    assert [line.split()[0] for line in lines] == ["host", "b", "a"]


def test_a_load_balancer_reaches_a_host_where_its_variables_say() -> None:
    variables: dict[str, dict[str, Any]] = {
        "gpu-1": {"ansible_host": "192.0.2.11", "deploy_address": "198.51.100.11", "inference_service_port": "8080"},
        "gpu-2": {"ansible_host": "192.0.2.12"},
        "gpu-3": {},
    }
    assert balanced_hosts(variables, variables) == [
        {"name": "gpu-1", "address": "198.51.100.11", "port": 8080},
        {"name": "gpu-2", "address": "192.0.2.12", "port": 8000},
        {"name": "gpu-3", "address": "gpu-3", "port": 8000},
    ]

"""The closing table of a fleet, the order in which hosts roll out, and where a load balancer finds them."""

from __future__ import annotations

import time
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.gpu_hosts.timm.plugins.callback.fleet_summary import HostState, fleet_table, for_people
from ansible_collections.gpu_hosts.timm.plugins.filter.balanced_hosts import (
    balanced_hosts,
    balancer_trouble,
    reached_at,
)
from ansible_collections.gpu_hosts.timm.plugins.filter.release_table import status_notes
from ansible_collections.gpu_hosts.timm.plugins.filter.roll import (
    batches,
    changed_before,
    connection_words,
    ended_before,
    failure_words,
    reboots_before,
    roll_batch,
    serving_lines,
)
from ansible_collections.gpu_hosts.timm.plugins.module_utils.published import socket_address


def release(identity: str, version: str) -> dict[str, Any]:
    return {"release_id": identity, "bundle": {"name": "cats", "version": version}, "settings": {"device": "cuda"}}


OLD, NEW = release("aaa", "1"), release("bbb", "2")
OBSERVED = {"live": {"color": "blue", "release": OLD}}
PLANNED = {**OBSERVED, "plan": {"rollout": True}, "release": NEW}
SETTLED = {**OBSERVED, "plan": {"rollout": False}, "release": OLD}
URL = "http://192.0.2.11:8000"


def answer(one: dict[str, Any]) -> dict[str, Any]:
    bundle = one["bundle"]
    return {
        "answers": True,
        "release": one["release_id"],
        "model": bundle["name"],
        "version": bundle["version"],
        "device": "cuda",
        "url": URL,
        "usable": URL,
        "reason": "",
    }


SILENT = {"answers": False, "release": "", "url": URL, "usable": URL, "reason": "connection refused"}


def state(plan: dict[str, Any], *looks: dict[str, Any], **flags: Any) -> HostState:
    host = HostState(**flags)
    host.plans(plan)
    for look in looks:
        host.looks(look)
    return host


def test_who_was_lost_or_failed_before_ends_the_run() -> None:
    variables = {"a": {"__run_failure": "no reason was given"}, "b": {}, "c": {"__run_failure": ""}, "d": {}}
    assert ended_before(["a", "b", "c"], ["a", "b", "c", "d"], variables) == ["a", "c"]
    assert ended_before(["b", "d"], ["b"], variables) == ["d"]
    assert ended_before(["b", "d"], ["b", "d"], variables) == []


def test_a_pause_is_for_hosts_that_serve_something_else_now() -> None:
    plans: dict[str, dict[str, Any]] = {"a": {"plan": {"rollout": True}}, "b": {"plan": {"rollout": False}}, "c": {}}
    variables: dict[str, dict[str, Any]] = {name: {"inference_service_plan": plan} for name, plan in plans.items()}
    assert changed_before(["a", "b", "c", "d"], {**variables, "d": {}}) == ["a"]


def test_a_host_reboots_when_those_before_it_are_back() -> None:
    needed = {"__nvidia_driver_reboot_needed": True}
    variables: dict[str, dict[str, Any]] = {"a": needed, "b": {"__nvidia_driver_reboot_needed": False}, "c": needed}
    assert reboots_before(["a", "b", "c"], "c", variables) == ["a"]
    assert reboots_before(["a", "b", "c"], "a", variables) == []
    back = {**variables, "a": {**needed, "__nvidia_driver_back": True}}
    assert reboots_before(["a", "b", "c"], "c", back) == []


@pytest.mark.parametrize(
    ("host", "line"),
    [
        (state({}, answer(OLD)), f"cats 1  aaa      cuda    {URL}  serves"),
        (state(PLANNED, answer(NEW), recorded=True), f"cats 2  bbb      cuda    {URL}  updated"),
        (state(PLANNED, answer(OLD)), f"cats 1  aaa      cuda    {URL}  interrupted; run again"),
        (state(SETTLED, answer(OLD)), f"cats 1  aaa      cuda    {URL}  unchanged"),
        (state(PLANNED, answer(OLD), failed=True), f"cats 1  aaa      cuda    {URL}  failed, still serves"),
        (state(PLANNED, answer(NEW), failed=True), f"cats 2  bbb      cuda    {URL}  failed, serves the new release"),
        (
            state(PLANNED, SILENT, failed=True),
            f"-       -        -       {URL}  failed, serves nothing (connection refused)",
        ),
        (state({}, answer(OLD), removed=True), f"cats 1  aaa      cuda    {URL}  still serves"),
    ],
)
def test_each_end_of_a_host_has_its_words(host: HostState, line: str) -> None:
    titles, found = fleet_table({"gpu-1": host})
    assert titles == "host   serves  release  device  address                 state"
    assert found == f"gpu-1  {line}"


@pytest.mark.parametrize(
    ("host", "words"),
    [
        (state(PLANNED, {"msg": "Docker does not answer"}, failed=True), "failed, not known (Docker does not answer)"),
        (state(OBSERVED), "not known (the run ended before the host was asked)"),
        (state({}, {"answers": False, "reason": "there is no gateway of x"}, removed=True), "removed"),
    ],
)
def test_a_look_that_failed_is_not_a_host_that_serves_nothing(host: HostState, words: str) -> None:
    assert fleet_table({"gpu-1": host})[1] == f"gpu-1  -       -        -       -        {words}"


def test_a_lost_host_is_not_known_until_a_look_finds_it_again() -> None:
    host = state(PLANNED, answer(OLD))
    host.is_lost("Connection timed out")
    assert host.verdict(dry=False) == "not known (unreachable: Connection timed out)"
    host.looks(answer(OLD))
    assert host.verdict(dry=False) == "interrupted; run again"


def test_an_address_that_only_the_host_reaches_is_not_offered() -> None:
    host = state(SETTLED, {**answer(OLD), "url": "http://127.0.0.1:8000", "usable": ""})
    assert "only on the host itself  unchanged" in fleet_table({"gpu-1": host})[1]


def test_a_dry_run_promises_and_does_not_claim() -> None:
    assert state(PLANNED, answer(OLD)).verdict(dry=True) == "would be updated"
    assert state(PLANNED, SILENT).verdict(dry=True) == "would be deployed"


def test_hosts_keep_the_order_of_the_inventory() -> None:
    lines = fleet_table({"b": state(OBSERVED), "a": state(OBSERVED)})
    assert [line.split()[0] for line in lines] == ["host", "b", "a"]


@pytest.mark.parametrize(
    ("name", "people"), [("default", True), ("ansible.posix.json", False), ("nobody.knows", False)]
)
def test_output_for_a_machine_gets_no_table(name: str, people: bool) -> None:
    assert for_people(name) is people


def test_the_canary_goes_first_and_batches_follow_in_order() -> None:
    hosts = ["a", "b", "c", "d", "e"]
    assert batches(hosts, 1, 2) == [["a"], ["b", "c"], ["d", "e"]]
    assert batches(hosts, "40%", "100%") == [["a", "b"], ["c", "d", "e"]]
    assert batches(["a"], 1, 1) == [["a"]]
    assert roll_batch(hosts, "c", 1, 2) == {"hosts": ["b", "c"], "before": ["a"]}
    assert roll_batch(hosts, "a", 1, 2) == {"hosts": ["a"], "before": []}


@pytest.mark.parametrize(("canary", "batch"), [(0, 1), (1, "many"), (1, -1)])
def test_batches_of_no_size_are_refused(canary: int | str, batch: int | str) -> None:
    with pytest.raises(AnsibleFilterError, match="deploy_batch"):
        batches(["a", "b"], canary, batch)


def test_the_reason_of_a_failure_is_what_the_task_said() -> None:
    items = [{"msg": "one"}, {"msg": "Task failed: two", "failed": True}, {"msg": "two", "failed": True}]
    assert failure_words({"msg": "One or more items failed", "results": items}) == "two"
    assert failure_words({"msg": "Task failed: no space"}) == "no space"
    assert failure_words({}) == "no reason was given"
    assert failure_words({"msg": "b"}, "a") == "a\nb"


def test_a_connection_speaks_for_itself() -> None:
    said = "ssh: connect to host 192.0.2.1 port 22: Connection timed out"
    assert connection_words(f"Task failed: Failed to connect to the host via ssh: {said}") == said
    assert connection_words("") == "the connection says nothing"


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


def test_what_serves_is_said_with_an_address_that_others_can_use() -> None:
    prediction = {"sample": "cat.jpg", "class_name": "Abyssinian", "confidence": 0.9312}
    facts = {"plan": {"color": "blue"}}
    lines = serving_lines(answer(OLD), {**facts, "verified": {}}, {"prediction": prediction}, time.time() - 12.34)
    assert lines == serving_lines(
        answer(OLD), {**facts, "verified": {"prediction": prediction}}, {}, time.time() - 12.34
    )
    assert lines == [
        f"URL:        {URL}",
        "Device:     cuda",
        "Model:      cats 1",
        "Release:    aaa (blue)",
        "Prediction: cat.jpg is Abyssinian (93.1 %)",
        "Took:       12.3 s",
    ]
    hidden = {**answer(OLD), "url": "http://127.0.0.1:8000", "usable": ""}
    assert serving_lines(hidden, facts, {}, 1)[0].endswith(
        "http://127.0.0.1:8000 (on the host alone: set inference_service_bind to let others in)"
    )


def test_an_address_of_ipv6_stands_in_brackets() -> None:
    assert socket_address("fd00::11", 8000) == "[fd00::11]:8000"
    assert socket_address("gpu-1", 8000) == "gpu-1:8000"


def test_a_load_balancer_names_the_hosts_that_it_does_not_reach() -> None:
    hosts = [{"name": "gpu-1", "address": "fd00::11", "port": 8000}]
    look = {"answers": True, "down": {"gpu-1": "DOWN (L4CON)"}, "reason": ""}
    assert balancer_trouble(look, hosts) == "it does not reach gpu-1 ([fd00::11]:8000, DOWN (L4CON))"
    silent = {"answers": False, "down": {}, "reason": "connection refused"}
    assert balancer_trouble(silent, hosts) == "it does not answer: connection refused"


def balancer(answers: bool, *states: str, **flags: Any) -> HostState:
    servers = [
        {"name": f"gpu-{number}", "state": said, "up": said == "UP"} for number, said in enumerate(states, start=1)
    ]
    look = {"answers": answers, "servers": servers, "url": URL, "usable": URL, "reason": "connection refused"}
    return state({}, look, **flags)


@pytest.mark.parametrize(
    ("host", "line"),
    [
        (balancer(True, "UP", "UP"), f"2 of 2 hosts up  -        -       {URL}  serves"),
        (
            balancer(True, "UP", "DOWN (L4CON)"),
            f"1 of 2 hosts up  -        -       {URL}  serves without gpu-2: DOWN (L4CON)",
        ),
        (balancer(True, "UP", failed=True), f"1 of 1 hosts up  -        -       {URL}  failed, still serves"),
        (balancer(False), f"-       -        -       {URL}  serves nothing (connection refused)"),
        (balancer(False, removed=True), f"-       -        -       {URL}  removed"),
    ],
)
def test_a_load_balancer_has_a_line_too(host: HostState, line: str) -> None:
    assert fleet_table({"lb-1": host})[1] == f"lb-1  {line}"


def facts(lock: dict[str, Any] | None = None, **live: Any) -> dict[str, Any]:
    return {"live": {"release": live.get("release", OLD)}, "lock": lock or {}}


def test_the_status_says_what_answers_and_what_a_deploy_would_undo() -> None:
    assert status_notes(facts(), answer(OLD), "cats 1") == [f"It answers at {URL}."]
    assert status_notes(facts(), SILENT, "cats 2") == [
        "NOTHING ANSWERS: connection refused.",
        "WARNING: the inventory has cats 2, so a deploy without -e would replace cats 1.",
    ]
    assert status_notes(facts(), {"msg": "Docker does not answer"}, " ") == [
        "What it answers is not known: Docker does not answer"
    ]
    assert status_notes(facts(release={}), SILENT, "cats 1") == []


@pytest.mark.parametrize(
    ("lock", "note"),
    [
        (
            {"owner": "ana", "since": "2026-11-01T10:00:00Z", "working": True},
            "ana holds the lock since 2026-11-01T10:00:00Z, and works here.",
        ),
        (
            {"owner": "somebody unknown", "since": "", "working": False},
            "somebody unknown holds the lock, and nothing works here for it at this moment.",
        ),
        (
            {"owner": "", "since": "", "working": True},
            "A run that lost its lock still works here; the next run waits until it ends.",
        ),
    ],
)
def test_the_status_says_who_is_at_work(lock: dict[str, Any], note: str) -> None:
    assert status_notes(facts(lock), answer(OLD), "cats 1")[1:] == [note]


@pytest.mark.parametrize(
    ("settings", "connection", "place"),
    [
        ({}, "ssh", "gpu-1"),
        ({"ansible_host": "192.0.2.11"}, "ssh", "192.0.2.11"),
        ({"ansible_host": "192.0.2.11", "deploy_address": "fd00::11"}, "ssh", "fd00::11"),
        ({"ansible_host": "192.0.2.11"}, "local", ""),
        ({"deploy_address": "192.0.2.11"}, "ansible.builtin.local", "192.0.2.11"),
    ],
)
def test_people_reach_a_host_as_load_balancers_do_but_this_machine(
    settings: dict[str, Any], connection: str, place: str
) -> None:
    variables = {**settings, "inventory_hostname": "gpu-1"}
    assert reached_at(variables, connection) == place
    if place:
        assert balanced_hosts(["gpu-1"], {"gpu-1": variables})[0]["address"] == place

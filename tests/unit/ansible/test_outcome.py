"""What is undone after a rollout that failed, and what its record says."""

from __future__ import annotations

import getpass
import platform
from typing import Any

import pytest

from ansible_collections.gpu_hosts.timm.plugins.filter.outcome import (
    bake_figures,
    failed_record,
    failed_words,
    good_record,
    is_news,
    last_recorded,
    release_before,
    undoing,
)

TASK = "gpu_hosts.timm.inference_service : Accept | Ask the candidate its golden samples"


def facts(
    rollout: bool = True, live: str = "aa", wanted: str = "bb", strategy: str = "blue_green", **other: Any
) -> dict[str, Any]:
    return {
        "plan": {
            "rollout": rollout,
            "live_release": live,
            "release_id": wanted,
            "strategy": strategy,
            "color": "green",
            "live_color": "blue",
            "reason": "release aa is live",
        },
        "release": {"image": {"id": "sha256:1"}, "bundle": {"name": "cats", "version": "2"}},
        "instances": [{"color": "blue", "release": "old"}, {"color": "green", "release": "bb"}],
        "records": [],
        **other,
    }


def test_a_candidate_that_fails_goes_and_what_is_live_goes_on_serving() -> None:
    found = undoing({"failed": True, "msg": "too slow", "log": ["one", "two"]}, facts(), TASK, {})
    assert found == {
        "task": "Ask the candidate its golden samples",
        "reason": "too slow",
        "log": ["one", "two"],
        "stays": False,
        "undone": True,
        "serving": "aa",
        "acceptance": [],
        "switch_back": False,
        "color": "blue",
        "remove": True,
        "bring_back": False,
    }


@pytest.mark.parametrize(
    ("strategy", "switched", "steps"),
    [
        ("blue_green", {}, (False, "blue", False)),
        ("blue_green", {"previous": "blue"}, (True, "blue", False)),
        # Where the switch itself failed nothing says what was live before; the plan does.
        ("blue_green", {"failed": True}, (True, "blue", False)),
        ("recreate", {}, (False, "hold-blue", False)),
        ("recreate", {"previous": "hold-blue"}, (True, "hold-blue", True)),
    ],
)
def test_what_was_live_gets_the_requests_back(strategy: str, switched: dict[str, Any], steps: tuple[Any, ...]) -> None:
    found = undoing({"failed": True, "msg": "m"}, facts(strategy=strategy), TASK, switched)
    assert (found["switch_back"], found["color"], found["bring_back"]) == steps


def test_nothing_is_switched_back_where_the_release_before_is_gone() -> None:
    found = undoing({"failed": True, "former": "blue", "went_back": False}, facts(), TASK, {"previous": "blue"})
    assert (found["stays"], found["switch_back"], found["remove"]) == (True, False, False)


def test_of_several_instances_those_that_failed_give_reason_and_log() -> None:
    results = [
        {"failed": True, "msg": "one", "log": ["a"]},
        {"failed": False, "msg": "fine"},
        {"failed": True, "msg": "two"},
    ]
    found = undoing({"failed": True, "msg": "One or more items failed", "results": results}, facts(), TASK, {})
    assert (found["reason"], found["log"]) == ("one two", ["a"])


@pytest.mark.parametrize(
    ("failed", "reason"),
    [({}, "no reason given"), ({"results": [], "msg": "m"}, "m"), ({"msg": "unreachable"}, "unreachable")],
)
def test_there_is_always_a_reason(failed: dict[str, Any], reason: str) -> None:
    assert undoing(failed, facts(), TASK, {})["reason"] == reason


@pytest.mark.parametrize(
    ("rollout", "went_back", "stays", "undone", "serving"),
    [
        (True, True, False, True, "aa"),
        (True, False, True, True, "aa"),
        (False, True, False, True, "old"),
        (False, False, True, False, "old"),
    ],
)
def test_a_bake_that_failed(rollout: bool, went_back: bool, stays: bool, undone: bool, serving: str) -> None:
    """With rollout false the run finishes the bake of one that died: the former color is what it goes back to."""
    found = undoing(
        {"failed": True, "former": "blue", "went_back": went_back, "msg": "x"}, facts(rollout, live="bb"), TASK, {}
    )
    expected = (stays, undone, "bb" if rollout else serving)
    assert (found["stays"], found["undone"], found["serving"]) == expected


def test_the_release_before_is_the_last_good_one_when_a_run_died_before_its_record() -> None:
    records = [{"release_id": "aa", "result": "ok"}, {"release_id": "cc", "result": "failed"}]
    assert release_before(facts(live="aa", wanted="bb", records=records)) == "aa"
    assert release_before(facts(live="bb", wanted="bb", records=records)) == "aa"
    assert last_recorded(facts()) == ""


def test_figures_of_a_bake() -> None:
    assert bake_figures({"requests": 3, "errors": 0, "changed": True, "reason": ""}) == {"requests": 3, "errors": 0}
    assert bake_figures({}) == {}


SEEN: dict[str, Any] = {
    "rollback": False,
    "overrides": {"model_bundle_version": "2"},
    "reports": {"driver": {"findings": [{"id": "GPU009", "severity": "warning", "summary": "s"}]}, "engine": {}},
    "access": [{"id": "GPU020", "severity": "info"}, {"id": "GPU021", "severity": "error", "waived": "known"}],
    "derived": {"seconds": 6.5},
    "ready": {"results": [{"seconds": 3}, {"seconds": 4.5}]},
    "accepted": {"report": [{"sample": "cat.jpg"}], "seconds": 1.5},
    "switched": {"seconds": 0.2, "held": 2.5},
    "verified": {"device": "cuda:0"},
    "baked": {"requests": 3, "errors": 0, "seconds": 10.0, "changed": False},
}
NOTHING_DONE = {
    **SEEN,
    "derived": {},
    "ready": {},
    "accepted": {},
    "switched": {},
    "reports": {"driver": {}},
    "access": [],
}


def test_the_record_of_a_rollout() -> None:
    assert good_record(facts(), SEEN) == {
        "release_id": "bb",
        "action": "deploy",
        "result": "ok",
        "reason": "release aa is live",
        "image": {"id": "sha256:1"},
        "bundle": {"name": "cats", "version": "2"},
        "color": "green",
        "previous": "aa",
        "overrides": {"model_bundle_version": "2"},
        "device": "cuda:0",
        "findings": [
            {"id": "GPU009", "severity": "warning", "summary": "s"},
            {"id": "GPU021", "severity": "error", "waived": "known"},
        ],
        "acceptance": [{"sample": "cat.jpg"}],
        "bake": {"requests": 3, "errors": 0, "seconds": 10.0},
        "phases": {"derive": 6.5, "ready": 4.5, "accept": 1.5, "switch": 0.2, "held": 2.5, "bake": 10.0},
        "by": f"{getpass.getuser()}@{platform.node()}",
    }


def test_the_record_of_a_run_that_finished_what_another_had_begun() -> None:
    found = good_record(facts(rollout=False, live="bb"), {**NOTHING_DONE, "rollback": True})
    assert found["action"] == "rollback"
    assert found["phases"] == {"derive": 0.0, "ready": 0.0, "accept": 0.0, "switch": 0.0, "held": 0.0, "bake": 10.0}
    assert (found["findings"], found["acceptance"]) == ([], [])


@pytest.mark.parametrize(
    ("rollout", "recorded", "news"), [(True, "bb", True), (False, "bb", False), (False, "aa", True)]
)
def test_only_what_changed_is_recorded(rollout: bool, recorded: str, news: bool) -> None:
    assert is_news(facts(rollout, records=[{"release_id": recorded, "result": "ok"}])) == news


def test_the_record_of_a_failure() -> None:
    report = [{"sample": "cat.jpg", "problems": ["wrong"]}]
    undone = undoing({"failed": True, "msg": "wrong", "report": report}, facts(), TASK, {})
    found = failed_record(undone, facts(), {**NOTHING_DONE, "baked": {}})
    assert found["result"] == "failed"
    assert found["reason"] == "Ask the candidate its golden samples: wrong"
    assert (found["previous"], found["acceptance"]) == ("aa", report)
    assert (found["bake"], found["phases"]) == ({}, {"held": 0.0})


LOOK = {"answers": True, "release": "aa", "url": "http://127.0.0.1:8000", "model": "cats", "version": "1"}


@pytest.mark.parametrize(
    ("failed", "look", "first"),
    [
        ({"msg": "m"}, LOOK, "Release bb (cats 2) is not serving on gpu-1."),
        ({"msg": "m"}, {**LOOK, "release": "bb"}, "Release bb (cats 2) is not in order on gpu-1."),
        ({"msg": "m", "former": "blue"}, {**LOOK, "release": "bb"}, "Release bb (cats 2) failed on gpu-1."),
    ],
)
def test_a_failure_is_told_in_the_order_of_cause_effect_and_next_step(
    failed: dict[str, Any], look: dict[str, Any], first: str
) -> None:
    undone = undoing({"failed": True, "log": ["a", "b"], **failed}, facts(), TASK, {})
    lines = failed_words(undone, facts(), look, "gpu-1").splitlines()
    assert lines[:6] == [
        first,
        "Failed at: Ask the candidate its golden samples.",
        "Reason: m",
        "Last lines of its log:",
        "a",
        "b",
    ]
    assert lines[6].endswith("docs/TROUBLESHOOTING.md explains the messages.")

"""What is undone after a rollout that failed, and what its record says."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.gpu_hosts.timm.plugins.filter.outcome import (
    bake_figures,
    last_recorded,
    release_before,
    undoing,
)

TASK = "gpu_hosts.timm.inference_service : Accept | Ask the candidate its golden samples"


def facts(rollout: bool = True, live: str = "aa", wanted: str = "bb", **other: Any) -> dict[str, Any]:
    return {
        "plan": {"rollout": rollout, "live_release": live, "release_id": wanted},
        "instances": [{"color": "blue", "release": "old"}, {"color": "green", "release": "bb"}],
        "records": [],
        **other,
    }


def test_a_candidate_that_fails_goes_and_what_is_live_goes_on_serving() -> None:
    found = undoing({"failed": True, "msg": "too slow", "log": ["one", "two"]}, facts(), TASK)
    assert found == {
        "task": "Ask the candidate its golden samples",
        "reason": "too slow",
        "log": ["one", "two"],
        "stays": False,
        "undone": True,
        "serving": "aa",
    }


def test_of_several_instances_those_that_failed_give_reason_and_log() -> None:
    results = [
        {"failed": True, "msg": "one", "log": ["a"]},
        {"failed": False, "msg": "fine"},
        {"failed": True, "msg": "two"},
    ]
    found = undoing({"failed": True, "msg": "One or more items failed", "results": results}, facts(), TASK)
    assert (found["reason"], found["log"]) == ("one two", ["a"])


@pytest.mark.parametrize(
    ("failed", "reason"),
    [({}, "no reason given"), ({"results": [], "msg": "m"}, "m"), ({"msg": "unreachable"}, "unreachable")],
)
def test_there_is_always_a_reason(failed: dict[str, Any], reason: str) -> None:
    assert undoing(failed, facts(), TASK)["reason"] == reason


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
        {"failed": True, "former": "blue", "went_back": went_back, "msg": "x"}, facts(rollout, live="bb"), TASK
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

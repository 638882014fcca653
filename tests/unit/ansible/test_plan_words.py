"""What a rollout will do, as it is said before it is done."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.gpu_hosts.timm.plugins.filter.plan_words import plan_words
from tests.unit.ansible.playbook_run import run as play

WHEN = "2026-11-01T10:00:00Z"


def facts(version: str, *, rollout: bool = True, strategy: str = "blue_green", **record: Any) -> dict[str, Any]:
    plan = {"rollout": rollout, "reason": "release aaa is live", "color": "green", "strategy": strategy}
    plan |= {"release_id": "bbb" if rollout else "aaa", "live_release": "aaa"}
    return {
        "plan": plan,
        "unsettled": "",
        "live": {"release": {"release_id": "aaa", "bundle": {"name": "cats", "version": "2"}}},
        "release": {"bundle": {"name": "cats", "version": version}},
        "records": [{"release_id": "aaa", "result": "ok", "finished": WHEN, **record}],
    }


def test_an_update_says_from_which_version_to_which() -> None:
    assert plan_words(facts("3"), {}) == "Rolling out release bbb (cats 2 → 3) on green: release aaa is live."


def test_another_image_with_the_same_model_names_it_once() -> None:
    assert "(cats 2) on green" in plan_words(facts("2"), {})


def test_a_replacement_says_that_requests_wait() -> None:
    assert "is replaced while requests wait" in plan_words(facts("3", strategy="recreate"), {})


@pytest.mark.parametrize(("overrides", "said"), [({}, True), ({"model_bundle_version": "3"}, False)])
def test_a_plain_run_says_that_it_undoes_what_was_given_with_e(overrides: dict[str, str], said: bool) -> None:
    words = plan_words(facts("1", overrides={"model_bundle_version": "2"}), overrides)
    assert (f"; this undoes -e model_bundle_version=2 of {WHEN}." in words) == said


def test_nothing_to_do_undoes_nothing() -> None:
    words = plan_words(facts("2", rollout=False, overrides={"model_bundle_version": "2"}), {})
    assert words == "Nothing to do: release aaa is live."


def test_records_of_before_have_no_such_word() -> None:
    assert "undoes" not in plan_words(facts("1"), {})


def test_the_lookup_knows_what_was_given_with_e(tmp_path: Any) -> None:
    (tmp_path / "play.yml").write_text(
        "- hosts: localhost\n  gather_facts: false\n  tasks:\n    - ansible.builtin.debug:\n"
        "        msg: \"given: {{ lookup(name, 'model_bundle_name', 'model_bundle_version') }}\"\n"
        "      vars: {name: gpu_hosts.timm.overrides, model_bundle_name: of the inventory}\n"
    )
    code, output = play("-ilocalhost,", str(tmp_path / "play.yml"), "-e", "model_bundle_version=2")
    assert code == 0
    assert "given: {'model_bundle_version': '2'}" in output

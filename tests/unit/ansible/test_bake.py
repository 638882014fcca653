"""When the bake sends a new release back."""

from __future__ import annotations

import pytest

from ansible_collections.gpu_hosts.timm.plugins.module_utils.bake import Counters, judge

FORMER = Counters(requests=1000, errors=0, milliseconds=50)


class TestJudge:
    @pytest.mark.parametrize(
        ("counted", "final", "said"),
        [
            (Counters(0, 0, 0), True, ""),
            (Counters(100, 1, 50), True, ""),
            (Counters(10, 10, 50), False, "10 of 10 requests"),
            (Counters(500, 11, 50), False, "11 of 500 requests"),
            # A client that sends odd requests is not the release's fault.
            (Counters(9, 9, 50), False, ""),
            (Counters(9, 9, 50), True, ""),
            (Counters(100, 0, 500), True, "an answer takes 500 ms"),
            (Counters(100, 0, 500), False, ""),
            (Counters(5, 0, 500), True, ""),
            (Counters(100, 0, 300), True, ""),
        ],
    )
    def test_errors_and_time_against_the_release_before(self, counted: Counters, final: bool, said: str) -> None:
        reason = judge(counted, FORMER, {}, final)
        assert reason.startswith(said)
        assert bool(reason) == bool(said)

    def test_no_more_errors_than_before_are_no_reason(self) -> None:
        assert judge(Counters(100, 50, 50), Counters(100, 50, 50), {}, True) == ""

    def test_a_lost_instance_is_a_reason_at_once(self) -> None:
        assert "lost instance 1" in judge(Counters(0, 0, 0), FORMER, {"1": "DOWN"}, False)


class TestCounters:
    def test_only_what_came_after_the_switch_counts(self) -> None:
        assert Counters(30, 4, 9).since(Counters(20, 3, 8)) == Counters(10, 1, 9)

    def test_a_gateway_that_was_restarted_counts_from_zero(self) -> None:
        assert Counters(3, 1, 9).since(Counters(20, 0, 8)) == Counters(3, 1, 9)

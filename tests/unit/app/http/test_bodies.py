import pytest

from app.errors import ServiceError
from app.http.bodies import FIRST, Bodies


def test_a_body_holds_at_most_twice_what_has_come_of_it() -> None:
    bodies = Bodies(100 * FIRST)
    with bodies.loan() as loan:
        for come, held in ((1, 1), (FIRST + 1, 2), (2 * FIRST + 1, 4), (5 * FIRST, 8), (9 * FIRST, 10)):
            loan.reserve(come, most=10 * FIRST)
            assert bodies.held == held * FIRST
    assert bodies.held == 0


def test_a_short_body_holds_no_more_than_it_says() -> None:
    bodies = Bodies(FIRST)
    with bodies.loan() as loan:
        loan.reserve(100, most=100)
        assert bodies.held == 100


def test_what_does_not_fit_is_told_to_come_back_and_takes_nothing() -> None:
    bodies = Bodies(3 * FIRST)
    with bodies.loan() as first, bodies.loan() as second:
        first.reserve(2 * FIRST, most=2 * FIRST)
        second.reserve(1, most=8 * FIRST)
        with pytest.raises(ServiceError) as caught:
            second.reserve(FIRST + 1, most=8 * FIRST)
        assert (caught.value.code, caught.value.status, caught.value.retry_after) == ("queue_full", 503, 1)
        assert bodies.held == 3 * FIRST
        first.give_back()
        second.reserve(FIRST + 1, most=8 * FIRST)
    assert bodies.held == 0

import pytest

from app.admission import Admission
from app.errors import ServiceError


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def answer_one_each(admission: Admission, clock: Clock, seconds: float, images: int = 50) -> None:
    """Teach the admission what an image costs."""
    with admission.admit([1]):
        for _ in range(images):
            clock.now += seconds
            admission.answered()


def test_places_are_bounded_by_number_and_come_back() -> None:
    admission = Admission(size=3, seconds=5)
    with admission.admit([1] * 2):
        with pytest.raises(ServiceError) as caught, admission.admit([1] * 2):
            pass
        assert (caught.value.code, caught.value.retry_after) == ("queue_full", 1)
        with admission.admit([1]):
            assert admission.held == 3
    assert admission.held == 0


def test_a_wait_beyond_the_limit_is_refused_with_the_time_to_come_back() -> None:
    clock = Clock()
    admission = Admission(size=1000, seconds=10, clock=clock)
    answer_one_each(admission, clock, seconds=0.5)
    with admission.admit([1] * 19):
        admission.check(1)
        with admission.admit([1]), pytest.raises(ServiceError) as caught:
            admission.check(1)
    assert caught.value.retry_after == 5
    assert "10.5 seconds" in caught.value.detail


def test_the_estimate_follows_the_latest_images() -> None:
    clock = Clock()
    admission = Admission(size=1000, seconds=10, clock=clock)
    answer_one_each(admission, clock, seconds=1)
    answer_one_each(admission, clock, seconds=0.01)
    assert admission.wait(100) == pytest.approx(1, rel=0.6)


def test_idle_time_is_no_cost() -> None:
    clock = Clock()
    admission = Admission(size=1000, seconds=10, clock=clock)
    answer_one_each(admission, clock, seconds=0.1)
    clock.now += 3600
    answer_one_each(admission, clock, seconds=0.1, images=1)
    assert admission.wait(1) == pytest.approx(0.1)


def test_a_very_slow_model_still_takes_a_few() -> None:
    clock = Clock()
    admission = Admission(size=1000, seconds=1, clock=clock)
    answer_one_each(admission, clock, seconds=20)
    with admission.admit([1] * 3):
        admission.check(1)


def test_an_image_weighs_what_it_costs() -> None:
    clock = Clock()
    admission = Admission(size=1000, seconds=10, clock=clock)
    with admission.admit([100]):
        clock.now += 10
        admission.answered(100)
    assert admission.wait(1) == pytest.approx(0.1)
    with admission.admit([90, 1, 1, 1]):
        assert admission.held == 4
        admission.check(1)
        with pytest.raises(ServiceError) as caught, admission.admit([50]):
            pass
        assert "14.3 seconds" in caught.value.detail
    assert admission.wait(0) == 0

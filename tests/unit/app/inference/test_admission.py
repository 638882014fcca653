import contextlib

import pytest

from app.errors import ServiceError
from app.inference.admission import Admission


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def answer_one_each(admission: Admission, clock: Clock, seconds: float, images: int = 50) -> None:
    """Teach the admission what an image costs."""
    with admission.admit([0]):
        for _ in range(images):
            clock.now += seconds
            admission.answered()


def test_places_are_bounded_by_number_and_come_back() -> None:
    admission = Admission(size=3, seconds=5, cores=2)
    with admission.admit([0] * 2):
        with pytest.raises(ServiceError) as caught, admission.admit([0] * 2):
            pass
        assert (caught.value.code, caught.value.retry_after) == ("queue_full", 1)
        with admission.admit([0]):
            assert admission.held == 3
    assert admission.held == 0


def test_a_wait_beyond_the_limit_is_refused_with_the_time_to_come_back() -> None:
    clock = Clock()
    admission = Admission(size=1000, seconds=10, cores=2, clock=clock)
    answer_one_each(admission, clock, seconds=0.5)
    with admission.admit([0] * 19):
        admission.check()
        with admission.admit([0]), pytest.raises(ServiceError) as caught:
            admission.check()
    assert caught.value.retry_after == 6
    assert "10.5 seconds" in caught.value.detail


def test_the_estimate_follows_the_latest_images() -> None:
    clock = Clock()
    admission = Admission(size=1000, seconds=10, cores=2, clock=clock)
    answer_one_each(admission, clock, seconds=1)
    answer_one_each(admission, clock, seconds=0.01)
    assert admission.wait([0] * 100) == pytest.approx(1, rel=0.6)


def test_idle_time_is_no_cost() -> None:
    clock = Clock()
    admission = Admission(size=1000, seconds=10, cores=2, clock=clock)
    answer_one_each(admission, clock, seconds=0.1)
    clock.now += 3600
    answer_one_each(admission, clock, seconds=0.1, images=1)
    assert admission.wait([0]) == pytest.approx(0.1)


def test_a_very_slow_model_still_takes_a_few() -> None:
    clock = Clock()
    admission = Admission(size=1000, seconds=1, cores=2, clock=clock)
    answer_one_each(admission, clock, seconds=20)
    with admission.admit([0] * 3):
        admission.check()


def test_decoding_is_reckoned_and_the_rest_of_an_image_learned() -> None:
    clock = Clock()
    admission = Admission(size=1000, seconds=10, cores=2, clock=clock)
    with admission.admit([0.04]):
        clock.now += 0.12
        admission.answered(0.04)
    assert admission.wait([0]) == pytest.approx(0.1)
    assert admission.wait([0.2, 0.2]) == pytest.approx(0.4)
    assert admission.wait() == 0


def test_large_images_keep_their_like_waiting_and_no_others() -> None:
    clock = Clock()
    admission = Admission(size=1000, seconds=5, cores=2, clock=clock)
    answer_one_each(admission, clock, seconds=0.1)
    with admission.admit([1.6]), admission.admit([1.6]), admission.admit([1.6]), admission.admit([0]):
        admission.check()
        assert admission.wait([0]) == pytest.approx(0.2)
        with pytest.raises(ServiceError) as caught, admission.admit([1.6]):
            pass
        assert ("6.5 seconds" in caught.value.detail, caught.value.retry_after) == (True, 4)
    assert admission.wait() == 0


def test_with_one_core_a_large_image_keeps_everybody_waiting() -> None:
    admission = Admission(size=1000, seconds=5, cores=1)
    with admission.admit([3]), admission.admit([1]), admission.admit([1]), admission.admit([1]):
        with pytest.raises(ServiceError) as caught:
            admission.check()
        assert "6.0 seconds" in caught.value.detail


def test_what_is_hard_to_decode_teaches_nothing_about_the_others() -> None:
    clock = Clock()
    admission = Admission(size=1000, seconds=5, cores=2, clock=clock)
    answer_one_each(admission, clock, seconds=0.1)
    with admission.admit([1.6]):
        clock.now += 10
        admission.answered(1.6)
    assert admission.wait([0]) == pytest.approx(0.1)


def test_an_address_that_fills_the_queue_leaves_half_of_it_to_others() -> None:
    clock = Clock()
    admission = Admission(size=8, seconds=60, cores=2, clock=clock)
    with contextlib.ExitStack() as held:
        for client in "manymany":
            held.enter_context(admission.admit([0], client))
        with pytest.raises(ServiceError), admission.admit([0], "z"):
            pass
    with contextlib.ExitStack() as held:
        for _ in range(4):
            held.enter_context(admission.admit([0], "hog"))
        with pytest.raises(ServiceError) as caught, admission.admit([0], "hog"):
            pass
        assert (caught.value.code, caught.value.status) == ("too_many_requests", 429)
        assert "4 of 4 images are of your address" in caught.value.detail
        for client in "abcd":
            held.enter_context(admission.admit([0], client))
    assert admission.held == 0


def test_the_time_of_the_queue_is_shared_likewise() -> None:
    clock = Clock()
    admission = Admission(size=1000, seconds=10, cores=2, clock=clock)
    answer_one_each(admission, clock, seconds=1)
    admission.check(client="somebody else")
    with contextlib.ExitStack() as held:
        for _ in range(5):
            held.enter_context(admission.admit([0], "hog"))
        with pytest.raises(ServiceError, match="5 of 5 images are of your address"):
            admission.check(client="hog")
        admission.check(client="somebody else")


@pytest.mark.parametrize("others_seconds_ago", [None, 61])
def test_a_lone_address_may_use_all_of_the_queue(others_seconds_ago: float | None) -> None:
    clock = Clock()
    admission = Admission(size=8, seconds=60, cores=2, clock=clock)
    if others_seconds_ago:
        admission.check(client="somebody else")
        admission.check(client="proxy")
        clock.now += others_seconds_ago
    with contextlib.ExitStack() as held:
        for _ in range(8):
            held.enter_context(admission.admit([0], "proxy"))


def test_a_batch_larger_than_a_share_comes_in_when_its_address_holds_nothing() -> None:
    admission = Admission(size=8, seconds=60, cores=2)
    admission.check(client="somebody else")
    with admission.admit([0] * 8, "batcher"):
        assert admission.held == 8

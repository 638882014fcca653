from app.inference.watch import Watch


def test_a_thread_is_overdue_while_its_piece_takes_too_long_and_counted_once_it_ends() -> None:
    now = [100.0]
    late: list[float] = []
    watch = Watch(30, lambda: late.append(now[0]), lambda: now[0])
    seen: list[int] = []
    with watch.working():
        for seconds in (30, 1):
            now[0] += seconds
            seen.append(watch.overdue)
        assert not late
    assert ([*seen, watch.overdue], late) == ([0, 1, 0], [131.0])


def test_a_piece_in_time_is_not_counted() -> None:
    late: list[None] = []
    with Watch(30, lambda: late.append(None)).working():
        pass
    assert not late

import pytest

from app.graphs import bucket_of, buckets


@pytest.mark.parametrize(("largest", "sizes"), [(1, [1]), (8, [1, 2, 4, 8]), (6, [1, 2, 4, 6]), (9, [1, 2, 4, 8, 9])])
def test_every_batch_has_a_bucket_with_room(largest: int, sizes: list[int]) -> None:
    assert buckets(largest) == sizes
    for count in range(1, largest + 1):
        bucket = bucket_of(count, sizes)
        assert bucket >= count
        assert bucket < 2 * count

import os

import numpy as np
import pytest

from app.fronts.slots import MOST, Layout, Slots, create, layout


def test_both_sides_see_the_same_images_and_answers() -> None:
    shape = Layout(slots=3, height=5, width=7, ranked=2)
    memory = create(shape)
    front, device = Slots(memory, shape), Slots(memory, shape)
    os.close(memory)
    for slot in range(3):
        front.pixels[slot][:] = slot + 1
        device.class_ids[slot] = [slot, 70_000 + slot]
        device.probabilities[slot] = [1 / 3, slot / 7]
    front.left[1] = 1
    for slot in range(3):
        assert device.pixels[slot].shape == (5, 7, 3)
        assert np.all(device.pixels[slot] == slot + 1)
        assert front.class_ids[slot].tolist() == [slot, 70_000 + slot]
        assert front.probabilities[slot].tolist() == [1 / 3, slot / 7]
    assert device.left.tolist() == [0, 1, 0]


def test_the_memory_is_bounded_and_only_taken_by_what_is_used() -> None:
    shape = layout((224, 224), 5, 32, 256)
    assert shape.slots == 96
    memory = create(shape)
    assert shape.size < 96 * 224 * 224 * 3 * 1.03
    slots = Slots(memory, shape)
    assert os.fstat(memory).st_blocks == 0
    slots.pixels[0][:] = 1
    assert os.fstat(memory).st_blocks * 512 < 2 * shape.image_bytes
    with pytest.raises(PermissionError):
        os.ftruncate(memory, 0)
    os.close(memory)


@pytest.mark.parametrize(
    ("sides", "max_batch", "most", "slots"),
    [
        ((224, 224), 8, 256, 64),
        # Never more than the service takes, nor than messages about them fit into a channel.
        ((224, 224), 8, 16, 16),
        ((224, 224), 1024, 4096, MOST),
        # Large images: what keeps the device at work.
        ((2048, 2048), 8, 256, 24),
    ],
)
def test_as_many_slots_as_the_device_needs(sides: tuple[int, int], max_batch: int, most: int, slots: int) -> None:
    assert layout(sides, 5, max_batch, most).slots == slots

"""Random erasing: one box in all frames, other noise in each, and whose the draws are."""

from __future__ import annotations

import math

import pytest
import torch

from umt_ds.kernels.philox import Purpose, normal
from umt_ds.tasks.recognition.box import Box
from umt_ds.tasks.recognition.erasing import box_of, draw_boxes, erase_

KEY = {"seed": 3, "step": 5}


def boxes(part: float, rows: int, *, side: int = 64) -> list[Box | None]:
    return draw_boxes(part, **KEY, slots=torch.arange(rows), height=side, width=side)


def test_boxes_have_the_drawn_part_of_the_area_and_shapes_from_3_to_10_to_10_to_3() -> None:
    found = [box for box in boxes(1.0, 3000) if box is not None]
    assert len(found) == 3000
    area = torch.tensor([box.area / 64**2 for box in found])
    shape = torch.tensor([box.height / box.width for box in found]).log()
    assert 0.02 - 0.005 < area.min() < 0.03
    assert 0.32 < area.max() < 1 / 3 + 0.01
    assert area.mean() == pytest.approx((0.02 + 1 / 3) / 2, abs=0.01)
    assert shape.abs().max() < math.log(10 / 3) + 0.2, "a side is a whole number"
    assert abs(shape.mean()) < 0.05
    assert {box.top for box in found} >= {0, 10, 20, 40}
    assert max(box.bottom for box in found) == max(box.right for box in found) == 64


def test_a_box_never_covers_a_whole_side() -> None:
    """As published, where it is drawn anew."""
    whether, y, x = 0.0, 0.5, 0.5
    too_tall, fits = [1 - 1e-9, 1 - 1e-9], [0.3, 0.5]
    assert box_of(1.0, [whether, y, x, *too_tall, *fits], height=20, width=20) == box_of(
        1.0, [whether, y, x, *fits, *fits], height=20, width=20
    )
    assert box_of(1.0, [whether, y, x, *too_tall, *too_tall], height=20, width=20) is None, "no try fits"


def test_the_part_that_is_asked_for_is_erased() -> None:
    erased = sum(box is not None for box in boxes(0.25, 4000))
    assert erased / 4000 == pytest.approx(0.25, abs=4 * math.sqrt(0.1875 / 4000))
    assert set(boxes(0.0, 100)) == {None}


def test_the_box_is_the_same_in_all_frames_and_the_noise_is_not() -> None:
    clips = torch.full((3, 3, 4, 20, 24), 9.0)
    box = Box(2, 9, 5, 21)
    erase_(clips, [None, box, None], **KEY, slots=torch.arange(3))
    assert (clips[[0, 2]] == 9).all()
    changed = clips[1] != 9  # [3,T,H,W]
    expected = torch.zeros(20, 24, dtype=torch.bool)
    expected[2:9, 5:21] = True
    assert (changed == expected).all()
    inside = box.of(clips[1])
    assert not torch.equal(inside[:, 0], inside[:, 1])
    assert abs(inside.mean()) < 4 / math.sqrt(inside.numel())
    assert inside.std() == pytest.approx(1, abs=0.1)


def test_box_and_noise_belong_to_the_slot_whatever_is_beside_it() -> None:
    slots = torch.arange(12)
    found = draw_boxes(0.7, **KEY, slots=slots, height=20, width=24)
    together = torch.zeros(12, 3, 2, 20, 24)
    erase_(together, found, **KEY, slots=slots)
    for start, stop in ((0, 5), (5, 6), (6, 12)):
        part, own = torch.zeros(stop - start, 3, 2, 20, 24), slots[start:stop]
        some = draw_boxes(0.7, **KEY, slots=own, height=20, width=24)
        erase_(part, some, **KEY, slots=own)
        assert some == found[start:stop]
        assert torch.equal(part, together[start:stop])


def test_normal_numbers_are_normal_and_lanes_only_extend_a_row() -> None:
    slots = torch.arange(200)
    drawn = normal(1, 2, slots, 501, Purpose.ERASING_NOISE).double()
    assert drawn.shape == (200, 501)
    count = drawn.numel()
    assert abs(drawn.mean()) < 4 / math.sqrt(count)
    assert (drawn**2).mean() == pytest.approx(1, abs=4 * math.sqrt(2 / count))
    assert (drawn**4).mean() == pytest.approx(3, abs=0.1)
    neighbours = (drawn[:, :-1] * drawn[:, 1:]).mean()
    assert abs(neighbours) < 4 / math.sqrt(count), "the two of a pair know nothing of each other"
    assert torch.equal(normal(1, 2, slots[7:9], 5, Purpose.ERASING_NOISE).double(), drawn[7:9, :5])

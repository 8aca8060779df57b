"""Which frames are shown, against numbers worked by hand from METHOD.md, "Frames: stage 1"."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umt_ds.data.order.frames import FramePolicy, Sampling, dense, intervals, kinetics_sparse_training, middle, sparse
from umt_ds.errors import DecodeError
from umt_ds.keyed import Stream


def draws_of_sparse(num_frames: int, count: int, times: int = 400) -> list[set[int]]:
    """What each position shows over many draws."""
    shown = [sparse(num_frames, count=count, stream=Stream(0, i)) for i in range(times)]
    return [set(position) for position in zip(*shown, strict=True)]


def test_sparse_takes_one_of_four_in_each_segment_of_32_frames() -> None:
    assert draws_of_sparse(32, 8) == [set(range(4 * i, 4 * i + 4)) for i in range(8)]


def test_sparse_leaves_the_remainder_at_the_end_unused() -> None:
    # 21 frames, 8 segments: 21 // 8 = 2 frames each, frames 16-20 are never drawn
    assert draws_of_sparse(21, 8) == [{2 * i, 2 * i + 1} for i in range(8)]


def test_a_clip_of_five_frames_shows_its_first_frame_eight_times() -> None:
    assert sparse(5, count=8, stream=Stream(0)) == [0] * 8


def test_a_clip_of_eight_frames_shows_each_once() -> None:
    assert sparse(8, count=8, stream=Stream(0)) == list(range(8))


def test_dense_starts_anywhere_its_span_fits() -> None:
    # 40 frames, 8 x 4 = 32: starts 0 … 8, then every fourth
    shown = [dense(40, count=8, stride=4, stream=Stream(0, i)) for i in range(300)]
    assert {frames[0] for frames in shown} == set(range(9))
    assert all(frames == [frames[0] + 4 * i for i in range(8)] for frames in shown)


def published_dense(start: int, num_frames: int, count: int, stride: int) -> list[int]:
    """The authors' loop over 1-based numbers (METHOD.md, "Frames: stage 1"), which stay below the number of frames."""
    offset, frames = start + 1, []
    for _ in range(count):
        frames.append(offset - 1)
        if offset + stride < num_frames:
            offset += stride
    return frames


def test_dense_never_steps_onto_the_last_frame() -> None:
    shown = [dense(300, count=8, stride=1, stream=Stream(0, i)) for i in range(3000)]
    assert [292, 293, 294, 295, 296, 297, 298, 298] in shown
    assert {frames[0] for frames in shown} == set(range(293)), "spans end at 299, where only a start can be"


@pytest.mark.parametrize(("count", "stride"), [(1, 1), (1, 5), (2, 1), (8, 1), (8, 2), (8, 4), (5, 3)])
def test_dense_is_the_published_loop(count: int, stride: int) -> None:
    for num_frames in range(1, 50):
        for key in range(12):
            frames = dense(num_frames, count=count, stride=stride, stream=Stream(2, key))
            assert 0 <= frames[0] <= max(0, num_frames - count * stride)
            assert frames == published_dense(frames[0], num_frames, count, stride)


@pytest.mark.parametrize(
    ("num_frames", "expected"),
    [
        (9, [0, 4, 4, 4, 4, 4, 4, 4]),  # 8 is the last of all, which no step reaches
        (10, [0, 4, 8, 8, 8, 8, 8, 8]),  # the last legal frame repeats
        (1, [0] * 8),
        (32, [0, 4, 8, 12, 16, 20, 24, 28]),
    ],
)
def test_dense_repeats_the_last_legal_frame_of_a_short_clip(num_frames: int, expected: list[int]) -> None:
    assert dense(num_frames, count=8, stride=4, stream=Stream(0)) == expected


@pytest.mark.parametrize(
    ("num_frames", "count", "expected"),
    [
        (300, 4, [37, 112, 187, 262]),  # METHOD.md, "Frames: stage 2"
        (300, 12, [12, 37, 62, 87, 112, 137, 162, 187, 212, 237, 262, 287]),
        (32, 8, [1, 5, 9, 13, 17, 21, 25, 29]),
        (3, 5, [0, 1, 2, 2, 2]),
        (1, 2, [0, 0]),
    ],
)
def test_middle_takes_segment_centres(num_frames: int, count: int, expected: list[int]) -> None:
    assert middle(num_frames, count=count) == expected


@given(
    st.sampled_from(["sparse", "dense", "intervals", "middle", "kinetics_sparse"]),
    st.integers(1, 70),
    st.integers(1, 20),
    st.integers(1, 9),
)
def test_every_policy_gives_legal_ascending_frames(kind: Sampling, num_frames: int, count: int, stride: int) -> None:
    frames = FramePolicy(kind, count, stride).choose(num_frames, Stream(1, num_frames))
    assert len(frames) == count
    assert frames == sorted(frames)
    assert 0 <= frames[0] <= frames[-1] < num_frames


def test_intervals_never_show_the_last_frame_of_an_interval() -> None:
    # METHOD.md, "Frames: stage 2": 32 frames, 4 intervals of 8: 0-6, 8-14, …
    shown = [intervals(32, count=4, stream=Stream(0, i)) for i in range(400)]
    assert [set(position) for position in zip(*shown, strict=True)] == [set(range(8 * i, 8 * i + 7)) for i in range(4)]


def test_intervals_of_one_frame_show_different_ones_in_order() -> None:
    shown = [intervals(6, count=4, stream=Stream(0, i)) for i in range(100)]
    assert all(frames == sorted(set(frames)) for frames in shown)
    assert len({tuple(frames) for frames in shown}) > 5


@pytest.mark.parametrize(("num_frames", "count"), [(32, 8), (32, 16), (300, 8), (21, 8), (9, 2), (7, 8), (1, 4)])
def test_kinetics_sparse_draws_from_the_published_segments(num_frames: int, count: int) -> None:
    """The authors' loop (METHOD.md, "Frames: recognition"): every frame of a segment, both of its ends too."""
    shown = [kinetics_sparse_training(num_frames, count=count, stream=Stream(0, i)) for i in range(800)]
    segment = (num_frames - 1) / count
    for i in range(count):
        first, last = round(i * segment), round((i + 1) * segment)
        assert {frames[i] for frames in shown} == set(range(first, last + 1))


def test_kinetics_sparse_draws_ends_as_often_as_what_lies_between() -> None:
    # 9 frames, 2 segments: 0 … 4 and 4 … 8, each of five frames a fifth of 5000 times, deviation 28
    shown = [kinetics_sparse_training(9, count=2, stream=Stream(0, i)) for i in range(5000)]
    for place, segment in enumerate((range(5), range(4, 9))):
        counts = Counter(frames[place] for frames in shown)
        assert set(counts) == set(segment)
        assert all(abs(count - 1000) < 4 * 28 for count in counts.values())
    # so the border is drawn from both sides, and both at once in one view of 25: 200, deviation 14
    assert abs(sum(frames == [4, 4] for frames in shown) - 200) < 4 * 14


def test_intervals_of_a_clip_that_is_too_short_repeat_its_last_frame() -> None:
    assert intervals(3, count=5, stream=Stream(0)) == [0, 1, 2, 2, 2]
    assert intervals(1, count=1, stream=Stream(0)) == [0]


def test_an_empty_clip_is_a_bad_sample() -> None:
    with pytest.raises(DecodeError, match="no frames"):
        FramePolicy("sparse", 8).choose(0, Stream(0))

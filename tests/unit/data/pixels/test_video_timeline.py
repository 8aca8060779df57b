"""Which frames belong to given seconds, where the rate is constant and where it varies."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from umt_ds.data.pixels.video_timeline import Timeline, constant_rate, timeline
from umt_ds.errors import DecodeError

# 30 frames a second for 2 s, then 5 a second for 2 s
SLOWS_DOWN = [n / 30 for n in range(60)] + [2 + n / 5 for n in range(10)]


def varying(times: list[float], end_s: float) -> Timeline:
    return Timeline(times, end_s, None)


def shown_at(line: Timeline, time_s: float) -> int:
    """A player's view: the last frame that has begun."""
    return max(n for n in range(line.count) if line.seconds[n] <= time_s)


@pytest.mark.parametrize(
    ("times", "stated", "tick_s", "rate"),
    [
        ([n / 25 for n in range(50)], 25, 1 / 12800, 25),
        ([round(n * 1001 / 30) / 1000 for n in range(500)], 30000 / 1001, 1e-3, 30000 / 1001),  # Matroska
        ([n * 1001 // 30 / 1000 for n in range(500)], 30000 / 1001, 1e-5, 30000 / 1001),  # copied from one
        ([n * 0.04 for n in range(50)], 30, 1e-5, 25),  # the stream states another rate
        ([round(n * 100 / 30) / 100 for n in range(60)], 30, 0.01, 30),  # gif
        ([0.0], 25, 1e-3, 25),
        ([0.0, 0.0, 0.0], 0, 1e-3, 0),
        ([n / 25 for n in range(50) if n != 20], 25, 1 / 25, None),  # one frame was lost
        ([0.0, 1.0, 3.0], 1, 1.0, None),
        ([n / 30 + 0.008 * (n % 3 == 1) for n in range(90)], 30, 1 / 600, None),  # a phone
        (SLOWS_DOWN, 17.5, 1e-3, None),
    ],
)
def test_a_rate_is_constant_up_to_rounding(
    times: list[float], stated: float, tick_s: float, rate: float | None
) -> None:
    assert constant_rate(times, stated=stated, tick_s=tick_s) == (rate if rate is None else pytest.approx(rate))


def test_frames_of_a_span_begin_in_it_and_where_none_does_it_is_the_one_shown_then() -> None:
    line = varying(SLOWS_DOWN, 4.0)
    assert line.within((2.0, 3.0)) == range(60, 65)
    assert line.within((1.95, 2.05)) == range(59, 61)
    assert line.within((2.5, 2.55)) == range(62, 63), "the frame of 2.4 s is shown then"
    assert line.within((3.0, 9.0)) == range(65, 70)
    assert line.within() == range(70)


def test_a_constant_rate_gives_the_same_frames_without_rounding() -> None:
    line = timeline([round(n * 1001 / 30) / 1000 for n in range(900)], fps=30000 / 1001, tick_s=1e-3)
    assert line.within((10, 20)) == range(300, 600)
    assert line.within((0.1, 0.2)) == range(3, 6)
    tenths = timeline([n / 10 for n in range(300)], fps=10, tick_s=1e-3)
    assert [tenths.within((n / 10, n / 10 + 1)).start for n in range(250)] == list(range(250))


@pytest.mark.parametrize("fps", [25.0, 30000 / 1001, 30.0, 14.985, 60000 / 1001])
def test_the_first_seconds_are_so_many_frames_as_a_reader_that_counts_them_takes(fps: float) -> None:
    for num_frames in (1, int(10 * fps), int(10 * fps) + 1, 700):
        line = timeline([round(n / fps, 3) for n in range(num_frames)], fps=fps, tick_s=1e-3)
        published = int(10 * fps) if num_frames / fps > 10 else num_frames
        span = line.first(10.0)
        assert (span is None) == (published == num_frames)
        assert line.within(span) == range(published)
        assert line.first(1e308) is None
        assert line.within(line.first(1e-9)) == range(1)


def test_the_first_seconds_of_a_varying_rate_are_counted_by_the_mean_rate() -> None:
    times = SLOWS_DOWN  # 70 frames in 4 s: 17.5 a second
    for stated in (17.5, 0.0, 1000.0):  # as they are; unknown; nonsense
        line = timeline(times, fps=stated, tick_s=1e-3, last_s=0.2)
        assert line.within(line.first(2.0)) == range(35)
        assert line.first(4.0) is None


def test_seconds_of_which_nothing_is_shown_are_refused() -> None:
    line = varying([2.0, 2.1, 2.2], 2.3)
    for span, reason in [((0, 2), "first frame at 2.0 s and none at 0-2 s"), ((2.3, 5), "no frame at 2.3 s")]:
        with pytest.raises(DecodeError, match=reason):
            line.within(span)
    with pytest.raises(DecodeError, match="nothing about the times"):
        Timeline([0.0, 0.0], 0.0, 0).within((0, 1))


def test_frames_at_the_middles_of_equal_parts_of_time() -> None:
    line = varying(SLOWS_DOWN, 4.0)
    assert line.at_middles(4, None) == [15, 45, 62, 67]  # at 0.5, 1.5, 2.5 and 3.5 s
    assert line.at_middles(2, (2, 4)) == [62, 67]
    assert line.at_middles(100, (3, 4)) == [65, 66, 67, 68, 69], "each at most once"


@given(
    st.lists(st.integers(0, 40), min_size=2, max_size=30),
    st.integers(1, 40),
    st.integers(0, 60),
    st.integers(1, 60),
)
def test_middles_are_what_a_player_shows_then(gaps: list[int], parts: int, start: int, length: int) -> None:
    times = [float(time) for time in np.cumsum([0, *gaps])]
    line = varying(times, times[-1] + 3)
    span = (float(start), float(start + length))
    if start >= line.end_s:
        return
    here = line.within(span)
    end = min(span[1], line.end_s)
    step = (end - start) / parts
    expected = {max(here.start, shown_at(line, start + (part + 0.5) * step)) for part in range(parts)}
    # a middle that falls on the very moment at which the picture changes may show either
    doubtful = {shown_at(line, start + (part + 0.5) * step - 1e-9) for part in range(parts)}
    found = line.at_middles(parts, span)
    assert found == sorted(set(found))
    assert set(found) <= expected | doubtful
    assert expected - doubtful <= set(found) | doubtful


def test_times_that_are_missing_or_run_backwards_become_those_of_the_stated_rate() -> None:
    for times in ([None, None, None], [0.0, 2.0, 1.0], [0.0, None, 1.0], [4.0, 4.0, 4.0]):
        line = timeline(times, fps=10, tick_s=1e-3)
        assert line.seconds == pytest.approx([0.0, 0.1, 0.2])
        assert (line.end_s, line.rate) == (pytest.approx(0.3), 10)


def test_times_that_begin_anew_follow_those_of_the_recording_before() -> None:
    line = timeline([8.0, 9.0, 10.0, 11.0, 12.0, 3.0, 5.0, 7.0, 9.0, 11.0], fps=1, tick_s=1e-3, last_s=2)
    assert line.seconds == pytest.approx([0, 1, 2, 3, 4, 5, 7, 9, 11, 13])
    assert (line.end_s, line.rate) == (15, None)
    far = timeline([0.0, 1.0, 2.0, 3.0, 4.0, 500.0], fps=1, tick_s=1e-3, longest_s=10)
    assert far.seconds == pytest.approx([0, 1, 2, 3, 4, 5])


def test_two_frames_of_one_time_do_not_discard_the_times_of_the_others() -> None:
    line = timeline([5.0, 6.0, 6.0, 9.0], fps=1, tick_s=1e-3, last_s=1)
    assert line.seconds == [0.0, 1.0, 1.0, 4.0]
    assert line.within((0.5, 2)) == range(1, 3)


def test_a_still_that_is_held_at_the_end_is_part_of_the_time() -> None:
    line = timeline([n / 10 for n in range(11)], fps=10, tick_s=1e-3, last_s=9)
    assert (line.rate, line.end_s) == (None, 10.0)
    assert line.at_middles(2, None) == [10]
    assert timeline([n / 10 for n in range(11)], fps=10, tick_s=1e-3, last_s=0.2).rate == 10


def test_the_rate_is_the_stated_one_unless_the_frames_show_another() -> None:
    line = timeline([n / 25 for n in range(50)], fps=25, tick_s=1e-3)
    assert line.mean_rate(Fraction(30000, 1250), at_most=None) == 24
    assert line.mean_rate(Fraction(90), at_most=None) == 25
    assert line.mean_rate(None, at_most=5) == 5

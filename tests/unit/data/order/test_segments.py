"""A mixture that changes at declared steps, against a walk through all draws one after another."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umt_ds.batch import Media
from umt_ds.data.order.media import MediaSchedule, Mode
from umt_ds.data.order.mixture import Mixture
from umt_ds.data.order.segments import MixtureSchedule, Segment, lengths, segments_of, shares_over
from umt_ds.errors import ConfigError

STEP_DRAWS, PACK = 12, 6


@dataclass(frozen=True)
class Case:
    seed: int
    media: tuple[Media, ...]
    segments: tuple[Segment, ...]
    mode: Mode

    def schedule(self, upto: int | None = None) -> MixtureSchedule:
        """With the first `upto` segments alone."""
        return MixtureSchedule(
            self.segments[:upto], self.media, seed=self.seed, step_draws=STEP_DRAWS, mode=self.mode, pack=PACK
        )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Two to four sources; any of them may be absent from a segment, a medium too."""
    media: tuple[Media, ...] = tuple(draw(st.lists(st.sampled_from(("image", "video")), min_size=2, max_size=4)))
    weight = st.sampled_from((0.0, 1.0, 1.5, 2.0))
    steps = [0, *sorted(draw(st.sets(st.integers(1, 40), max_size=4)))]
    weights = st.tuples(*[weight] * len(media)).filter(any)
    return Case(
        draw(st.integers(0, 99)),
        media,
        tuple(Segment(step, draw(weights)) for step in steps),
        draw(st.sampled_from(("alternate", "packed"))),
    )


def walk(case: Case, steps: int = 50) -> list[tuple[int, int]]:
    schedule = case.schedule()
    return [schedule(draw) for draw in range(steps * STEP_DRAWS)]


@given(case=cases())
@settings(max_examples=60, deadline=None)
def test_every_source_goes_on_where_it_stood_without_gap_or_repeat(case: Case) -> None:
    so_far: Counter[int] = Counter()
    for source, k in walk(case):
        assert k == so_far[source]
        so_far[source] += 1


@given(case=cases())
@settings(max_examples=40, deadline=None)
def test_a_later_change_moves_nothing_before_it(case: Case) -> None:
    """With one change fewer, the draws before that change are the same; so the first segment is the run without any."""
    all_draws = walk(case)
    plain = MediaSchedule(
        case.media, case.segments[0].weights, seed=case.seed, step_draws=STEP_DRAWS, mode=case.mode, pack=PACK
    )
    ends = [segment.step * STEP_DRAWS for segment in case.segments[1:]]
    for number, end in enumerate(ends, start=1):
        fewer = case.schedule(number)
        assert [fewer(draw) for draw in range(end)] == all_draws[:end]
    first = ends[0] if ends else len(all_draws)
    assert [plain(draw) for draw in range(first)] == all_draws[:first]


@given(case=cases(), asked=st.lists(st.integers(0, 50 * STEP_DRAWS - 1), min_size=1, max_size=20))
@settings(max_examples=40, deadline=None)
def test_draws_and_counts_are_functions_of_the_draw_whatever_was_asked_before(case: Case, asked: list[int]) -> None:
    all_draws, fresh = walk(case), case.schedule()
    for draw in asked:
        assert fresh(draw) == all_draws[draw]
        counted = Counter(source for source, _ in all_draws[:draw])
        assert fresh.before(draw) == [counted[source] for source in range(len(case.media))]


@given(case=cases())
@settings(max_examples=40, deadline=None)
def test_what_weighs_nothing_is_not_drawn_and_steps_and_groups_keep_their_media(case: Case) -> None:
    schedule = case.schedule()
    for segment, length in zip(case.segments, lengths(case.segments, steps=50), strict=True):
        weights, media = segment.weights, case.media
        for step in range(segment.step, segment.step + length):
            draws = range(step * STEP_DRAWS, (step + 1) * STEP_DRAWS)
            assert all(weights[schedule(draw)[0]] for draw in draws)
            assert all(media[schedule(draw)[0]] == schedule.medium(draw) for draw in draws)
            shown = [schedule.medium(draw) for draw in draws]
            if case.mode == "alternate":
                assert len(set(shown)) == 1
            else:
                assert Counter(shown[:PACK]) == Counter(shown[PACK:])


def test_a_segment_has_the_shares_that_it_declares() -> None:
    """Whole blocks of 4,096 draws: 3 to 1 in the first segment, 1 to 3 in the second."""
    segments = segments_of({"a": 3.0, "b": 1.0}, {4096: {"a": 1.0, "b": 3.0}})
    schedule = MixtureSchedule(segments, ["video", "video"], seed=2, step_draws=2, mode="alternate", pack=1)
    assert schedule.before(8192) == [6144, 2048]
    assert schedule.before(16384) == [8192, 8192]


def test_a_source_that_is_not_named_keeps_its_weight() -> None:
    segments = segments_of({"a": 3.0, "b": 1.0, "c": 0.0}, {20: {"a": 0.0}, 9: {"c": 2.0}})
    assert segments == (Segment(0, (3.0, 1.0, 0.0)), Segment(9, (3.0, 1.0, 2.0)), Segment(20, (0.0, 1.0, 2.0)))


def test_the_share_of_a_medium_is_that_of_all_steps() -> None:
    """30 steps of half and half, then 70 of clips alone: 15 % images."""
    segments = segments_of({"a": 1.0, "b": 1.0}, {30: {"a": 0.0}, 500: {"b": 0.0, "a": 1.0}})
    assert lengths(segments, steps=100) == [30, 70, 0]
    found = shares_over(segments, ["image", "video"], steps=100, mode="alternate", pack=1)
    assert found == pytest.approx({"image": 0.15, "video": 0.85})


def test_a_share_too_small_for_a_group_is_refused_at_its_segment() -> None:
    segments = segments_of({"a": 1.0, "b": 1.0}, {5: {"a": 100.0}})
    with pytest.raises(ConfigError, match=r"data\.segments\.5: the weights leave video without a single draw in 6"):
        MixtureSchedule(segments, ["image", "video"], seed=1, step_draws=12, mode="packed", pack=6)


@given(weights=st.lists(st.floats(0.1, 5), min_size=1, max_size=4), seed=st.integers(0, 50), draw=st.integers(0, 300))
@settings(max_examples=40, deadline=None)
def test_a_mixture_counts_what_came_before_a_draw(weights: list[float], seed: int, draw: int) -> None:
    mixture = Mixture(weights, seed=seed, block=64)
    counted = Counter(mixture(one)[0] for one in range(draw))
    assert mixture.before(draw) == [counted[source] for source in range(len(weights))]

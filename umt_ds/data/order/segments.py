"""A mixture that changes at declared steps: which source a draw comes from, still a pure function of (seed, draw).

A segment is a stretch of steps with weights of its own. Each has a `MediaSchedule` of its own, which counts draws from
the start of the segment and is shuffled by a key that holds its first step. So what comes before a change is what the
run without the change draws, bit for bit, and a later change moves nothing before it.

A source goes on where it stood: its k-th draw is the k-th of the whole run. So no sample is shown again before its pass
is over, and none is left out. How often a source was drawn before a segment is computed (`before`), not remembered.

Three sources of weights 2, 1, 0, and from step 3 on 0, 1, 1; 4 draws a step, so that the second segment begins with
draw 12. If the second source had 4 draws until there, its next one, wherever it comes, is its draw number 4.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from umt_ds.batch import Media
from umt_ds.data.order.media import MediaSchedule, Mode, shares_of
from umt_ds.errors import ConfigError
from umt_ds.keyed import key_of


@dataclass(frozen=True)
class Segment:
    """The weights of the sources from a step on. The first segment of a run has step 0."""

    step: int
    weights: tuple[float, ...]

    def told(self, names: Sequence[str]) -> str:
        """The shares of the sources in percent, those of weight 0 too.

        >>> Segment(0, (3.0, 1.0, 0.0)).told(["webvid", "cc3m", "coco"])
        'webvid 75 %, cc3m 25 %, coco 0 %'
        """
        total = sum(self.weights)
        return ", ".join(
            f"{name} {100 * weight / total:.3g} %" for name, weight in zip(names, self.weights, strict=True)
        )


class MixtureSchedule:
    """`schedule(draw)` → (source, k): draw number `draw` is the k-th draw of source `source` in the whole run.

    segments: ascending by step, the first at step 0. media: of each source. The others as of `MediaSchedule`.
    Raises ConfigError for weights that leave a source with a weight, or a medium, without a draw.
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        media: Sequence[Media],
        *,
        seed: int,
        step_draws: int,
        mode: Mode,
        pack: int,
        names: Sequence[str] = (),
    ) -> None:
        steps = [segment.step for segment in segments]
        assert steps[:1] == [0], f"segments at steps {steps}"
        assert steps == sorted(set(steps)), f"segments at steps {steps}"
        self.segments = tuple(segments)
        self._first_draws = [step * step_draws for step in steps]
        self._schedules: list[MediaSchedule] = []
        self._bases: list[list[int]] = [[0] * len(media)]  # draws of each source before each segment
        for number, segment in enumerate(segments):
            try:
                own_seed = key_of(seed, "segment", segment.step) if number else seed
                schedule = MediaSchedule(
                    media, segment.weights, seed=own_seed, step_draws=step_draws, mode=mode, pack=pack, names=names
                )
            except ConfigError as error:
                if not number:
                    raise
                raise ConfigError(f"data.segments.{segment.step}: {error.what}", hint=error.hint) from error
            self._schedules.append(schedule)
            if number + 1 < len(segments):
                self._bases.append(self._added(number, self._first_draws[number + 1]))
        shown = {medium for schedule in self._schedules for medium in schedule.media}
        self.media: tuple[Media, ...] = tuple(medium for medium in ("image", "video") if medium in shown)

    def __call__(self, draw: int) -> tuple[int, int]:
        number = self._segment_of(draw)
        source, k = self._schedules[number](draw - self._first_draws[number])
        return source, self._bases[number][source] + k

    def medium(self, draw: int) -> Media:
        """The medium that a draw shows."""
        number = self._segment_of(draw)
        return self._schedules[number].medium(draw - self._first_draws[number])

    def before(self, draw: int) -> list[int]:
        """How many draws each source had before draw `draw`, since step 0."""
        return self._added(self._segment_of(draw), draw)

    def _segment_of(self, draw: int) -> int:
        return bisect_right(self._first_draws, draw) - 1

    def _added(self, number: int, draw: int) -> list[int]:
        """Draws of each source before draw `draw`, which lies in segment `number` or ends it."""
        own = self._schedules[number].before(draw - self._first_draws[number])
        return [base + count for base, count in zip(self._bases[number], own, strict=True)]


def shares_over(
    segments: Sequence[Segment], media: Sequence[Media], *, steps: int, mode: Mode, pack: int
) -> dict[Media, float]:
    """The part of all draws that each medium has in a run of so many steps."""
    shares: dict[Media, float] = {}
    for segment, length in zip(segments, lengths(segments, steps=steps), strict=True):
        for medium, share in segment_shares(segment, media, mode=mode, pack=pack).items():
            shares[medium] = shares.get(medium, 0.0) + share * length / steps
    return {medium: share for medium, share in shares.items() if share}


def segment_shares(segment: Segment, media: Sequence[Media], *, mode: Mode, pack: int) -> dict[Media, float]:
    """The part of the draws of a segment that each medium has."""
    drawn = [(own, weight) for own, weight in zip(media, segment.weights, strict=True) if weight]
    return shares_of([own for own, _ in drawn], [weight for _, weight in drawn], mode=mode, pack=pack)


def lengths(segments: Sequence[Segment], *, steps: int) -> list[int]:
    """The steps of each segment in a run of so many; 0 of one that begins after its end."""
    ends = [*(segment.step for segment in segments[1:]), steps]
    return [max(0, min(end, steps) - segment.step) for segment, end in zip(segments, ends, strict=True)]


def segments_of(weights: Mapping[str, float], changes: Mapping[int, Mapping[str, float]]) -> tuple[Segment, ...]:
    """The segments of a run: `weights` of each source from step 0 on, and by step those that change there; a source
    that a change does not name keeps its weight."""
    assert all(change.keys() <= weights.keys() for change in changes.values()), "names of sources"
    segments, now = [Segment(0, tuple(weights.values()))], dict(weights)
    for step in sorted(changes):
        now |= changes[step]
        segments.append(Segment(step, tuple(now.values())))
    return tuple(segments)

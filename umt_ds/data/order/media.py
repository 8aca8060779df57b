"""Which source a draw comes from where some hold images and others clips: a pure function of (seed, draw).

With one medium the sources are mixed directly (`Mixture`). With two there are two modes:

- `alternate`, as published (METHOD.md, "Corpora and media"): all draws of a step show one medium. Step 0 may show
  images, steps 1 and 2 clips. A `Mixture` of the two media chooses for each step, so shares are exact in each block.
- `packed`: every micro-batch has the same composition. With `pack` 16 and weights of 2.88 and 2.49, each 16 draws are 9
  images and 7 clips, in an order of their own.

Each medium then has a `Mixture` of its own sources, and counts its own draws for it: 0, 1, 2, … without gaps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from umt_ds.batch import Media
from umt_ds.data.order.mixture import Mixture, block_counts
from umt_ds.errors import ConfigError
from umt_ds.keyed import key_of

Mode = Literal["alternate", "packed"]


class MediaSchedule:
    """`schedule(draw)` → (source, k): draw number `draw` is the k-th draw of source `source`.

    media, weights: of each source; one of weight 0 is never drawn. step_draws: draws of one optimiser step
    (`batch.global`). pack: in `packed`, the draws that hold whole shares. Raises ConfigError for shares that leave a
    medium without a draw.
    """

    def __init__(
        self,
        media: Sequence[Media],
        weights: Sequence[float],
        *,
        seed: int,
        step_draws: int,
        mode: Mode,
        pack: int,
        names: Sequence[str] = (),
    ) -> None:
        self._step_draws, self._mode = step_draws, mode
        drawn = [i for i, weight in enumerate(weights) if weight != 0]
        shown = {media[i] for i in drawn}
        self.media: tuple[Media, ...] = tuple(medium for medium in ("image", "video") if medium in shown)
        # the sources of each medium, by their index among all
        self._members = [[i for i in drawn if media[i] == medium] for medium in self.media]
        self._num_sources = len(weights)
        alone = len(self.media) == 1
        self._sources = [
            Mixture(
                [weights[i] for i in members],
                seed=seed if alone else key_of(seed, "media", medium),
                names=[names[i] for i in members] if names else (),
            )
            for medium, members in zip(self.media, self._members, strict=True)
        ]
        self._turns: Mixture | None = None  # which medium is next: of each step, or of each draw
        if not alone:
            shares = [sum(weights[i] for i in members) for members in self._members]
            of_media = key_of(seed, "media")
            if mode == "packed":  # a block is a group of `pack` draws, and may not grow as other blocks do
                self._turns = Mixture(shares, seed=of_media, block=pack, most=pack, names=self.media)
            else:
                self._turns = Mixture(shares, seed=of_media, names=self.media)

    def __call__(self, draw: int) -> tuple[int, int]:
        medium, number = self._medium_of(draw)
        member, k = self._sources[medium](number)
        return self._members[medium][member], k

    def medium(self, draw: int) -> Media:
        """The medium that a draw shows."""
        return self.media[self._medium_of(draw)[0]]

    def before(self, draw: int) -> list[int]:
        """How many draws each source had before draw `draw`."""
        counts = [0] * self._num_sources
        of_media = zip(self._members, self._sources, self._media_before(draw), strict=True)
        for members, mixture, number in of_media:
            for source, own in zip(members, mixture.before(number), strict=True):
                counts[source] = own
        return counts

    def _media_before(self, draw: int) -> list[int]:
        """How many draws each medium had before draw `draw`."""
        if self._turns is None:
            return [draw]
        if self._mode == "packed":
            return self._turns.before(draw)
        step, offset = divmod(draw, self._step_draws)
        counts = [steps * self._step_draws for steps in self._turns.before(step)]
        counts[self._turns(step)[0]] += offset
        return counts

    def _medium_of(self, draw: int) -> tuple[int, int]:
        """The medium of a draw, and how many draws that medium had before."""
        if self._turns is None:
            return 0, draw
        if self._mode == "packed":
            return self._turns(draw)
        step, offset = divmod(draw, self._step_draws)
        medium, earlier_steps = self._turns(step)
        return medium, earlier_steps * self._step_draws + offset


def check_pack(micro: int, pack: int) -> None:
    """Raises ConfigError where a micro-batch does not hold whole groups."""
    if micro % pack:
        near = max(pack, round(micro / pack) * pack)
        raise ConfigError(
            f"batch.media=packed: batch.micro={micro} is not a multiple of batch.pack={pack}, the draws that hold "
            "whole shares of images and clips",
            hint=f"batch.micro={near}, or a smaller batch.pack",
        )


def shares_of(media: Sequence[Media], weights: Sequence[float], *, mode: Mode, pack: int) -> dict[Media, float]:
    """The part of all draws that each medium has, as `MediaSchedule` deals them (without its tables)."""
    present: list[Media] = [medium for medium in ("image", "video") if medium in media]
    if len(present) == 1:
        return {present[0]: 1.0}
    sums = [sum(w for own, w in zip(media, weights, strict=True) if own == medium) for medium in present]
    counts = block_counts(sums, pack, most=pack, names=present) if mode == "packed" else sums
    return {medium: count / sum(counts) for medium, count in zip(present, counts, strict=True)}

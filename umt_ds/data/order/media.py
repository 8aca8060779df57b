"""Which source a draw comes from where some hold images and others clips: a pure function of (seed, draw).

One medium only: a `Mixture` of all sources. Two: either each *step* of G draws shows one of them, drawn as sources are,
in blocks with exact shares (`alternate`, as published: SPEC 7.6), or every group of `pack` draws holds whole shares of
both (`packed`), so that all micro-batches have one composition. Each medium counts its own draws.
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
    """`programme(draw)` → (source, k): draw number `draw` is the k-th draw of source `source`.

    media, weights: of each source. step_draws: G. Raises ConfigError for shares that leave a medium without a draw.
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
        self.media: tuple[Media, ...] = tuple(medium for medium in ("image", "video") if medium in media)
        self._places = [[i for i, own in enumerate(media) if own == medium] for medium in self.media]
        alone = len(self.media) == 1
        self._sources = [
            Mixture(
                [weights[i] for i in places],
                seed=seed if alone else key_of(seed, "media", medium),
                names=[names[i] for i in places] if names else (),
            )
            for medium, places in zip(self.media, self._places, strict=True)
        ]
        self._turns: Mixture | None = None
        if not alone:
            shares = [sum(weights[i] for i in places) for places in self._places]
            of_media = key_of(seed, "media")
            if mode == "packed":  # every group of `pack` draws holds both, so no block can be longer
                self._turns = Mixture(shares, seed=of_media, block=pack, most=pack, names=self.media)
            else:
                self._turns = Mixture(shares, seed=of_media, names=self.media)

    def __call__(self, draw: int) -> tuple[int, int]:
        medium, number = self._turn(draw)
        place, k = self._sources[medium](number)
        return self._places[medium][place], k

    def medium(self, draw: int) -> Media:
        """What a draw shows."""
        return self.media[self._turn(draw)[0]]

    def _turn(self, draw: int) -> tuple[int, int]:
        """The medium of a draw, and the number of that draw among those of the medium."""
        if self._turns is None:
            return 0, draw
        if self._mode == "packed":
            return self._turns(draw)
        step, offset = divmod(draw, self._step_draws)
        medium, kth = self._turns(step)
        return medium, kth * self._step_draws + offset


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

"""A set to which clips are added: what a listing has that the plan has not.

Finished shards stay as they are, so every clip of the plan must still be in the listing, and say what it said.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from data_prep.clip import Clip, Listing
from umt_ds.errors import ConfigError, shown

_ANOTHER = "or choose another folder (or delete this one)"


@dataclass(frozen=True)
class Growth:
    """How a listing differs from the plan, in numbers."""

    new: int  # clips
    there: int
    left_out: tuple[int, int]  # before decoding: then and now

    @property
    def is_one(self) -> bool:
        """Whether anything differs."""
        return self.new > 0 or self.left_out[0] != self.left_out[1]

    def text(self) -> str:
        """One line."""
        clips = f"{_clips(self.new)} new, {self.there:,} are there" if self.new else f"no clip is new: {self.there:,}"
        then, now = self.left_out
        return clips if then == now else f"{clips}; entries left out before decoding: {then:,} → {now:,}"


def new_clips(planned: Iterable[Clip], listing: Listing, out: Path) -> tuple[Clip, ...]:
    """The clips of a listing that are not `planned` in `out`, in their order.

    Raises ConfigError where a planned clip is not in the listing, or is another one there.
    """
    now = {clip.key: clip for clip in listing.clips}
    gone: list[Clip] = []
    changed: list[tuple[Clip, Clip]] = []
    for clip in planned:
        found = now.pop(clip.key, None)
        if found is None:
            gone.append(clip)
        elif found != clip:
            changed.append((clip, found))
    if gone:
        raise ConfigError(
            f"{_clips(len(gone))} planned in {out} and not in the list any more, such as '{shown(gone[0].key, 100)}'",
            hint="clips can be added to a set, and none taken away: restore them (or the earlier --limit), "
            f"{_ANOTHER}; `umt-data filter` makes a set without some",
        )
    if changed:
        raise ConfigError(
            f"{_clips(len(changed))} planned in {out} with another caption, label or file; {_difference(*changed[0])}",
            hint=f"what stands in shards stays: restore the list, {_ANOTHER}; `umt-data items` says something else of "
            "the same frames",
        )
    return tuple(now.values())


def _clips(count: int) -> str:
    return "1 clip is" if count == 1 else f"{count:,} clips are"


def _difference(then: Clip, now: Clip) -> str:
    """How a clip has changed, in its first field that has."""
    name = next(one.name for one in fields(Clip) if getattr(then, one.name) != getattr(now, one.name))
    old, new = (shown(repr(getattr(clip, name)), 100) for clip in (then, now))
    return f"of '{shown(then.key, 100)}' {name} {old} → {new}"

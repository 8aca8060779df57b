"""What a search found.

similarity    the product of the query's vector and that of the clip or caption
match         how sure the fusion encoder is that text and clip belong together; of those that were re-ranked
"""

from __future__ import annotations

from dataclasses import dataclass

from umt_ds.errors import shown


@dataclass(frozen=True)
class Hit:
    """A row of an index that was found; what the index does not say is None."""

    rank: int  # from 1
    similarity: float
    key: str
    set: str | None
    item: int | None
    file: str | None = None
    start_s: float | None = None
    end_s: float | None = None
    caption: str | None = None
    match: float | None = None

    @property
    def seconds(self) -> str:
        """From when to when, as players show it; empty where the index does not say."""
        return "" if self.start_s is None or self.end_s is None else f"{clock(self.start_s)}-{clock(self.end_s)}"


@dataclass(frozen=True)
class Answer:
    """query: as it was asked. hits: the best first."""

    query: str
    hits: tuple[Hit, ...]


def clock(seconds: float) -> str:
    """As players show it.

    >>> clock(65.25), clock(3725.4)
    ('1:05.2', '1:02:05.4')
    """
    hours, rest = divmod(round(seconds, 1), 3600)
    minutes, left = divmod(rest, 60)
    return f"{int(hours)}:{int(minutes):02d}:{left:04.1f}" if hours else f"{int(minutes)}:{left:04.1f}"


def told(hit: Hit) -> str:
    """Key, and seconds or caption, in a line for a person."""
    more = shown(hit.caption, 80) if hit.caption is not None else hit.seconds
    return f"{shown(hit.key, 60)} {more}".strip()

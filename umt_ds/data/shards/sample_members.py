"""The files of one sample, each made when it is asked for: a video of 15 minutes has 27,000. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import compress
from typing import overload

import numpy as np
from numpy.typing import NDArray

from umt_ds.data.shards.records import Member
from umt_ds.data.shards.sample_record import is_of_record
from umt_ds.data.shards.suffixes import Media, pixels_of

Columns = tuple[NDArray[np.uint16], NDArray[np.int64], NDArray[np.int64], NDArray[np.uint32]]


class SampleMembers(Sequence[Member]):
    """Files of a sample: m of them in the order of the tar, or those at n `places` among them.

    columns: [m] each, of a page of an index: the number of the suffix in `suffixes`, offset, size and CRC-32.
    """

    def __init__(
        self, suffixes: Sequence[str], columns: Columns, places: Sequence[int] | NDArray[np.int32] | None = None
    ) -> None:
        self._suffixes, self._columns, self._places = suffixes, columns, places

    def __len__(self) -> int:
        return len(self._columns[0]) if self._places is None else len(self._places)

    @overload
    def __getitem__(self, place: int) -> Member: ...
    @overload
    def __getitem__(self, place: slice) -> list[Member]: ...
    def __getitem__(self, place: int | slice) -> Member | list[Member]:
        where = place if self._places is None else self._places[place]
        if isinstance(place, slice):
            numbers, *rest = (column[where].tolist() for column in self._columns)
            names = (self._suffixes[number] for number in numbers)
            return [Member(*row) for row in zip(names, *rest, strict=True)]
        number, offset, size, crc = (column[where].item() for column in self._columns)
        return Member(self._suffixes[number], offset, size, crc)

    def __iter__(self) -> Iterator[Member]:
        return iter(self[:])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self[:] == list(other)

    __hash__ = None  # type: ignore[assignment]  # as a list

    @property
    def suffixes(self) -> tuple[str, ...]:
        numbers = self._columns[0] if self._places is None else self._columns[0][self._places]
        return tuple([self._suffixes[number] for number in numbers.tolist()])

    @cached_property
    def pixels(self) -> tuple[Media, SampleMembers]:
        """What kind of clip these files are, and those that hold its pixels: frames by their number."""
        media, places = pixels_of(self.suffixes)
        return media, self._at(places)

    @cached_property
    def of_record(self) -> list[Member]:
        """Those that say something of the sample."""
        return self._at(list(compress(range(len(self)), map(is_of_record, self.suffixes))))[:]

    def _at(self, places: Sequence[int]) -> SampleMembers:
        assert self._places is None, "the choice of a choice is never asked for"
        return SampleMembers(self._suffixes, self._columns, np.array(places, np.int32))

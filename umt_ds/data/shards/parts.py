"""The parts of a block that are known: what has been fetched of it so far. Pure.

    a block of 100 bytes, of which [10, 30) and [60, 80) are known

        missing(20, 70)  → [(30, 60)]          put(30, 30 bytes) → [10, 80) is known
        read(12, 20)     → 8 bytes

In the cache on disk: `umtP`, the number of parts, first byte and length of each, then their bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

_MAGIC = b"umtP"


@dataclass(frozen=True)
class Parts:
    """(first byte, bytes) of each part; sorted, with unknown bytes between any two."""

    known: tuple[tuple[int, bytes], ...] = ()

    def missing(self, start: int, end: int) -> list[tuple[int, int]]:
        """What of [start, end) is unknown, as (start, end)."""
        gaps: list[tuple[int, int]] = []
        for first, data in self.known:
            if first < end and first + len(data) > start:
                if first > start:
                    gaps.append((start, first))
                start = first + len(data)
        return [*gaps, (start, end)] if start < end else gaps

    def read(self, start: int, end: int) -> bytes:
        """The bytes [start, end), all of which are known."""
        for first, data in self.known:
            if first <= start and end <= first + len(data):
                return data[start - first : end - first]
        assert start >= end, "some of it is missing"
        return b""

    def put(self, parts: Iterable[tuple[int, bytes]]) -> Parts:
        """With these (first byte, bytes) as well; what was known stays as it is."""
        more = self
        for first, data in parts:
            gaps = more.missing(first, first + len(data))
            more = more._with([(start, data[start - first : end - first]) for start, end in gaps])
        return more

    def _with(self, new: list[tuple[int, bytes]]) -> Parts:
        """Joined where one ends and the next begins."""
        runs: list[tuple[int, list[bytes]]] = []
        end = -1
        for first, data in sorted([*self.known, *new]):
            if first == end:
                runs[-1][1].append(data)
            else:
                runs.append((first, [data]))
            end = first + len(data)
        return Parts(tuple((first, b"".join(pieces)) for first, pieces in runs))

    def packed(self) -> bytes:
        """As the cache keeps them."""
        table = [number for first, data in self.known for number in (first, len(data))]
        header = _MAGIC + struct.pack(f"<{1 + len(table)}I", len(self.known), *table)
        return b"".join([header, *(data for _, data in self.known)])

    @classmethod
    def unpacked(cls, packed: bytes, *, size: int) -> Parts | None:
        """What the cache has of a block of `size` bytes; None where that is damaged, or was kept by a version that kept
        whole blocks. Whether the bytes are the right ones, the checksums of clips say."""
        head = len(_MAGIC) + 4
        if packed[:4] != _MAGIC or len(packed) < head:
            return None
        (count,) = struct.unpack_from("<I", packed, 4)
        at = head + 8 * count
        if len(packed) < at:
            return None
        table = struct.unpack_from(f"<{2 * count}I", packed, head)
        known: list[tuple[int, bytes]] = []
        end = -1
        for first, length in zip(table[::2], table[1::2], strict=True):
            if first <= end or not length or first + length > size or at + length > len(packed):
                return None
            known.append((first, packed[at : at + length]))
            at, end = at + length, first + length
        return cls(tuple(known)) if at == len(packed) else None

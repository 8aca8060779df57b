"""A set as a run reads it: its items, over shards of its own or of other sets.

What is wrong with a set (a missing shard, a table that does not fit, a disk that does not answer) stops the run with a
DataError. What is wrong with one sample (its bytes do not match their CRC) is a DecodeError, which costs that sample
only: see `faults.py`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from umt_ds.data.shards.block_cache import BlockCache
from umt_ds.data.shards.frame_set import FrameSet
from umt_ds.data.shards.items import ITEMS, AllSamples, ArrowItems, Item, ItemTable, JoinedItems, SelectedItems
from umt_ds.data.shards.manifest import MANIFEST, Manifest, Part, load_manifest
from umt_ds.data.shards.node_index import set_file
from umt_ds.data.shards.records import Member, SampleRef
from umt_ds.data.shards.remote import Traffic
from umt_ds.data.shards.sample_record import NO_QUESTION, Question
from umt_ds.data.shards.storage import kind_of
from umt_ds.errors import DataError

_OpenFrames = Callable[[Path, Manifest], FrameSet]

_MOST_LEVELS = 20  # tables over tables: more is a circle


class ShardSource:
    """A set as numbered items: counts, keys, members, verified bytes, and what is asked of them.

    Opening it reads manifests and maps indexes; see `FrameSet` for `max_open`, `cache`, `look` and `max_gap`. A table
    is over its sets as they were when it was made: samples that were added to them since are not among its items.

    counts: items by the shard that their samples lie in; the shards of all sets that it reads, one after the other.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_open: int = 32,
        cache: BlockCache | None = None,
        look: bool = True,
        max_gap: int | None = None,
    ) -> None:
        self.folder = folder
        self.manifest: Manifest = load_manifest(folder, wait=True)
        self._look = look
        opened = partial(FrameSet, max_open=max_open, cache=cache, look=look, max_gap=max_gap)
        self._frames: list[FrameSet] = []
        self._items: ItemTable = self._open(folder, self.manifest, opened, level=0)
        self._shard_ends = list(accumulate(len(frames.manifest.shards) for frames in self._frames))
        self.counts: tuple[int, ...] = tuple(self._items.counts)
        self._ends = list(accumulate(self.counts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def set_name(self) -> str:
        """What messages call it."""
        return str(self.folder)

    @property
    def num_samples(self) -> int:
        """Items in all shards."""
        return len(self)

    @property
    def num_bytes(self) -> int:
        """Of all shards that it reads."""
        return sum(entry.bytes for frames in self._frames for entry in frames.manifest.shards)

    @property
    def fingerprint(self) -> str:
        """Changes whenever what a run would read changes."""
        return self.manifest.fingerprint

    def refs(self) -> Iterator[SampleRef]:
        """Every item once, in the order of the shards."""
        return (self.ref(number) for number in range(len(self)))

    def ref(self, number: int) -> SampleRef:
        """Item `number` in the order of the shards."""
        shard = bisect_right(self._ends, number)
        return SampleRef(shard, number - (self._ends[shard] - self.counts[shard]))

    @property
    def sets(self) -> list[tuple[Path, Manifest]]:
        """The sets that its shards are of, one after the other; one may be there twice."""
        return [(frames.folder, frames.manifest) for frames in self._frames]

    def tar(self, shard: int) -> Path:
        """The file of one of its shards."""
        frames, own = self._place(shard)
        return frames.folder / frames.manifest.shards[own].file

    def item(self, ref: SampleRef) -> Item:
        """An item as its table has it; its `shard` is that of `ref`."""
        return self._items.item(ref.shard, ref.row)

    def sample_key(self, ref: SampleRef) -> str:
        """The key of an item's sample."""
        frames, shard = self._place(ref.shard)
        return frames.key(shard, self.item(ref).row)

    def key(self, ref: SampleRef) -> str:
        """The key of an item: its name in log and digest, where it has none that of its sample."""
        item = self.item(ref)
        frames, shard = self._place(item.shard)
        return frames.key(shard, item.row) if item.key is None else item.key

    def keys(self, shard: int) -> list[str]:
        """The keys of all items of a shard, in their order: a hundred times faster than one by one."""
        return self._items.keys(shard, self.sample_keys)

    def rows(self, shard: int) -> NDArray[np.int64]:
        """The samples of all items of a shard, by their rows there. Raises DataError where one is not there."""
        return self._items.rows(shard)

    def asks(self, shard: int) -> bool:
        """Whether items of a shard say something of their own; else they are samples as they are."""
        return self._items.asks(shard)

    def sample_keys(self, shard: int) -> list[str]:
        frames, own = self._place(shard)
        return frames.keys(own)

    def members(self, ref: SampleRef) -> Sequence[Member]:
        """The files of an item's sample, in tar order."""
        item = self.item(ref)
        frames, shard = self._place(item.shard)
        return frames.members(shard, item.row)

    def question(self, ref: SampleRef) -> Question:
        """What is asked of the item's sample, in a set that is a table."""
        item = self.item(ref)
        if item.key is None:
            return NO_QUESTION
        frames, shard = self._place(item.shard)
        group = item.fields.get("group", frames.key(shard, item.row))
        return Question(item.fields, item.frames, str(group))

    def read(self, ref: SampleRef, member: Member) -> bytes:
        """The bytes of one member. Raises DecodeError where they do not match their CRC, DataError on I/O."""
        frames, shard = self._place(ref.shard)
        return frames.read(shard, member)

    def prefetch(self, shown: Iterable[tuple[SampleRef, Sequence[Member]]]) -> None:
        """These members of these items will be read next. From a store they are fetched now, many at a time."""
        if all(frames.is_local for frames in self._frames):
            return
        wanted: dict[int, list[tuple[int, Sequence[Member]]]] = {}
        for ref, members in shown:
            which, shard = self._which(ref.shard)
            wanted.setdefault(which, []).append((shard, members))
        for which, own in wanted.items():
            self._frames[which].prefetch(own)

    def contents(self, shard: int) -> list[tuple[bytes, bytes]]:
        """Of each item of a shard the key of its sample and the CRCs of its members."""
        frames, own = self._place(shard)
        contents = frames.contents(own)
        return [contents[self._items.item(shard, nth).row] for nth in range(self.counts[shard])]

    def whole_shards(self) -> list[str | None]:
        """Of each shard the hash of its tar, if every sample of it is an item, once; else None."""
        entries = (entry for frames in self._frames for entry in frames.manifest.shards)
        plain = not self.manifest.parts and self.manifest.items is None
        return [entry.sha256 if plain else None for entry in entries]

    def take_traffic(self) -> Traffic:
        """What was moved over the network in this process since the last call."""
        return sum((frames.take_traffic() for frames in self._frames), Traffic())

    def close(self) -> None:
        """Close files; the source opens them again when it is used."""
        for frames in self._frames:
            frames.close()

    def _which(self, shard: int) -> tuple[int, int]:
        """The frame set of a shard, and the place of the shard there."""
        which = bisect_right(self._shard_ends, shard)
        return which, shard - (self._shard_ends[which - 1] if which else 0)

    def _place(self, shard: int) -> tuple[FrameSet, int]:
        which, own = self._which(shard)
        return self._frames[which], own

    def _open(self, folder: Path, manifest: Manifest, frame_set: _OpenFrames, level: int) -> ItemTable:
        """The table of a set; the shards that it is over are added to `_frames`, in order."""
        if level > _MOST_LEVELS:
            raise DataError(f"{self.folder} is a table over itself, by way of {folder}", hint="make the table again")
        begun = len(self._frames)
        if manifest.parts:
            numbered = enumerate(manifest.parts)
            tables = [self._open_part(folder, number, part, frame_set, level) for number, part in numbered]
            table: ItemTable = tables[0] if len(tables) == 1 else JoinedItems(tables)
        else:
            self._frames.append(frame_set(folder, manifest))
            table = AllSamples([entry.samples for entry in manifest.shards])
        if manifest.items is None:
            return table
        samples = [entry.samples for frames in self._frames[begun:] for entry in frames.manifest.shards]
        return ArrowItems(
            set_file(folder, ITEMS, manifest.items, hint=_again(folder), whole=self._look), samples, hint=_again(folder)
        )

    def _open_part(self, folder: Path, number: int, part: Part, frame_set: _OpenFrames, level: int) -> ItemTable:
        place = part.place(folder)
        manifest = _manifest_under(folder, place).version(part.fingerprint)
        if manifest is None:
            raise DataError(
                f"{place} has changed since {folder} was made as a table over it, and not by samples that were added",
                hint=f"make {folder} again, or restore {place}",
            )
        table = self._open(place, manifest, frame_set, level + 1)
        if part.rows is None:
            return table
        hint = _again(folder)
        file = set_file(folder, rows_name(number), part.rows, hint=hint, whole=self._look)
        ranges = _ranges(file, table, hint=hint)
        return SelectedItems(table, ranges)


def _manifest_under(folder: Path, place: Path) -> Manifest:
    """That of a set that the table in `folder` is over. Raises DataError where it is missing or damaged."""
    try:
        return load_manifest(place, wait=True)
    except DataError as error:
        if kind_of(place / MANIFEST):
            raise
        raise DataError(
            f"{folder} is a table over {place}, and no set of shards is there",
            hint=f"put it back, or make {folder} again; a table and its sets find each other where all of them are "
            "moved together",
        ) from error


def _again(folder: Path) -> str:
    return f"restore {folder}, or make it again"


def rows_name(part: int) -> str:
    """The file that says which items of a part are in a set."""
    return f"rows-{part}.npy"


def _ranges(path: Path, table: ItemTable, *, hint: str) -> NDArray[np.int64]:
    """Raises DataError where the file holds no ranges of items of this table."""
    try:
        ranges = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is damaged: {error}", hint=hint) from error
    flat = ranges.ravel()
    are_pairs = ranges.dtype == np.int64 and ranges.ndim == 2 and ranges.shape[1] == 2
    if not are_pairs or (np.diff(flat) < 0).any() or not (flat[:1] >= 0).all() or (flat[-1:] > sum(table.counts)).any():
        raise DataError(f"{path} is damaged: it holds no ranges of the items of its set", hint=hint)
    return np.asarray(ranges)

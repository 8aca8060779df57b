"""Finished samples, read back to verify, count, show and compare: any set with an index, ours or a foreign one."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from data_prep.engines import WorkerFailure, map_ordered
from data_prep.state.statistics import HEADER_BYTES, frames_stored
from umt_ds.data.clips import ChooseFrames, pixel_members, read_frames, within
from umt_ds.data.pixels.decode import Frames, Jpegs
from umt_ds.data.shards.fetch import read_part
from umt_ds.data.shards.manifest import ShardEntry, load_manifest, load_shards
from umt_ds.data.shards.records import Member, SampleRef, ShardIndex, load_index, read_members
from umt_ds.data.shards.sample_record import Record, is_of_record, record_of
from umt_ds.data.shards.source import ShardSource
from umt_ds.data.shards.storage import absolute
from umt_ds.data.shards.suffixes import Media
from umt_ds.data.shards.tars import ScannedTar
from umt_ds.errors import DecodeError, shown
from umt_ds.terminal import progress

Result = TypeVar("Result")
SHARD_TIMEOUT_S = 3600.0  # to read one shard once, also a large one from afar


@dataclass(frozen=True)
class StoredSample:
    """One sample of a shard; or an item of a table: fields in the place of those of its json, and the first and last
    stored frame of its part, if it is not all of them."""

    tar: Path
    key: str
    members: tuple[Member, ...]
    fields: Mapping[str, Any] = field(default_factory=dict)
    part: tuple[int, int] | None = None

    @property
    def media(self) -> Media:
        return pixel_members(self.members)[0]

    @property
    def media_members(self) -> Sequence[Member]:
        """The members that hold pixels: those that training shows, in its order."""
        return pixel_members(self.members)[1]

    def record(self) -> Record:
        """What it says of itself, as training reads it. Raises DecodeError where that is damaged."""
        record = record_or_why_not(read_members(self.tar, [m for m in self.members if is_of_record(m.suffix)]))
        if isinstance(record, DecodeError):
            raise self.damaged(record)
        return {**record, **self.fields}

    def damaged(self, error: DecodeError) -> DecodeError:
        """`error`, which is of its record or frames, with the place where it lies."""
        where = f"{self.tar}: sample {shown(self.key)}"
        return DecodeError(f"{where}: {error.what}", hint="`umt-data verify` lists all damage")

    def num_frames(self, record: Mapping[str, Any]) -> int | None:
        """How many frames it stores, without decoding one; None where the record does not say: in a foreign video.

        `record` is its own. Raises DataError where the tar cannot be read.
        """
        return frames_stored(tuple(self.sizes), record, self.array_start)

    @property
    def sizes(self) -> dict[str, int]:
        """The bytes of its members, by suffix."""
        return {member.suffix: member.size for member in self.members}

    def array_start(self) -> bytes:
        """The first bytes of the member that holds its pixels, which tell the size of an array."""
        (member,) = self.media_members
        return read_part(self.tar, member.offset, min(member.size, HEADER_BYTES))

    def frames(self, choose: ChooseFrames) -> Frames:
        """The frames u8 [T,H,W,3] that `choose` picks, given their number, as training decodes them; of an item, of its
        part.

        Raises DecodeError, which does not say of which sample, where they are damaged; DataError where the tar is.
        """
        among = choose if self.part is None else within(self.part, choose)
        frames, _ = read_frames(self.members, lambda some: list(read_members(self.tar, some).values()), among)
        assert not isinstance(frames, Jpegs), "they were not left encoded"
        return frames


@dataclass(frozen=True)
class ShardClips:
    """Samples of one shard: those that the items of a table use, or all."""

    tar: Path
    rows: tuple[int, ...] | None = None

    def samples(self) -> list[StoredSample]:
        """In tar order. Raises DataError as `load_index` does."""
        index = load_index(self.tar)
        return [sample_at(self.tar, index, row) for row in (range(len(index)) if self.rows is None else self.rows)]

    def records(self) -> list[tuple[StoredSample, Record | DecodeError]]:
        """With their records, or why one cannot be read; the tar is opened once.

        Raises DataError as `samples` does, or where members do not match their checksums.
        """
        samples = self.samples()
        # one call reads one member of a suffix: the place in front keeps the samples apart
        members = [
            member._replace(suffix=f"{place}/{member.suffix}")
            for place, sample in enumerate(samples)
            for member in sample.members
            if is_of_record(member.suffix)
        ]
        texts: list[dict[str, bytes]] = [{} for _ in samples]
        for name, data in read_members(self.tar, members).items():
            place, _, suffix = name.partition("/")
            texts[int(place)][suffix] = data
        return [(sample, record_or_why_not(own)) for sample, own in zip(samples, texts, strict=True)]


def samples_of(tar: Path) -> Iterator[StoredSample]:
    """The samples of one shard, in tar order. Raises DataError as `load_index` does."""
    yield from ShardClips(tar).samples()


def records_of(tar: Path) -> list[tuple[StoredSample, Record | DecodeError]]:
    """The samples of one shard with their records, as `ShardClips.records` gives them."""
    return ShardClips(tar).records()


def records_in(tar: Path, scanned: ScannedTar) -> list[tuple[StoredSample, Record | DecodeError]]:
    """The same of a tar that was just scanned: nothing is read again."""
    samples = (sample_at(tar, scanned.index, row) for row in range(len(scanned.index)))
    return [(sample, record_or_why_not(texts)) for sample, texts in zip(samples, scanned.texts, strict=True)]


def record_or_why_not(texts: Mapping[str, bytes]) -> Record | DecodeError:
    """The record of a sample with these texts by suffix."""
    try:
        return record_of(texts, texts.__getitem__)
    except DecodeError as error:
        return error


def sample_at(tar: Path, index: ShardIndex, row: int) -> StoredSample:
    """The sample in one row of a shard."""
    return StoredSample(tar, index.key(row), tuple(index.members(row)))


def sample_of_item(source: ShardSource, ref: SampleRef) -> StoredSample:
    """The sample of an item of a table, with what the item asks of it."""
    item = source.item(ref)
    return StoredSample(
        source.tar(ref.shard), source.key(ref), tuple(source.members(ref)), fields=item.fields, part=item.frames
    )


def find_samples(folder: Path, keys: Iterable[str]) -> dict[str, StoredSample]:
    """The samples of a set, or under a table, that have these keys, as far as there are any. Reads every index, and no
    tar."""
    wanted = np.array([key.encode() for key in keys], dtype=np.bytes_)
    found: dict[str, StoredSample] = {}
    for _, clips in used_shards(folder):
        index = load_index(clips.tar)
        for row in np.flatnonzero(np.isin(index.keys, wanted)).tolist():
            sample = sample_at(clips.tar, index, row)
            found[sample.key] = sample
    return found


def used_shards(folder: Path) -> list[tuple[ShardEntry, ShardClips]]:
    """The shards of a set with all their samples; those under a table with the samples that an item uses, each once.

    Raises DataError where a set under a table is missing, or another than it was.
    """
    manifest = load_manifest(folder)
    if not manifest.parts:
        return [(entry, ShardClips(folder / entry.file)) for entry in manifest.shards]
    with closing(ShardSource(folder, max_open=1)) as source:
        shards = [(absolute(place), entry) for place, base in source.sets for entry in base.shards]
        used: dict[Path, set[int]] = {}
        for shard, (place, entry) in enumerate(shards):
            used.setdefault(place / entry.file, set()).update(source.rows(shard).tolist())
    entries = {place / entry.file: entry for place, entry in shards}
    return [(entries[tar], ShardClips(tar, tuple(sorted(rows)))) for tar, rows in used.items() if rows]


def each_shard(
    work: Callable[[Path], Result], folder: Path, *, desc: str, workers: int, decodes: bool = False
) -> Generator[tuple[ShardEntry, Result | WorkerFailure], None, None]:
    """`work(tar)` for each shard of a set, by `workers` processes, in the order of the shards.

    A single worker is this process, unless the work `decodes`: that can kill its process. A bar counts samples.
    """
    of_tar = [(entry, ShardClips(folder / entry.file)) for entry in load_shards(folder).shards]
    return _each(partial(_of_tar, work), of_tar, desc=desc, workers=workers, decodes=decodes)


def each_used_shard(
    work: Callable[[ShardClips], Result], folder: Path, *, desc: str, workers: int, decodes: bool = False
) -> Generator[tuple[ShardEntry, Result | WorkerFailure], None, None]:
    """The same of the clips that a set has, or that the items of a table use."""
    return _each(work, used_shards(folder), desc=desc, workers=workers, decodes=decodes)


def _of_tar(work: Callable[[Path], Result], clips: ShardClips) -> Result:
    return work(clips.tar)


def _each(
    work: Callable[[ShardClips], Result],
    shards: Sequence[tuple[ShardEntry, ShardClips]],
    *,
    desc: str,
    workers: int,
    decodes: bool,
) -> Generator[tuple[ShardEntry, Result | WorkerFailure], None, None]:
    clips = [one for _, one in shards]
    counts = [entry.samples if one.rows is None else len(one.rows) for entry, one in shards]
    results: Generator[Result | WorkerFailure, None, None] = (
        map_ordered(work, clips, workers=workers, timeout_s=SHARD_TIMEOUT_S)
        if decodes or workers > 1
        else (work(one) for one in clips)
    )
    with closing(results), progress(total=sum(counts), unit="sample", desc=desc) as bar:
        for (entry, _), count, result in zip(shards, counts, results, strict=True):
            yield entry, result
            bar.update(count)

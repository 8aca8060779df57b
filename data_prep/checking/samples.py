"""Finished samples, read back to verify, count, show and compare: any set with an index, ours or a foreign one."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from data_prep.engines import WorkerFailure, map_ordered
from data_prep.state.statistics import HEADER_BYTES, frames_stored
from umt_ds.data.clips import ChooseFrames, pixel_members, read_frames
from umt_ds.data.pixels.decode import Frames, Jpegs
from umt_ds.data.shards.fetch import read_part
from umt_ds.data.shards.manifest import ShardEntry, load_shards
from umt_ds.data.shards.records import Member, ShardIndex, load_index, read_members
from umt_ds.data.shards.sample_record import Record, is_of_record, record_of
from umt_ds.data.shards.suffixes import Media
from umt_ds.data.shards.tars import ScannedTar
from umt_ds.errors import DecodeError, shown
from umt_ds.terminal import progress

Result = TypeVar("Result")
SHARD_TIMEOUT_S = 3600.0  # to read one shard once, also a large one from afar


@dataclass(frozen=True)
class StoredSample:
    """One sample of a shard."""

    tar: Path
    key: str
    members: tuple[Member, ...]

    @property
    def media(self) -> Media:
        return pixel_members(self.members)[0]

    @property
    def media_members(self) -> list[Member]:
        """The members that hold pixels: those that training shows, in its order."""
        return pixel_members(self.members)[1]

    def record(self) -> Record:
        """What it says of itself, as training reads it. Raises DecodeError where that is damaged."""
        record = record_or_why_not(read_members(self.tar, [m for m in self.members if is_of_record(m.suffix)]))
        if isinstance(record, DecodeError):
            raise self.damaged(record)
        return record

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
        """The frames u8 [T,H,W,3] that `choose` picks, given their number, as training decodes them.

        Raises DecodeError, which does not say of which sample, where they are damaged; DataError where the tar is.
        """
        frames, _ = read_frames(self.members, lambda some: list(read_members(self.tar, some).values()), choose)
        assert not isinstance(frames, Jpegs), "they were not left encoded"
        return frames


def samples_of(tar: Path, index: ShardIndex | None = None) -> Iterator[StoredSample]:
    """The samples of one shard, in tar order. Raises DataError as `load_index` does."""
    index = index or load_index(tar)
    for row in range(len(index)):
        yield sample_at(tar, index, row)


def records_of(tar: Path) -> list[tuple[StoredSample, Record | DecodeError]]:
    """The samples of one shard with their records, or why one cannot be read; the tar is opened once.

    Raises DataError as `samples_of` does, or where members do not match their checksums.
    """
    samples = list(samples_of(tar))
    # one call reads one member of a suffix: the row in front keeps the samples apart
    members = [
        member._replace(suffix=f"{row}/{member.suffix}")
        for row, sample in enumerate(samples)
        for member in sample.members
        if is_of_record(member.suffix)
    ]
    texts: list[dict[str, bytes]] = [{} for _ in samples]
    for name, data in read_members(tar, members).items():
        row, _, suffix = name.partition("/")
        texts[int(row)][suffix] = data
    return [(sample, record_or_why_not(own)) for sample, own in zip(samples, texts, strict=True)]


def records_in(tar: Path, scanned: ScannedTar) -> list[tuple[StoredSample, Record | DecodeError]]:
    """The same of a tar that was just scanned: nothing is read again."""
    samples = samples_of(tar, scanned.index)
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


def find_samples(folder: Path, keys: Iterable[str]) -> dict[str, StoredSample]:
    """The samples of a set that have these keys, as far as there are any. Reads every index, and no tar."""
    wanted = np.array([key.encode() for key in keys], dtype=np.bytes_)
    found: dict[str, StoredSample] = {}
    for shard in load_shards(folder).shards:
        tar = folder / shard.file
        index = load_index(tar)
        for row in np.flatnonzero(np.isin(index.keys, wanted)).tolist():
            sample = sample_at(tar, index, row)
            found[sample.key] = sample
    return found


def each_shard(
    work: Callable[[Path], Result], folder: Path, *, desc: str, workers: int, decodes: bool = False
) -> Generator[tuple[ShardEntry, Result | WorkerFailure], None, None]:
    """`work(tar)` for each shard of a set, by `workers` processes, in the order of the shards.

    A single worker is this process, unless the work `decodes`: that can kill its process. A bar counts samples.
    """
    manifest = load_shards(folder)
    tars = [folder / shard.file for shard in manifest.shards]
    results: Generator[Result | WorkerFailure, None, None] = (
        map_ordered(work, tars, workers=workers, timeout_s=SHARD_TIMEOUT_S)
        if decodes or workers > 1
        else (work(tar) for tar in tars)
    )
    with closing(results), progress(total=manifest.num_samples, unit="sample", desc=desc) as bar:
        for shard, result in zip(manifest.shards, results, strict=True):
            yield shard, result
            bar.update(shard.samples)

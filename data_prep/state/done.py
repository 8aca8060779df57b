"""The record of a finished shard, and how a shard and its record change together.

    OUT/NAME-000123.tar, NAME-000123.index.npz
    OUT/.umt-data/done/000123.json        the shard is whole: what it holds, and what it refused
    OUT/.umt-data/done/000123.next.json   the record to come, while the two files are being replaced
    OUT/.umt-data/statistics/000123.arrow what its samples say of themselves (`statistics.py`)

A kill can come between any two of these steps. Then the tar says how far it came: is it the one of the record to come,
the rest is done, else that record is dropped; the index is made from the tar. Nothing is decoded for that.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from data_prep.clip import Refusal
from data_prep.state.statistics import STATISTICS
from umt_ds.data.shards.fetch import read_whole, size_of
from umt_ds.data.shards.manifest import ShardEntry
from umt_ds.data.shards.records import index_path, sha256_of, write_json
from umt_ds.data.shards.storage import has_file, publish
from umt_ds.data.shards.tars import index_tar
from umt_ds.errors import DataError

COMING = ".next.json"
PAGES = "statistics"


@dataclass(frozen=True)
class Done:
    """The record of a finished shard: its manifest entry (None if no clip was good) and its refusals."""

    entry: ShardEntry | None
    refused: tuple[Refusal, ...]

    @property
    def num_clips(self) -> int:
        return len(self.refused) + (self.entry.samples if self.entry else 0)

    def save(self, path: Path) -> None:
        """Write the record."""
        refused = [[refusal.source, refusal.reason, refusal.key] for refusal in self.refused]
        write_json(path, {"entry": asdict(self.entry) if self.entry else None, "refused": refused})


@dataclass(frozen=True)
class ShardFiles:
    """Where one shard and its records lie."""

    tar: Path
    record: Path

    @property
    def coming(self) -> Path:
        return self.record.with_name(self.record.name.removesuffix(".json") + COMING)

    @property
    def statistics(self) -> Path:
        """The page of the shard. It is of another tar for a moment while that is being replaced, and says of which."""
        return self.record.parent.parent / PAGES / f"{self.record.stem}.arrow"

    def is_whole(self, done: Done) -> bool:
        """Whether the files that a record tells of are there, by their sizes."""
        entry = done.entry
        if entry is None:
            return True
        return has_file(index_path(self.tar)) and _size(self.tar) == entry.bytes


def replace_shard(files: ShardFiles, made: Path | None, done: Done) -> None:
    """Put the finished local tar `made`, with index and statistics beside it, in the place of what there is; None: no
    file."""
    done.save(files.coming)
    if made is None:
        for path in (files.tar, index_path(files.tar), files.statistics):
            path.unlink(missing_ok=True)
    else:
        files.statistics.parent.mkdir(parents=True, exist_ok=True)
        publish(made.with_name(STATISTICS), files.statistics)
        publish(index_path(made), index_path(files.tar))
        publish(made, files.tar)
    done.save(files.record)
    files.coming.unlink(missing_ok=True)


def recover(files: ShardFiles) -> None:
    """End what `replace_shard` began and a kill cut off: the shard is then the new one, or the one before, as a whole.

    Raises DataError where the tar is damaged.
    """
    coming = read_done(files.coming)
    before = read_done(files.record) if has_file(files.record) else None
    if _is_of(files.tar, coming):
        if coming.entry is None:
            index_path(files.tar).unlink(missing_ok=True)
        with_index(files, coming).save(files.record)
    elif before and before.entry and _size(files.tar) == before.entry.bytes:
        with_index(files, before).save(files.record)
    elif not has_file(files.tar):
        index_path(files.tar).unlink(missing_ok=True)
    files.coming.unlink(missing_ok=True)


def with_index(files: ShardFiles, done: Done) -> Done:
    """The record of a shard whose index is there; made again from the tar where it is not the one of the record.

    Raises DataError where the tar is not the one of the record.
    """
    if done.entry is None:
        return done
    index = index_path(files.tar)
    if has_file(index) and sha256_of(index) == done.entry.index_sha256:
        return done
    if sha256_of(files.tar) != done.entry.sha256:
        raise DataError(
            f"{files.tar} is damaged: it is not the shard that {files.record} tells of",
            hint="restore it from a copy; or delete it and give the same command again, which makes it anew",
        )
    index_tar(files.tar).save(index)
    return replace(done, entry=replace(done.entry, index_sha256=sha256_of(index)))  # another numpy may write others


def read_done(path: Path) -> Done:
    """Raises DataError for anything but a record."""
    return parse_done(read_whole(path), path)


def parse_done(data: bytes, path: Path) -> Done:
    """The record whose file `path` holds `data`. Raises DataError for anything else."""
    try:
        record: Any = json.loads(data)
        if not isinstance(record, dict) or not {"entry", "refused"} <= record.keys():
            raise ValueError("it is no record of a shard")
        entry = None if record["entry"] is None else _entry_of(record["entry"])
        refused = tuple(_refusal_of(one) for one in record["refused"])
    except (ValueError, TypeError, RecursionError) as error:  # ValueError: no JSON, no UTF-8
        raise DataError(
            f"{path} is damaged: {error}", hint="delete it and give the same command again: the shard is made anew"
        ) from error
    return Done(entry, refused)


def _entry_of(record: Any) -> ShardEntry:
    entry = ShardEntry(**record)
    texts, numbers = (entry.file, entry.sha256, entry.index_sha256), (entry.samples, entry.bytes)
    if not all(isinstance(text, str) for text in texts) or not all(type(n) is int and n > 0 for n in numbers):
        raise ValueError("its entry is none of a shard")
    return entry


def _refusal_of(record: Any) -> Refusal:
    if not isinstance(record, list) or len(record) != 3 or not all(isinstance(text, str) for text in record):
        raise ValueError(f"{record!r:.50} is no refusal of a clip")
    return Refusal(*record)


def _is_of(tar: Path, done: Done) -> bool:
    """Whether the tar that is there (or is not) is the one of a record."""
    if done.entry is None:
        return not has_file(tar)
    return _size(tar) == done.entry.bytes and sha256_of(tar) == done.entry.sha256


def _size(path: Path) -> int | None:
    return size_of(path) if has_file(path) else None

"""`umt-data verify`: is every byte of a set what its manifest says, and do the frames decode?

Two passes: each shard is read once for its hashes, checksums and json; then frames of each n-th sample are decoded in
processes that may die, each sample for itself, so that one which kills its decoder is one fault.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import tee
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from data_prep.checking.faults import Fault, VerifyReport, of_label
from data_prep.checking.items import check_items
from data_prep.checking.samples import StoredSample, each_shard, sample_at
from data_prep.checking.set_files import faults_of_files
from data_prep.decode import evenly_spread
from data_prep.engines import WorkerFailure, map_ordered
from data_prep.state.manifest import BAD_CSV
from data_prep.state.plan import STATE_FOLDER, load_plan
from data_prep.state.statistics import STATISTICS
from umt_ds.data.order.views import ALL, frames_of, views_of
from umt_ds.data.shards.fetch import is_its_own, not_its_own, opened, read_whole
from umt_ds.data.shards.manifest import Manifest, ShardEntry, load_manifest
from umt_ds.data.shards.records import Member, index_path, load_index, sha256_of
from umt_ds.data.shards.sample_record import has_label, is_of_record, record_of, stored_frames
from umt_ds.data.shards.set_index import INDEX
from umt_ds.data.shards.storage import kind_of, sizes_in
from umt_ds.errors import DataError, DecodeError
from umt_ds.keyed import digest64
from umt_ds.terminal import progress

_CRC, _NO_MEDIA, _EMPTY = "member damaged (CRC)", "sample without media", "empty frame or video"
_UNREADABLE = (_CRC, _NO_MEDIA, _EMPTY)  # to decode such a sample would say the same again

_CHUNK = 1 << 20


def verify(
    folder: Path,
    *,
    every: int = 10,
    frames: int = 3,
    workers: int = 1,
    timeout_s: float = 60.0,
    items_only: bool = False,
) -> VerifyReport:
    """Check sizes, hashes, checksums, index and json of each shard, and decode `frames` of each `every`-th sample.

    Samples are counted over the whole set. `timeout_s` is granted to the decoding of one sample. Of a table the items
    are checked, and each set under it as a whole, once; with `items_only` not the sets.
    Raises DataError where the manifest itself is missing or damaged, MachineError where a store or the machine fails.
    """
    manifest = load_manifest(folder)
    report = VerifyReport()
    if manifest.parts:
        sets = check_items(folder, manifest, report)
        for base in () if items_only else sets:
            report.add_all_of(verify(base, every=every, frames=frames, workers=workers, timeout_s=timeout_s))
            report.sets += (str(base),)
        return report
    _check_folder(folder, manifest, report)
    _check_files(folder, manifest, report)
    readable = _check_shards(folder, manifest, report, workers=workers)
    _check_frames(folder, manifest, readable, report, every=every, frames=frames, workers=workers, timeout_s=timeout_s)
    return report


# --- the folder


def _check_folder(folder: Path, manifest: Manifest, report: VerifyReport) -> None:
    """What lies beside the shards, and whether every clip became a sample or a row of bad.csv."""
    try:
        bad = _rows(folder / BAD_CSV)
        plan = load_plan(folder) if kind_of(folder / STATE_FOLDER) else None
    except (DataError, UnicodeDecodeError, csv.Error) as error:
        report.add("bad.csv or plan damaged", error)
        bad, plan = None, None
    listed = {shard.file for shard in manifest.shards}
    growing = {plan.tar(shard).name for shard in range(plan.num_shards)} if plan and len(plan.batches) > 1 else set()
    for name in sorted(sizes_in(folder)):
        if name.endswith(".tar") and name not in listed | growing:
            report.add("shard not in the manifest", name)
    begun = plan.num_clips if plan else manifest.num_samples
    if bad is not None and not 0 <= begun - manifest.num_samples <= bad:  # bad.csv also lists what was left out before
        what = f"{begun:,} clips, {manifest.num_samples:,} samples, {bad:,} rows in {BAD_CSV}"
        if plan and growing:
            what += f"; {plan.batches[-1]:,} of the clips were added last: is the command that adds them still to end?"
        report.add("clips unaccounted for", what)


def _check_files(folder: Path, manifest: Manifest, report: VerifyReport) -> None:
    """The files of the whole set: the index, which training maps, and the statistics."""
    names = {INDEX: "index of the set", STATISTICS: "statistics of the set"}
    for name, what in faults_of_files(folder, manifest).items():
        report.add(f"{names[name]} missing or damaged", what)


def _rows(path: Path) -> int:
    """Rows below the header of a csv file, 0 where there is no file."""
    try:
        text = read_whole(path).decode()
    except FileNotFoundError:
        return 0
    return max(0, sum(1 for _ in csv.reader(io.StringIO(text))) - 1)


# --- the bytes


@dataclass(frozen=True)
class _Shard:
    """What comes back of a shard whose index can be used. n samples."""

    size: int
    sha256: str
    index_sha256: str
    key_hashes: NDArray[np.uint64]  # [n]
    unreadable: frozenset[int]  # rows whose frames need no decoding
    faults: tuple[Fault, ...]


def _check_shards(folder: Path, manifest: Manifest, report: VerifyReport, *, workers: int) -> dict[str, _Shard]:
    """Every byte of every shard; returns what is known of those whose index can be used, by file name."""
    readable: dict[str, _Shard] = {}
    check = partial(_check_shard, labels=manifest.labels, views=views_of(manifest.options))
    for shard, result in each_shard(check, folder, desc="bytes", workers=workers):
        report.shards += 1
        match result:
            case _Shard():
                readable[shard.file] = result
                report.samples += len(result.key_hashes)
                for kind, what in (*_against_manifest(shard, result), *result.faults):
                    report.add(kind, what)
            case WorkerFailure():
                report.add("shard cannot be read", f"{shard.file}: {result.reason}")
            case kind, what:
                report.add(kind, what)
    for what in _repeated_keys(folder, readable):
        report.add("key occurs twice", what)
    return readable


def _check_shard(tar: Path, *, labels: Sequence[str], views: str | None) -> _Shard | Fault:
    """Reads the tar once, from its first byte to its last."""
    keys: list[str] = []
    faults: list[Fault] = []
    unreadable: set[int] = set()
    try:
        index = load_index(tar)
        with opened(tar) as file:
            reader = _Reader(file)
            for row in range(len(index)):
                sample = sample_at(tar, index, row)
                keys.append(sample.key)
                found = list(_of_sample(sample, reader, labels, views))
                faults += [(kind, f"{_where(sample)}: {what}") for kind, what in found]
                if any(kind in _UNREADABLE for kind, _ in found):
                    unreadable.add(row)
            reader.to_end()
        index_sha256 = sha256_of(index_path(tar))
    except DataError as error:
        return "shard or index missing or mismatched", error.what
    except OSError as error:
        if error.errno != errno.EIO and not is_its_own(error, tar):  # what a disk has lost is what this looks for
            raise not_its_own(tar, error) from error
        return "shard cannot be read", f"{tar.name}: {error}"
    hashes = np.array([digest64(key) for key in keys], dtype=np.uint64)
    return _Shard(reader.position, reader.hexdigest(), index_sha256, hashes, frozenset(unreadable), tuple(faults))


class _Reader:
    """Reads a file forward, once, and hashes all that goes by."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self.position = 0

    def read(self, member: Member) -> bytes | None:
        """The bytes of a member; None where they are not those of the index."""
        if member.offset < self.position or member.size < 0:
            return None
        while self.position < member.offset and self._take(min(_CHUNK, member.offset - self.position)):
            pass
        data = self._take(member.size)
        return data if len(data) == member.size and zlib.crc32(data) == member.crc else None

    def to_end(self) -> None:
        while self._take(_CHUNK):
            pass

    def hexdigest(self) -> str:
        return self._sha256.hexdigest()

    def _take(self, size: int) -> bytes:
        data = self._file.read(size)
        self._sha256.update(data)
        self.position += len(data)
        return data


def _against_manifest(shard: ShardEntry, found: _Shard) -> Iterator[Fault]:
    if found.size != shard.bytes:
        yield "size differs from the manifest", f"{shard.file}: {found.size}, not {shard.bytes} bytes"
    elif found.sha256 != shard.sha256:
        yield "sha256 differs from the manifest", shard.file
    if found.index_sha256 != shard.index_sha256:
        yield "index sha256 differs from the manifest", index_path(Path(shard.file)).name
    if len(found.key_hashes) != shard.samples:
        yield "count differs from the manifest", f"{shard.file}: {len(found.key_hashes)}, not {shard.samples} samples"


def _of_sample(sample: StoredSample, reader: _Reader, labels: Sequence[str], views: str | None) -> Iterator[Fault]:
    """What is wrong with a sample, as far as can be seen without decoding."""
    texts: dict[str, bytes] = {}  # and no pictures: those of 15 minutes are 0.6 GB
    damaged: list[str] = []
    for member in sample.members:
        data = reader.read(member)
        if data is None:
            damaged.append(member.suffix)
        elif is_of_record(member.suffix):
            texts[member.suffix] = data
    if damaged:
        yield _CRC, ", ".join(damaged)
        return
    media = sample.media_members
    if not media:
        yield _NO_MEDIA, ", ".join(member.suffix for member in sample.members)
    if empty := [member.suffix for member in media if member.size == 0]:
        yield _EMPTY, ", ".join(empty)
    try:
        record = record_of(texts, texts.__getitem__)
    except DecodeError as error:
        yield "json damaged", error.what
        return
    if record.get("key", sample.key) != sample.key:
        yield "json has another key than the tar", record["key"]
    if sample.media == "frames":
        yield from _of_count(len(media), record)
    if views and not (sample.media == "image" or _holds_views(sample, record, views)):
        yield "frames are not those of the views", f"{views}: {record.get('source_frames')}"
    if labels and has_label(record):
        yield from of_label(record, labels)


def _holds_views(sample: StoredSample, record: Mapping[str, Any], views: str) -> bool:
    """Whether it stores exactly the frames of its clip that the views show; an mp4, every frame of it."""
    source = record.get("source_frames")
    every = sample.media == "video" or views == ALL
    try:
        stored = stored_frames(record, len(source)) if isinstance(source, list) else None
        if stored is None or (every and stored.num_frames != len(stored.numbers)):
            return False
        return stored.numbers == frames_of(ALL if every else views, stored.num_frames)
    except DecodeError:
        return False


def _of_count(frames: int, record: Mapping[str, Any]) -> Iterator[Fault]:
    stated = record.get("source_frames")
    if isinstance(stated, list) and len(stated) != frames:
        yield "frames differ from the json", f"{frames}, not {len(stated)}"


def _repeated_keys(folder: Path, shards: Mapping[str, _Shard]) -> list[str]:
    """The keys that several samples of the set have. Hashes say which could: eight bytes for each of ten million."""
    if not shards:
        return []
    hashes = np.concatenate([shard.key_hashes for shard in shards.values()])
    values, counts = np.unique(hashes, return_counts=True)
    repeated = values[counts > 1]
    if not len(repeated):
        return []
    files: dict[str, list[str]] = defaultdict(list)
    for file, shard in shards.items():
        rows = np.flatnonzero(np.isin(shard.key_hashes, repeated)).tolist()
        if rows:
            index = load_index(folder / file)
            for row in rows:
                files[index.key(row)].append(file)
    return [f"{key}: in {' and '.join(where)}" for key, where in sorted(files.items()) if len(where) > 1]


def _where(sample: StoredSample) -> str:
    return f"{sample.tar.name} {sample.key}"


# --- the frames


def _check_frames(
    folder: Path,
    manifest: Manifest,
    readable: Mapping[str, _Shard],
    report: VerifyReport,
    *,
    every: int,
    frames: int,
    workers: int,
    timeout_s: float,
) -> None:
    asked, items = tee(_every_nth(folder, manifest, readable, every))
    results = map_ordered(partial(_decode_some, frames=frames), items, workers=workers, timeout_s=timeout_s)
    total = -(-manifest.num_samples // every)
    with closing(results), progress(total=total, unit="sample", desc="frames") as bar:
        for sample, result in zip(asked, results, strict=True):
            if isinstance(result, WorkerFailure):
                report.add("decoder crashed or hung", f"{_where(sample)}: {result.reason}")
            elif result:
                report.add(*result)
            else:
                report.decoded += 1
            bar.update()


def _every_nth(folder: Path, manifest: Manifest, readable: Mapping[str, _Shard], every: int) -> Iterator[StoredSample]:
    """Each `every`-th sample of the whole set, as far as it can be read. They travel with the places of their members,
    so that no worker reads an index."""
    first = 0
    for entry in manifest.shards:
        shard = readable.get(entry.file)
        rows = range(-first % every, min(entry.samples, len(shard.key_hashes) if shard else 0), every)
        if shard and (good := [row for row in rows if row not in shard.unreadable]):
            tar = folder / entry.file
            index = load_index(tar)
            yield from (sample_at(tar, index, row) for row in good)
        first += entry.samples


def _decode_some(sample: StoredSample, *, frames: int) -> Fault | None:
    """What is wrong with some frames of one sample."""
    counted: list[int] = []

    def choose(count: int) -> list[int]:
        counted.append(count)
        return evenly_spread(count, frames)

    try:
        sample.frames(choose)
        faults = list(_of_decoded(sample, counted[-1]))
    except DataError as error:
        return "frames cannot be decoded", f"{_where(sample)}: {error.what}"
    return next(((kind, f"{_where(sample)}: {what}") for kind, what in faults), None)


def _of_decoded(sample: StoredSample, frames: int) -> Iterator[Fault]:
    """Whether the frames of an array or video, which only decoding counts, are those of the json."""
    if sample.media not in ("npy", "video"):
        return
    try:
        record = sample.record()
    except DecodeError:  # told already
        return
    if sample.media == "npy" or "stored_fps" in record:  # a video of others says nothing of what is stored
        yield from _of_count(frames, record)

"""`umt-data index`: make tars that somebody else wrote addressable, without copying them.

img2dataset and video2dataset write, for each shard: 00000.tar (000000000.jpg or .mp4, .txt with the caption, .json
with the row it came from), 00000_stats.json (how many downloads succeeded, and why others failed), 00000.parquet.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.checking.samples import records_of
from data_prep.progress import progress
from data_prep.state.manifest import tool
from data_prep.state.plan import STATE_FOLDER
from umt_ds.data.shards.fetch import read_part, read_whole
from umt_ds.data.shards.left_out import LeftOut
from umt_ds.data.shards.node_index import publish_index
from umt_ds.data.shards.records import (
    MANIFEST,
    Manifest,
    Member,
    ShardIndex,
    index_path,
    load_index,
    load_manifest,
    shard_entries,
)
from umt_ds.data.shards.sample_record import Record, captions_of, has_label
from umt_ds.data.shards.storage import absolute, is_local, kind_of
from umt_ds.data.shards.store_answers import hint_of
from umt_ds.data.shards.tars import index_tar
from umt_ds.errors import DataError, DecodeError, quoted, shown


@dataclass(frozen=True)
class Adopted:
    """The manifest of tars that were indexed, and sentences on what they hold and lack."""

    manifest: Manifest
    notes: tuple[str, ...]


def adopt(folder: Path, *, force: bool = False) -> Adopted:
    """Index every `*.tar` in `folder` and write its manifest. An interrupted run continues where it stopped.

    Samples without media (video2dataset leaves them where a download failed) are not indexed, but counted by their
    reasons. With `force`, indexes and manifest are made anew from the tars as they are now; name, labels and options
    of a manifest that is there and can be read are kept.
    Raises DataError where a manifest is there already, or a tar cannot be read.
    """
    tars, beside = tars_in(folder)
    if not force and kind_of(folder / MANIFEST):
        raise DataError(f"{folder} is indexed already", hint="--force indexes again what is there now")
    if not force and kind_of(folder / STATE_FOLDER):
        raise DataError(f"{folder} is a set that umt-data has not finished", hint="give its command again")
    before = _manifest_before(folder)
    held, downloads = _Held(), _Downloads()
    for tar in progress(tars, unit="tar", desc="index"):
        if force or not _has_samples(tar):
            held.index(tar).save(index_path(tar))
        else:
            held.indexed_before += 1
        samples = held.add(tar)
        downloads.add(tar, samples)
    is_ours = before is not None and before.options.get("source") != "foreign"
    entries = shard_entries(tars)
    manifest = Manifest(
        name=before.name if before else absolute(folder).name,
        media=_media(held, folder),
        shards=entries,
        labels=before.labels if before else (),
        options=before.options if before and is_ours else {"source": "foreign", **downloads.totals},
        tool=tool(),
        index=publish_index(folder, entries),
    )
    manifest.save(folder)
    return Adopted(manifest, (*beside, *held.notes(), *downloads.notes(folder)))


def upgrade(folder: Path) -> bool:
    """Give a set that an earlier version wrote the files of the whole set that it lacks; False: it lacks none.

    Its shards, and with them its fingerprint, stay as they are. Raises DataError where an index beside a shard is
    missing, or is not the one of the manifest.
    """
    manifest = load_manifest(folder)
    if manifest.index:
        return False
    replace(manifest, index=publish_index(folder, manifest.shards)).save(folder)
    return True


def tars_in(folder: Path) -> tuple[list[Path], tuple[str, ...]]:
    """The tars that lie in `folder`, by name, and sentences on what else lies there. Raises DataError without one."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        what = hint_of(error) or "check its permissions, and the disk or mount"
        raise DataError(f"{folder} cannot be read: {error.strerror or error}", hint=what) from error
    hidden = [name for name in names if name.startswith(".") and name.endswith(".tar")]
    tars = [folder / name for name in names if name.endswith(".tar") and name not in hidden]
    if unspeakable := [tar.name for tar in tars if not tar.name.isprintable()]:  # stray bytes among them
        raise DataError(f"the name of the tar {unspeakable[0]!r} is not plain text", hint="rename the file")
    others = [name for name in names if not name.startswith(".") and not name.endswith(".tar")]
    packed = [name for name in others if _PACKED.search(name)]
    begun = [name for name in others if _BEGUN.search(name)]
    below = sorted(str(tar.relative_to(folder)) for tar in folder.glob("[!.]*/*.tar")) if is_local(folder) else []
    notes = [
        f"ignored {len(found)} {what} ({found[0]})"
        for found, what in (
            (hidden, "hidden files that end in .tar, as macOS leaves them"),
            (packed, "archives that do not end in .tar: unpack or rename them"),
            (begun, "tars that are not whole, as a download leaves them"),
            (below, "tars in folders below: index each folder by itself"),
        )
        if found
    ]
    if not tars:
        seen = f" ({'; '.join(notes)})" if notes else ""
        raise DataError(f"no *.tar in {folder}{seen}", hint="give the folder in which the tars lie")
    return tars, tuple(notes)


_PACKED = re.compile(r"\.(?:tar\.(?:gz|bz2|xz|zst|lz4|lzma|z)|tgz|tbz2?|txz|tzst|zip|7z|rar|tar)$", re.IGNORECASE)
_BEGUN = re.compile(r"\.tar.*\.(?:part|partial|tmp|crdownload|aria2|filepart|incomplete)$", re.IGNORECASE)


@dataclass
class _Held:
    """What the tars hold."""

    samples: int = 0
    indexed_before: int = 0  # tars: what they hold besides is not known
    left: LeftOut = field(default_factory=LeftOut)  # by the tars indexed just now
    split: list[str] = field(default_factory=list)  # samples that end in one tar and go on in the next
    captions: int = 0
    labels: int = 0
    text_label: str = ""  # the first that is no number
    unreadable: int = 0
    media: Counter[str] = field(default_factory=Counter)

    _last: tuple[str, str, list[Member]] = ("", "", [])  # tar, key, members of the sample before

    def index(self, tar: Path) -> ShardIndex:
        """The index of a tar's samples that hold a clip; what else is in it is counted."""
        index = index_tar(tar, self.left)
        self._look_for_split(tar, index)
        return _with_clip(tar, index, self.left)

    def _look_for_split(self, tar: Path, index: ShardIndex) -> None:
        if not len(index):
            return
        before, key, members = self._last
        if key == index.key(0) and not {m.suffix for m in members} & {m.suffix for m in index.members(0)}:
            self.split.append(f"{key} in {before} and {tar.name}")
        self._last = tar.name, index.key(len(index) - 1), index.members(len(index) - 1)

    def add(self, tar: Path) -> int:
        """Count the samples of a tar, and return how many they are."""
        before = self.samples
        for sample, record in records_of(tar):
            self.samples += 1
            self.media[sample.media] += 1
            try:
                self._count(record)
            except DecodeError:
                self.unreadable += 1
        return self.samples - before

    def _count(self, record: Record | DecodeError) -> None:
        if isinstance(record, DecodeError):
            raise record
        self.labels += has_label(record)
        label = record.get("label")
        self.text_label = self.text_label or (label if isinstance(label, str) else "")
        self.captions += bool(captions_of(record))

    def notes(self) -> Iterator[str]:
        yield f"{self.captions:,} of {self.samples:,} samples have a caption, {self.labels:,} a label"
        if self.text_label:
            yield f"labels are text, such as {quoted(self.text_label)}: training needs their numbers"
        if self.unreadable:
            yield f"{self.unreadable:,} samples have a json, txt or cls that cannot be used"
        yield from self.left.sentences("indexed").values()
        if self.split:
            yield f"{len(self.split):,} samples are split over two tars, and each part stands alone: {self.split[0]}"
        if self.indexed_before:
            yield f"{self.indexed_before:,} tars had an index: what they hold besides is not said (--force says it)"


@dataclass
class _Downloads:
    """What img2dataset or video2dataset say of the downloads that the tars came from."""

    totals: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    without_stats: list[str] = field(default_factory=list)
    short: list[str] = field(default_factory=list)

    def add(self, tar: Path, samples: int) -> None:
        stats = _read_stats(tar.with_name(f"{tar.name.removesuffix('.tar')}_stats.json"))
        if stats is None:
            self.without_stats.append(tar.name)
            return
        numbers = {name: n for name, n in stats.items() if name in _STATS and type(n) is int}
        self.totals.update(numbers)
        reasons = stats.get("status_dict")
        if isinstance(reasons, dict):
            self.reasons.update({str(reason): n for reason, n in reasons.items() if type(n) is int})
        if samples < numbers.get("successes", 0):  # there may be more: a video can be cut into several clips
            self.short.append(f"{tar.name} holds {samples:,} samples of {numbers['successes']:,} that were downloaded")

    def notes(self, folder: Path) -> Iterator[str]:
        if not self.totals:
            return
        kinds = [f"{self.totals[name]:,} {name}" for name in _STATS[2:] if self.totals[name]]
        yield (
            f"{self.totals['successes']:,} of {self.totals['count']:,} downloads succeeded"
            f"{'; ' if kinds else ''}{', '.join(kinds)}"
        )
        del self.reasons["success"]
        for reason, count in self.reasons.most_common(5):
            yield f"{count:>8,}  {shown(reason, 100)}"
        if self.without_stats:
            yield (
                f"{len(self.without_stats)} tars have no _stats.json ({self.without_stats[0]}): "
                "their download may have been cut off"
            )
        tarless = [s.name for s in folder.glob("*_stats.json") if not _tar_of(s).is_file()]
        if tarless:
            yield f"{len(tarless)} shards have a _stats.json and no tar ({min(tarless)})"
        yield from self.short[:5]
        if len(self.short) > 5:
            yield f"… and {len(self.short) - 5} more tars hold less than was downloaded"


_STATS = ("count", "successes", "failed_to_download", "failed_to_resize", "failed_to_subsample")


def _read_stats(path: Path) -> dict[str, Any] | None:
    """A _stats.json, None where there is none that can be read: it is only told of, nothing depends on it."""
    try:
        stats = json.loads(read_whole(path))
    except (OSError, ValueError, RecursionError):
        return None
    return stats if isinstance(stats, dict) else None


def _tar_of(stats: Path) -> Path:
    return stats.with_name(f"{stats.name.removesuffix('_stats.json')}.tar")


def _with_clip(tar: Path, index: ShardIndex, left: LeftOut) -> ShardIndex:
    """The index without the samples that hold nothing to see; those are counted."""
    keep = np.ones(len(index), dtype=bool)
    for row in range(len(index)):
        members = {member.suffix: member for member in index.members(row)}
        sizes = {suffix: member.size for suffix, member in members.items()}
        keep[row] = left.holds_clip(index.key(row), sizes, partial(_bytes_of, tar, members))
    sizes_kept = np.diff(index.starts)
    members_kept = np.repeat(keep, sizes_kept)
    return replace(
        index,
        keys=index.keys[keep],
        starts=np.concatenate([[0], np.cumsum(sizes_kept[keep])]).astype(np.int64),
        suffixes=index.suffixes[members_kept],
        offsets=index.offsets[members_kept],
        sizes=index.sizes[members_kept],
        crcs=index.crcs[members_kept],
    )


def _bytes_of(tar: Path, members: Mapping[str, Member], suffix: str) -> bytes:
    return read_part(tar, members[suffix].offset, members[suffix].size)


def _manifest_before(folder: Path) -> Manifest | None:
    try:
        return load_manifest(folder)
    except DataError as error:
        if isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, FileNotFoundError):
            raise  # it is there: without it the set would lose its name and labels
        return None


def _has_samples(tar: Path) -> bool:
    """Whether it has an index that names some. One without is made again: it is quick, and says why there are none."""
    try:
        return len(load_index(tar)) > 0
    except DataError:
        return False


def _media(held: _Held, folder: Path) -> str:
    """The one kind of media in the set, `mixed` if there are several."""
    found = sorted(kind for kind in held.media if kind != "none")
    if not found:
        notes = "".join(f"\n  {note}" for note in held.notes())
        raise DataError(f"the tars in {folder} hold no frames, array, video or image that is read{notes}")
    return found[0] if len(found) == 1 else "mixed"

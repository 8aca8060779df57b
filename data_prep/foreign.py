"""`umt-data index`: make tars that somebody else wrote addressable, without copying them.

img2dataset and video2dataset write, for each shard: 00000.tar (000000000.jpg or .mp4, .txt with the caption, .json
with the row it came from), 00000_stats.json (how many downloads succeeded, and why others failed), 00000.parquet.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.manifest import STATE_FOLDER, tool
from data_prep.progress import progress
from data_prep.samples import samples_of
from umt_ds.data.places import absolute
from umt_ds.data.records import (
    MANIFEST,
    Manifest,
    ShardIndex,
    index_path,
    index_tar,
    load_index,
    load_manifest,
    media_of,
    shard_entries,
)
from umt_ds.data.sample_record import Record, captions_of, has_label
from umt_ds.errors import DataError, DecodeError, shown


@dataclass(frozen=True)
class Adopted:
    """The manifest of tars that were indexed, and sentences on what they hold and lack."""

    manifest: Manifest
    notes: tuple[str, ...]


def adopt(folder: Path, *, force: bool = False) -> Adopted:
    """Index every `*.tar` in `folder` and write its manifest. An interrupted run continues where it stopped.

    Samples without media (video2dataset leaves them where a download failed) are not indexed. With `force`,
    indexes and manifest are made anew from the tars as they are now; name, labels and options of a manifest
    that is there and can be read are kept.
    Raises DataError where a manifest is there already, or a tar cannot be read.
    """
    tars = sorted(folder.glob("*.tar"), key=lambda tar: tar.name)
    if not tars:
        raise DataError(f"no *.tar in {folder}", hint="give the folder in which the tars lie")
    if not force and (folder / MANIFEST).exists():
        raise DataError(f"{folder} is indexed already", hint="--force indexes again what is there now")
    if not force and (folder / STATE_FOLDER).exists():
        raise DataError(f"{folder} is a set that umt-data has not finished", hint="give its command again")
    before = _manifest_before(folder)
    held, downloads = _Held(), _Downloads()
    for tar in progress(tars, unit="tar", desc="index"):
        if force or not _has_index(tar):
            index = index_tar(tar)
            with_media = _with_media(index)
            with_media.save(index_path(tar))
            held.without_media += len(index) - len(with_media)
        samples = held.add(tar)
        downloads.add(tar, samples)
    is_ours = before is not None and before.options.get("source") != "foreign"
    manifest = Manifest(
        name=before.name if before else absolute(folder).name,
        media=_media(held.media, folder),
        shards=shard_entries(tars),
        labels=before.labels if before else (),
        options=before.options if before and is_ours else {"source": "foreign", **downloads.totals},
        tool=tool(),
    )
    manifest.save(folder)
    return Adopted(manifest, (*held.notes(), *downloads.notes(folder)))


@dataclass
class _Held:
    """What the tars hold."""

    samples: int = 0
    without_media: int = 0  # of the tars indexed just now
    captions: int = 0
    labels: int = 0
    text_label: str = ""  # the first that is no number
    unreadable: int = 0
    media: Counter[str] = field(default_factory=Counter)

    def add(self, tar: Path) -> int:
        """Count the samples of a tar, and return how many they are."""
        before = self.samples
        for sample in samples_of(tar):
            self.samples += 1
            self.media[sample.media] += 1
            try:
                self._count(sample.record())
            except DecodeError:
                self.unreadable += 1
        return self.samples - before

    def _count(self, record: Record) -> None:
        self.captions += bool(captions_of(record))
        self.labels += has_label(record)
        label = record.get("label")
        self.text_label = self.text_label or (label if isinstance(label, str) else "")

    def notes(self) -> Iterator[str]:
        yield f"{self.captions:,} of {self.samples:,} samples have a caption, {self.labels:,} a label"
        if self.text_label:
            yield f"labels are text, such as {shown(self.text_label, 40)!r}: training needs their numbers"
        if self.unreadable:
            yield f"{self.unreadable:,} samples have a json, txt or cls that cannot be used"
        if self.without_media:
            yield f"{self.without_media:,} samples without media are not indexed (downloads that failed)"


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
            yield f"{count:>8,}  {_printable(reason)}"
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
        stats = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return stats if isinstance(stats, dict) else None


def _tar_of(stats: Path) -> Path:
    return stats.with_name(f"{stats.name.removesuffix('_stats.json')}.tar")


def _printable(text: str) -> str:
    """A stranger's text, for a terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text)[:100]


def _with_media(index: ShardIndex) -> ShardIndex:
    """The index without the samples that hold nothing to see."""
    kinds = [media_of([member.suffix for member in index.members(row)]) for row in range(len(index))]
    keep = np.array(kinds) != "none"
    sizes = np.diff(index.starts)
    members = np.repeat(keep, sizes)
    return replace(
        index,
        keys=index.keys[keep],
        starts=np.concatenate([[0], np.cumsum(sizes[keep])]).astype(np.int64),
        suffixes=index.suffixes[members],
        offsets=index.offsets[members],
        sizes=index.sizes[members],
        crcs=index.crcs[members],
    )


def _manifest_before(folder: Path) -> Manifest | None:
    try:
        return load_manifest(folder)
    except DataError:
        return None


def _has_index(tar: Path) -> bool:
    try:
        load_index(tar)
    except DataError:
        return False
    return True


def _media(kinds: Counter[str], folder: Path) -> str:
    """The one kind of media in the set, `mixed` if there are several."""
    found = sorted(kind for kind in kinds if kind != "none")
    if not found:
        raise DataError(f"the tars in {folder} hold no frames, array, video or image that can be recognised")
    return found[0] if len(found) == 1 else "mixed"

"""What lies in one tar that somebody else wrote: its index, and what is told of it. For a process of its own."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from data_prep.checking.samples import records_in, records_of
from data_prep.state.statistics import Page, ShardStatistics
from umt_ds.data.shards.left_out import TEXTS, LeftOut
from umt_ds.data.shards.manifest import ShardEntry, shard_entries
from umt_ds.data.shards.records import ShardIndex, index_path, load_index, sha256_of
from umt_ds.data.shards.sample_record import Record, captions_of, has_label, is_of_record
from umt_ds.data.shards.suffixes import media_of
from umt_ds.data.shards.tars import ScannedTar, scan_tar
from umt_ds.errors import ConfigError, DataError, DecodeError


@dataclass(frozen=True)
class Edges:
    """The first and last sample of a tar: key and suffixes."""

    first: tuple[str, frozenset[str]]
    last: tuple[str, frozenset[str]]


@dataclass
class ForeignTar:
    """What a tar holds: the samples that are indexed, and what else was met."""

    entry: ShardEntry
    page: Page
    edges: Edges | None  # of a tar that was indexed just now; None too where it holds no sample
    left: LeftOut | None  # the same; of one that had an index it is not known what else it holds
    samples: int = 0
    captions: int = 0
    labels: int = 0
    text_label: str = ""  # the first that is no number
    unreadable: int = 0
    media: Counter[str] = field(default_factory=Counter)

    def count(self, record: Record | DecodeError) -> None:
        """Count what a sample says of itself."""
        try:
            if isinstance(record, DecodeError):
                raise record
            self.labels += has_label(record)
            label = record.get("label")
            self.text_label = self.text_label or (label if isinstance(label, str) else "")
            self.captions += bool(captions_of(record))
        except DecodeError:
            self.unreadable += 1


def read_tar(tar: Path, *, anew: bool, suffixes: Mapping[str, str]) -> ForeignTar:
    """Index a tar, if it has no index yet or `anew`, and count what it holds. Raises DataError where it is damaged."""
    left: LeftOut | None = None
    edges: Edges | None = None
    if anew or not _has_samples(tar):
        left = LeftOut()
        scanned = _scanned(tar, left, suffixes)
        edges, scanned = _edges(scanned.index), with_clip(scanned, left)
        scanned.index.save(index_path(tar))
        entry, records = _entry(tar, scanned), records_in(tar, scanned)
    else:
        entry, records = shard_entries([tar])[0], records_of(tar)
    counted = ShardStatistics()
    for sample, record in records:
        counted.add(sample.key, sample.sizes, record, sample.array_start)
    found = ForeignTar(entry, counted.page(entry.sha256), edges, left)
    for sample, record in records:
        found.samples += 1
        found.media[sample.media] += 1
        found.count(record)
    return found


def _scanned(tar: Path, left: LeftOut, suffixes: Mapping[str, str]) -> ScannedTar:
    """A tar read once, with the suffixes that are read."""

    def is_text(suffix: str) -> bool:  # also those of samples that are called `5` in `v_1.5.json`
        return is_of_record(_meaning(suffix, suffixes).rpartition(".")[2])

    scanned = scan_tar(tar, left, is_text=is_text)
    texts = ({_meaning(suffix, suffixes): data for suffix, data in text.items()} for text in scanned.texts)
    return replace(scanned, index=_renamed(scanned.index, suffixes, tar), texts=tuple(texts))


def _entry(tar: Path, scanned: ScannedTar) -> ShardEntry:
    """What the manifest says of a tar whose index is written."""
    index = scanned.index
    return ShardEntry(tar.name, len(index), index.tar_size, scanned.sha256, sha256_of(index_path(tar)))


def _has_samples(tar: Path) -> bool:
    """Whether it has an index that names some. One without is made again: it is quick, and says why there are none."""
    try:
        return len(load_index(tar)) > 0
    except DataError:
        return False


def _edges(index: ShardIndex) -> Edges | None:
    if not len(index):
        return None
    first, last = ((index.key(row), frozenset(m.suffix for m in index.members(row))) for row in (0, len(index) - 1))
    return Edges(first, last)


def with_clip(scanned: ScannedTar, left: LeftOut) -> ScannedTar:
    """Without the samples that hold nothing to see; those are counted in `left`."""
    index = scanned.index
    keep = np.ones(len(index), dtype=bool)
    for row in range(len(index)):
        sizes = {member.suffix: member.size for member in index.members(row)}
        keep[row] = left.holds_clip(index.key(row), sizes, scanned.texts[row].__getitem__)
    sizes_kept = np.diff(index.starts)
    members_kept = np.repeat(keep, sizes_kept)
    kept = replace(
        index,
        keys=index.keys[keep],
        starts=np.concatenate([[0], np.cumsum(sizes_kept[keep])]).astype(np.int64),
        suffixes=index.suffixes[members_kept],
        offsets=index.offsets[members_kept],
        sizes=index.sizes[members_kept],
        crcs=index.crcs[members_kept],
    )
    texts = tuple(text for text, stays in zip(scanned.texts, keep, strict=True) if stays)
    return replace(scanned, index=kept, texts=texts)


# --- what suffixes mean


def suffixes_meant(given: Sequence[str]) -> dict[str, str]:
    """What `caption=txt` and `frame_*.jpg=*.jpg` say: the suffix in the tars, and the one that is read; * is a number.

    Raises ConfigError for what says nothing, or names a suffix that is not read.
    """
    meant: dict[str, str] = {}
    for one in given:
        old, _, new = (part.strip().removeprefix(".").lower() for part in one.partition("="))
        if not old or not new or old.count("*") != new.count("*") or old.count("*") > 1:
            raise ConfigError(
                f"--suffix {one!r} does not say what a suffix means",
                hint="as caption=txt, or frame_*.jpg=*.jpg with * for the number of a frame",
            )
        if new not in TEXTS and media_of([new.replace("*", "0")]) == "none":
            raise ConfigError(
                f"--suffix {one!r}: .{new} is not read",
                hint=f"{', '.join(TEXTS)} hold what is said of a clip; mp4, jpg, npy, *.jpg and others the clip",
            )
        if meant.setdefault(old, new) != new:
            raise ConfigError(
                f"--suffix says two things of .{old}: {meant[old]} and {new}", hint="a suffix means one thing"
            )
    return meant


def _renamed(index: ShardIndex, suffixes: Mapping[str, str], tar: Path) -> ShardIndex:
    """The index with the suffixes that are read. Raises DataError where two files of a sample become one."""
    if not suffixes or not len(index):
        return index
    there, which = np.unique(index.suffixes, return_inverse=True)
    meant = [_meaning(suffix.decode(), suffixes).encode() for suffix in there.tolist()]
    names, number = np.unique(np.array(meant, dtype=np.bytes_), return_inverse=True)
    rows = np.repeat(np.arange(len(index)), np.diff(index.starts))
    pairs, first = np.unique(rows * len(names) + number[which], return_index=True)
    if len(pairs) < len(rows):
        again = int(np.setdiff1d(np.arange(len(rows)), first)[0])
        raise DataError(
            f"{tar}: by --suffix, sample {index.key(int(rows[again]))!r} has two files "
            f".{names[number[which[again]]].decode()}",
            hint="say of one of them only what it means",
        )
    return replace(index, suffixes=names[number[which]])


def _meaning(suffix: str, suffixes: Mapping[str, str]) -> str:
    for old, new in suffixes.items():
        if match := re.fullmatch(re.escape(old).replace(r"\*", r"(\d+)"), suffix):
            return new.replace("*", match[1]) if "*" in new else new
    return suffix

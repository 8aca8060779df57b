"""`umt-data verify`: is every byte of a set what its manifest says, and do the frames decode?"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.decode import evenly_spread
from data_prep.progress import progress
from data_prep.samples import StoredSample, samples_of
from umt_ds.data.records import (
    ShardEntry,
    ShardIndex,
    index_path,
    load_index,
    load_manifest,
    read_members,
    sha256_of,
)
from umt_ds.errors import DataError


@dataclass
class Report:
    """What was checked, and each fault as (kind, where and what)."""

    shards: int = 0
    samples: int = 0
    decoded: int = 0
    faults: list[tuple[str, str]] = field(default_factory=list)

    def add(self, kind: str, what: object) -> None:
        self.faults.append((kind, str(what).splitlines()[0]))

    def table(self, *, longest: int = 20) -> str:
        """The result as text: faults by kind, then the first of them in full."""
        checked = f"{self.shards:,} shards, {self.samples:,} samples, frames of {self.decoded:,} decoded"
        if not self.faults:
            return f"{checked}: all good"
        kinds = Counter(kind for kind, _ in self.faults)
        lines = [f"{checked}: {len(self.faults):,} faults", ""]
        lines += [f"{count:>8,}  {kind}" for kind, count in kinds.most_common()]
        lines += ["", *(f"{kind}: {what}" for kind, what in self.faults[:longest])]
        if len(self.faults) > longest:
            lines.append(f"… and {len(self.faults) - longest:,} more")
        return "\n".join(lines)


def verify(folder: Path, *, every: int = 10, frames: int = 3) -> Report:
    """Check sizes, hashes, index and json of each shard, and decode `frames` of each `every`-th sample.

    Raises DataError where the manifest itself is missing or damaged.
    """
    manifest = load_manifest(folder)
    report = Report()
    listed = {shard.file for shard in manifest.shards}
    for tar in sorted(folder.glob("*.tar")):
        if tar.name not in listed:
            report.add("shard not in the manifest", tar.name)
    for shard in progress(manifest.shards, unit="shard", desc="verify"):
        report.shards += 1
        index = _check_files(folder / shard.file, shard, report)
        if index is not None:
            _check_samples(folder / shard.file, index, report, every=every, frames=frames)
    return report


def _check_files(tar: Path, shard: ShardEntry, report: Report) -> ShardIndex | None:
    """Tar and index as files; the index, if the samples can be looked at."""
    try:
        index = load_index(tar)
    except DataError as error:
        report.add("shard or index missing or mismatched", error)
        return None
    if tar.stat().st_size != shard.bytes:
        report.add("size differs from the manifest", f"{tar.name}: {tar.stat().st_size}, not {shard.bytes} bytes")
    elif sha256_of(tar) != shard.sha256:
        report.add("sha256 differs from the manifest", tar.name)
    if sha256_of(index_path(tar)) != shard.index_sha256:
        report.add("index sha256 differs from the manifest", index_path(tar).name)
    if len(index) != shard.samples:
        report.add("count differs from the manifest", f"{tar.name}: {len(index)}, not {shard.samples} samples")
    return index


def _check_samples(tar: Path, index: ShardIndex, report: Report, *, every: int, frames: int) -> None:
    for number, sample in enumerate(samples_of(tar, index)):
        report.samples += 1
        where = f"{tar.name} {sample.key}"
        try:
            for member in sample.members:
                read_members(tar, [member])
        except DataError as error:
            report.add("member damaged (CRC)", f"{where}: {error}")
            continue
        _check_content(sample, where, report, decode=number % every == 0, frames=frames)


def _check_content(sample: StoredSample, where: str, report: Report, *, decode: bool, frames: int) -> None:
    try:
        sample.record()
    except DataError as error:
        report.add("json damaged", f"{where}: {error}")
    if decode:
        try:
            sample.pictures(lambda count: evenly_spread(count, frames))
            report.decoded += 1
        except DataError as error:
            report.add("frames cannot be decoded", f"{where}: {error}")

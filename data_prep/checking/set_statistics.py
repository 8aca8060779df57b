"""Statistics of a finished set, a page a shard: from its file, or counted from its tars where it has none."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

from data_prep.checking.samples import each_shard, records_of
from data_prep.engines import WorkerFailure
from data_prep.state.done import PAGES
from data_prep.state.plan import Plan
from data_prep.state.statistics import (
    STATISTICS,
    Page,
    ShardStatistics,
    Statistics,
    parse_page,
    write_statistics,
)
from umt_ds.data.shards.manifest import Manifest, SetFile, ShardEntry
from umt_ds.data.shards.node_index import set_file, set_file_of
from umt_ds.data.shards.storage import kind_of, publish, read_files, scratch_for, sizes_in
from umt_ds.errors import DataError

_PAGES_AT_ONCE = 256  # of a set in the making: some megabytes


def pages_of(folder: Path, manifest: Manifest, *, workers: int = 1) -> Iterator[tuple[ShardEntry, Page]]:
    """The statistics of each shard of a set that has shards of its own, in their order. Nothing of a tar is read where
    the set has the file; else each tar is, by `workers` processes.

    Raises DataError where the file is damaged or of another set; where there is none, if a shard is.
    """
    stored = open_statistics(folder, manifest)
    if stored is None:
        yield from _counted(folder, workers=workers)
        return
    for shard, entry in enumerate(manifest.shards):
        yield entry, stored.page(shard)


def open_statistics(folder: Path, manifest: Manifest) -> Statistics | None:
    """The file of a set, mapped; None where the set has none. Every byte is looked at.

    Raises DataError where it is missing, damaged or of another set.
    """
    if manifest.statistics is None:
        return None
    hint = f"`umt-data upgrade {folder}` makes it again"
    path = set_file(folder, STATISTICS, manifest.statistics, hint=hint, whole=True)
    stored = Statistics(path, hint=hint)
    if len(stored) < len(manifest.shards):  # there are more where the manifest is that of an earlier version
        what = f"it has {len(stored)} shards, the manifest {len(manifest.shards)}"
        raise DataError(f"{path} does not fit its set: {what}", hint=hint)
    for shard, entry in enumerate(manifest.shards):
        if not _is_of(stored.page(shard), entry):
            raise DataError(f"{path} does not fit its set: it does not tell of {entry.file}", hint=hint)
    return stored


def count_tar(tar: Path) -> ShardStatistics:
    """The statistics of the samples in a tar, by their records. Raises DataError where it is damaged."""
    counted = ShardStatistics()
    for sample, record in records_of(tar):
        counted.add(sample.key, sample.sizes, record, sample.array_start)
    return counted


def make_statistics(into: Path, pages: Iterable[Page]) -> SetFile:
    """Write the file of a set into the local folder `into`, for whoever moves it from there, and what its manifest says
    of it."""
    write_statistics(into / STATISTICS, pages)
    return set_file_of(into / STATISTICS)


def join_statistics(plan: Plan, entries: Mapping[int, ShardEntry], into: Path) -> SetFile:
    """`make_statistics` of a set whose shards are made, of the pages that were counted while they were written; of a
    shard without one, from its tar."""
    return make_statistics(into, _kept(plan, entries))


def add_statistics(folder: Path, *, workers: int = 1) -> SetFile:
    """Write the file of a set of an earlier version: each tar is read once. Raises DataError where one is damaged."""
    with closing(_counted(folder, workers=workers)) as pages, scratch_for(folder) as scratch:
        told = make_statistics(scratch, (page for _, page in pages))
        publish(scratch / STATISTICS, folder / STATISTICS)
    return told


def _kept(plan: Plan, entries: Mapping[int, ShardEntry]) -> Iterator[Page]:
    shards, folder = list(entries), plan.state / PAGES
    there = sizes_in(folder) if kind_of(folder) else {}  # an earlier version began the set
    for first in range(0, len(shards), _PAGES_AT_ONCE):
        files = {shard: plan.files(shard).statistics for shard in shards[first : first + _PAGES_AT_ONCE]}
        data = read_files(folder, [path.name for path in files.values() if path.name in there])
        for shard, path in files.items():
            page = parse_page(data[path.name], path) if path.name in data else None
            if page is None or not _is_of(page, entries[shard]):
                page = count_tar(plan.tar(shard)).page(entries[shard].sha256)
            yield page


def _counted(folder: Path, *, workers: int) -> Generator[tuple[ShardEntry, Page], None, None]:
    for shard, counted in each_shard(count_tar, folder, desc="stats", workers=workers):
        if isinstance(counted, WorkerFailure):
            raise DataError(f"{shard.file} could not be read: {counted.reason}", hint="run `umt-data verify`")
        yield shard, counted.page(shard.sha256)


def _is_of(page: Page, entry: ShardEntry) -> bool:
    return page.tar_sha256 == entry.sha256 and len(page) == entry.samples

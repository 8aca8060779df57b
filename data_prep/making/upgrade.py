"""`umt-data upgrade`: the files of the whole set for one that an earlier version made, or whose files are damaged."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from data_prep.checking.set_files import faults_of_files
from data_prep.checking.set_statistics import add_statistics
from data_prep.state.claim import claim
from data_prep.state.plan import STATE_FOLDER
from data_prep.state.statistics import STATISTICS
from umt_ds.data.shards.manifest import load_shards
from umt_ds.data.shards.node_index import publish_index
from umt_ds.data.shards.set_index import INDEX
from umt_ds.data.shards.storage import is_local, kind_of


def missing_files(folder: Path) -> tuple[str, ...]:
    """The files of the whole set that a set lacks: an earlier version did not write them, or they cannot be used.
    Raises DataError for a table, which has none."""
    manifest = load_shards(folder)
    faults = faults_of_files(folder, manifest, by_size=not is_local(folder))  # a store would send gigabytes
    told = {INDEX: manifest.index, STATISTICS: manifest.statistics}
    return tuple(name for name, file in told.items() if file is None or name in faults)


def upgrade(folder: Path, *, workers: int = 1) -> tuple[str, ...]:
    """Give a set the files of the whole set that it lacks; their names.

    For its statistics each tar is read once, by `workers` processes. Its shards, and with them its fingerprint, stay as
    they are. Raises DataError where an index beside a shard is missing, or is not the one of the manifest; where
    another command works in the set.
    """
    load_shards(folder)  # a folder without a set stays as it is
    state = folder / STATE_FOLDER
    with claim(state, alone=True) if kind_of(state) else nullcontext():
        missing = missing_files(folder)
        if INDEX in missing:
            manifest = load_shards(folder)
            replace(manifest, index=publish_index(folder, manifest.shards)).save(folder)
        if STATISTICS in missing:
            statistics = add_statistics(folder, workers=workers)
            replace(load_shards(folder), statistics=statistics).save(folder)
    return missing

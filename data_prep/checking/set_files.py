"""The files that tell of all shards of a set, `index.arrow` and `statistics.arrow`: can they be used?"""

from __future__ import annotations

from pathlib import Path

from data_prep.checking.set_statistics import open_statistics
from data_prep.state.statistics import STATISTICS
from umt_ds.data.shards.fetch import size_of
from umt_ds.data.shards.manifest import Manifest
from umt_ds.data.shards.node_index import open_index
from umt_ds.data.shards.records import sha256_of
from umt_ds.data.shards.set_index import INDEX
from umt_ds.data.shards.storage import has_file
from umt_ds.errors import DataError


def faults_of_files(folder: Path, manifest: Manifest, *, by_size: bool = False) -> dict[str, str]:
    """What is wrong with each file that the manifest names, by its name: it is missing, another than the manifest says,
    or of a version that this one does not read. by_size: nothing is read but its size."""
    opens = {INDEX: (manifest.index, open_index), STATISTICS: (manifest.statistics, open_statistics)}
    faults: dict[str, str] = {}
    for name, (told, open_file) in opens.items():
        if told is None:
            continue
        if not has_file(folder / name):
            faults[name] = f"{name} is not there"
        elif size_of(folder / name) != told.bytes or not (by_size or sha256_of(folder / name) == told.sha256):
            faults[name] = f"{name} is not the file that the manifest names"
        elif not by_size:
            try:
                open_file(folder, manifest)
            except DataError as error:
                faults[name] = error.what
    return faults

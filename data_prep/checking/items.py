"""Is every item of a table what its manifest says: of a sample that is there, and of frames inside it?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.checking.faults import Fault, VerifyReport, of_label
from data_prep.checking.samples import StoredSample, sample_of_item
from umt_ds.data.shards.items import Item
from umt_ds.data.shards.manifest import MANIFEST, Manifest
from umt_ds.data.shards.records import SampleRef
from umt_ds.data.shards.sample_record import captions_of, has_label
from umt_ds.data.shards.source import ShardSource
from umt_ds.data.shards.storage import absolute, kind_of
from umt_ds.errors import DataError, DecodeError
from umt_ds.keyed import digest64
from umt_ds.terminal import progress


def check_items(folder: Path, manifest: Manifest, report: VerifyReport) -> list[Path]:
    """Check the table in `folder`; the sets under it that are there, each once."""
    try:
        source = ShardSource(folder, max_open=1)
    except DataError as error:
        report.add("table does not fit its sets", error.what)
        places = dict.fromkeys(part.place(folder) for part in manifest.parts)
        return [place for place in places if kind_of(place / MANIFEST)]
    with closing(source):
        hashes: list[NDArray[np.uint64]] = []
        with progress(total=len(source), unit="item", desc="items") as bar:
            for shard, count in enumerate(source.counts):
                report.items += count
                for kind, what in _of_shard(source, shard, manifest, hashes):
                    report.add(kind, what)
                bar.update(count)
        for key in _repeated(source, hashes):
            report.add("key occurs twice", f"{key}: several items of {folder.name}")
        return list(dict.fromkeys(absolute(place) for place, _ in source.sets))


def _of_shard(source: ShardSource, shard: int, manifest: Manifest, hashes: list[NDArray[np.uint64]]) -> Iterator[Fault]:
    """What is wrong with the items over one shard; the hashes of their keys are added to `hashes`."""
    try:
        hashes.append(np.array([digest64(key) for key in source.keys(shard)], np.uint64))
    except DataError:  # of an item below, which is told
        hashes.append(np.empty(0, np.uint64))
    if not source.asks(shard):  # its items are samples as they are
        return
    for nth in range(source.counts[shard]):
        ref = SampleRef(shard, nth)
        try:
            item, sample = source.item(ref), sample_of_item(source, ref)
        except DataError as error:
            yield "item of a sample that is not there", error.what
            continue
        for kind, what in _of_item(item, sample, manifest):
            yield kind, f"{sample.tar.name} {sample.key}: {what}"


def _of_item(item: Item, sample: StoredSample, manifest: Manifest) -> Iterator[Fault]:
    if item.frames is not None:
        first, last = item.frames
        stored = _num_stored(sample)
        if not 0 <= first <= last or (stored is not None and last >= stored):
            yield "frames outside the sample", f"{first} to {last} of {stored}"
    if manifest.labels and has_label(item.fields):
        yield from of_label(item.fields, manifest.labels)
    yield from _of_caption(item.fields)


def _of_caption(fields: Mapping[str, Any]) -> Iterator[Fault]:
    try:
        captions_of(fields)
    except DecodeError as error:
        yield "caption is no text", error.what


def _num_stored(sample: StoredSample) -> int | None:
    """None where it is not said, or cannot be read: the shards are looked at for themselves."""
    try:
        return sample.num_frames({} if sample.media in ("frames", "image") else sample.record())
    except DataError:
        return None


def _repeated(source: ShardSource, hashes: list[NDArray[np.uint64]]) -> list[str]:
    """The keys that several items have. Hashes say which could: eight bytes for each of ten million."""
    values, counts = np.unique(np.concatenate([np.empty(0, np.uint64), *hashes]), return_counts=True)
    repeated = values[counts > 1]
    places = [shard for shard, own in enumerate(hashes) if np.isin(own, repeated).any()]
    keys = Counter(key for shard in places for key in source.keys(shard))
    return sorted(key for key, count in keys.items() if count > 1)

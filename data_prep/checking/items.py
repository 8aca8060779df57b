"""Is every item of a table what its manifest says: of a sample that is there, and of frames inside it?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.checking.faults import Fault, VerifyReport, of_label
from data_prep.checking.samples import StoredSample, sample_of_item
from umt_ds.data.shards.items import Item
from umt_ds.data.shards.manifest import Manifest
from umt_ds.data.shards.records import SampleRef
from umt_ds.data.shards.sample_record import captions_of, has_label
from umt_ds.data.shards.source import ShardSource
from umt_ds.data.shards.storage import absolute, as_path, is_url
from umt_ds.errors import DataError, DecodeError
from umt_ds.keyed import digest64
from umt_ds.terminal import progress


def check_items(folder: Path, manifest: Manifest, report: VerifyReport) -> list[Path]:
    """Check the table in `folder`; the sets under it, each once."""
    try:
        source = ShardSource(folder, max_open=1)
    except DataError as error:
        report.add("table does not fit its sets", error.what)
        parts = {part.set: as_path(part.set) if is_url(part.set) else folder / part.set for part in manifest.parts}
        return list(dict.fromkeys(map(absolute, parts.values())))
    with closing(source):
        hashes: list[int] = []
        for ref in progress(source.refs(), total=len(source), unit="item", desc="items"):
            report.items += 1
            for kind, what in _of_ref(source, ref, manifest, hashes):
                report.add(kind, what)
        for key in _repeated(source, hashes):
            report.add("key occurs twice", f"{key}: two items of {folder.name}")
        return list(dict.fromkeys(absolute(place) for place, _ in source.sets))


def _of_ref(source: ShardSource, ref: SampleRef, manifest: Manifest, hashes: list[int]) -> Iterator[Fault]:
    """What is wrong with one item; the hash of its key is added to `hashes`."""
    try:
        item = source.item(ref)
        sample = sample_of_item(source, ref)
    except DataError as error:
        hashes.append(-1)
        yield "item of a sample that is not there", error.what
        return
    hashes.append(digest64(sample.key) >> 1)
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


def _repeated(source: ShardSource, hashes: list[int]) -> list[str]:
    """The keys that several items have."""
    values, counts = np.unique(np.array(hashes, np.int64), return_counts=True)
    repeated = set(values[(counts > 1) & (values >= 0)].tolist())
    if not repeated:
        return []
    keys = [source.key(ref) for ref, digest in zip(source.refs(), hashes, strict=True) if digest in repeated]
    return sorted({key for key in keys if keys.count(key) > 1})

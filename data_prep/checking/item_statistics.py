"""Statistics of what a run counts: the samples of a set, or the items of a table over sets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.checking.set_statistics import pages_of
from data_prep.state.statistics import Columns, Page, of_fields
from umt_ds.data.shards.items import Item
from umt_ds.data.shards.manifest import Manifest
from umt_ds.data.shards.records import SampleRef
from umt_ds.data.shards.source import ShardSource
from umt_ds.data.shards.storage import absolute


@dataclass(frozen=True)
class ItemsOfShard:
    """The items over one shard, in their order, and the statistics of its samples.

    place: the shard, the same for two tables over it. rows: the sample of each item. items: none where they say nothing
    of their own.
    """

    place: tuple[Path, str]
    samples: Page
    rows: NDArray[np.int64]
    items: tuple[Item, ...]

    def columns(self, labels: tuple[str, ...]) -> Columns:
        """What each item says: its own fields stand in the place of those of its sample. labels: names of classes."""
        columns = self.samples.rows(self.rows)
        said = [_of_item(item, labels) for item in self.items]
        return columns.changed(said) if any(said) else columns


def items_by_shard(folder: Path, *, workers: int = 1) -> Iterator[ItemsOfShard]:
    """The items of a table, shard by shard in the order in which a run counts them. Raises DataError where one of its
    sets is missing, damaged or another than it was."""
    with closing(ShardSource(folder, max_open=1)) as source:
        pages = (page for place, manifest in source.sets for page in _placed(place, manifest, workers))
        for shard, (count, (place, page)) in enumerate(zip(source.counts, pages, strict=True)):
            own = range(count) if source.asks(shard) else ()
            items = tuple(source.item(SampleRef(shard, nth)) for nth in own)
            yield ItemsOfShard(place, page, source.rows(shard), items)


def columns_of(folder: Path, manifest: Manifest, *, workers: int = 1) -> Iterator[Columns]:
    """The statistics of what a run counts, samples or items, shard by shard, in the order in which it counts them.

    Raises what `pages_of` and `items_by_shard` raise.
    """
    if manifest.parts:
        yield from (of.columns(manifest.labels) for of in items_by_shard(folder, workers=workers))
    else:
        yield from (page for _, page in pages_of(folder, manifest, workers=workers))


def _placed(folder: Path, manifest: Manifest, workers: int) -> Iterator[tuple[tuple[Path, str], Page]]:
    for entry, page in pages_of(folder, manifest, workers=workers):
        yield (absolute(folder), entry.file), page


def _of_item(item: Item, labels: tuple[str, ...]) -> dict[str, Any]:
    """The columns in which an item differs from its sample."""
    said = of_fields(item.fields)
    if item.key is not None:
        said["key"] = item.key
    if item.frames is not None:
        said["frames_stored"] = item.frames[1] - item.frames[0] + 1
    label = said.get("label")
    if label is not None and said["label_name"] is None and 0 <= label < len(labels):
        said["label_name"] = labels[label]
    return said

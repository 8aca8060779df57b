"""What commands show on a terminal: a bar while clips are read, and tables. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from umt_ds.data.records import load_manifest

if TYPE_CHECKING:
    from umt_ds.data.once import LabelledClips


def with_bar(clips: Iterator[LabelledClips], shards: Path, *, limit: int | None, name: str) -> Iterator[LabelledClips]:
    """The same batches of `shards`, `limit` clips at most in all, counted by a bar on stderr."""
    total = load_manifest(shards).num_samples
    with tqdm(total=total if limit is None else min(total, limit), unit="clip", desc=name) as bar:
        for batch in clips:
            yield batch
            bar.update(len(batch.keys))


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines; the first cell of each row is its name, the others end below one another."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        row[0].ljust(widths[0])
        + "".join(cell.rjust(width + 3) for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    )

"""A bar on stderr while the clips of a set are read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from umt_ds.data.evaluation import EvalBatch
from umt_ds.data.shards.records import load_manifest


def with_bar(clips: Iterator[EvalBatch], shards: Path, *, limit: int | None, name: str) -> Iterator[EvalBatch]:
    """The same batches of `shards`, `limit` clips at most in all, counted by a bar on stderr."""
    total = load_manifest(shards).num_samples
    with tqdm(total=total if limit is None else min(total, limit), unit="clip", desc=name) as bar:
        for batch in clips:
            yield batch
            bar.update(len(batch.keys))

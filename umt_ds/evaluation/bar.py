"""A bar on stderr while the clips of a set are read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from umt_ds.data.evaluation import EvaluationSet
from umt_ds.evaluation.evaluator import Beat
from umt_ds.terminal import progress


@contextmanager
def bar_of(items: EvaluationSet, *, name: str) -> Iterator[Beat]:
    """A bar over the clips of a set; call what it gives after each batch."""
    with progress(total=len(items), unit="clip", desc=name) as bar:

        def beat() -> None:
            bar.update(min(items.batch_size, len(items) - bar.n))

        yield beat

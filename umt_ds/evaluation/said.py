"""What an evaluator says beside its numbers: the protocol by which they can be repeated, and warnings, each once."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from umt_ds.data.clip_request import EvaluationView
from umt_ds.data.evaluation import EvaluationSet, LeftOut
from umt_ds.distributed.collectives import is_first_rank
from umt_ds.errors import some
from umt_ds.evaluation.encode import EncodedSet
from umt_ds.evaluation.published import gaps, published_split

log = logging.getLogger("umt_ds")

VIEWS: Mapping[EvaluationView, str] = {
    "centre": "the largest square in the centre, resized",
    "stretched": "the whole frame, resized to a square out of its proportions",
    "testing": "short side resized as published, then squares along the long side (one: its centre)",
}


class Said:
    """Remembers what was said: an evaluation is repeated many times in a run, its warnings are not."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def warn(self, text: str) -> None:
        """Log a warning on the first rank, unless it was given before."""
        if text not in self._said and is_first_rank():
            log.warning("%s", text)
        self._said.add(text)


def say_left_out(said: Said, name: str, items: EvaluationSet, left_out: Sequence[LeftOut]) -> None:
    """Warnings that a score is partial: with the first items that are missing, and how its set differs from the
    published split that it is of."""
    if left_out:
        which = some((f"{one.key}: {one.reason}" for one in left_out), 3, each=160)
        said.warn(f"evaluation.{name}: {len(left_out)} of {len(items)} clips of {items.shards} are left out ({which})")
    for gap in gaps(_which(items)):
        said.warn(f"evaluation.{name}: {items.shards} is not as published: {gap}")


def protocol_of(items: EvaluationSet, encoded: EncodedSet, *, precision: str) -> dict[str, Any]:
    """What one must know of a set to score it again in the same way; JSON types."""
    request, stored = items.request, encoded.stored_frames
    return {
        **set_protocol(items, encoded),
        "frames": request.frames.text,
        "num_frames": request.frames.count,
        "stored_frames": None if stored is None else list(stored),
        "view": VIEWS[request.view],
        "side": request.side,
        "antialias": request.antialias,
        "batch": items.batch_size,
        "precision": precision,
    }


def set_protocol(items: EvaluationSet, encoded: EncodedSet) -> dict[str, Any]:
    """Which clips of which set, and of which published split."""
    return {**_which(items), "items": len(encoded.items), "left_out": len(encoded.left_out)}


def _which(items: EvaluationSet) -> dict[str, Any]:
    return {
        "shards": str(items.shards),
        "fingerprint": items.manifest.fingerprint,
        "samples": items.manifest.num_samples,
        "limit": items.limit,
        **published_split(items.manifest),
    }

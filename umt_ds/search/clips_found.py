"""The frames of clips that were found, from the set or the video file that they were embedded from.

Shapes: T frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from umt_ds.data.clip_request import ClipRequest
from umt_ds.data.evaluation import EvaluationSet
from umt_ds.data.shards.storage import as_path
from umt_ds.data.video_clips import clip_of_video
from umt_ds.errors import DataError, UmtError, shown
from umt_ds.search.hits import Hit


def frames_of(hits: Sequence[Hit], request: ClipRequest) -> Iterator[Tensor | UmtError]:
    """What the model saw of each: u8 [T,side,side,3], or why it is not there any more."""
    sets: dict[str, EvaluationSet] = {}
    pictures = ClipRequest(request.frames, request.side, request.view, request.antialias)
    for hit in hits:
        try:
            yield _of_set(hit, hit.set, pictures, sets) if hit.set is not None else _of_video(hit, pictures)
        except UmtError as error:
            yield error


def _of_set(hit: Hit, folder: str, request: ClipRequest, sets: dict[str, EvaluationSet]) -> Tensor:
    if folder not in sets:
        sets[folder] = EvaluationSet(as_path(folder), request, batch_size=1)
    assert hit.item is not None, "an index says the number of an item of a set"
    items = sets[folder]
    if hit.item >= len(items):
        raise DataError(f"{folder} has no item {hit.item} any more: it has changed since it was embedded")
    if (key := items.key_of(hit.item)) != hit.key:  # of a set that grew, items have other numbers
        raise DataError(f"item {hit.item} of {folder} is now {shown(key)}: it has changed since it was embedded")
    return items.views_of([hit.item])[hit.item][0]


def _of_video(hit: Hit, request: ClipRequest) -> Tensor:
    if hit.file is None or hit.start_s is None or hit.end_s is None:
        raise DataError(f"{hit.key}: the index does not say where its video lies")
    try:
        return clip_of_video(Path(hit.file), request, span_s=(hit.start_s, hit.end_s)).views[0]
    except OSError as error:
        raise DataError(f"{hit.file} cannot be read: {error.strerror or error}") from error

"""Every sample of a source once, in manifest order and without chance: for probes and evaluation."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from umt_ds.data.clips import read_clip
from umt_ds.data.order.frames import middle
from umt_ds.data.pixels.augment import centre_view, stretch_view
from umt_ds.data.shards.records import SampleRef
from umt_ds.data.shards.sample_record import Clean, captions_of, label_of
from umt_ds.data.shards.source import ShardSource
from umt_ds.errors import DataError, DecodeError

log = logging.getLogger(__name__)


# How a clip becomes a square: the centre of it (recognition), or all of it, out of shape (retrieval).
# Source: METHOD.md, "Crops: stage 2".
EvaluationView = Literal["centre", "stretched"]


@dataclass(frozen=True)
class EvalBatch:
    """B clips with their names, labels and captions."""

    keys: tuple[str, ...]  # B
    pixels: Tensor  # u8 [B,T,side,side,3]
    labels: dict[str, Tensor]  # field → i64 [B]; -1 where a sample has none
    captions: tuple[tuple[str, ...], ...]  # B times the captions of a clip, cleaned; empty where none were asked for


@dataclass(frozen=True)
class ClipRequest:
    """Of each clip."""

    num_frames: int
    side: int
    view: EvaluationView
    antialias: bool
    label_fields: Sequence[str]
    caption_field: str | None
    clean: Clean


@dataclass(frozen=True)
class EvalClip:
    key: str
    view: NDArray[np.uint8]  # [T,side,side,3]
    labels: tuple[int, ...]
    captions: tuple[str, ...]


def iterate_once(
    folder: Path,
    *,
    num_frames: int,
    side: int,
    batch_size: int,
    view: EvaluationView = "centre",
    antialias: bool = True,
    label_fields: Sequence[str] = (),
    caption_field: str | None = None,
    clean: Clean = str.strip,
    limit: int | None = None,
    max_bad_rate: float = 0.01,
) -> Iterator[EvalBatch]:
    """All clips of a shard folder, or the first `limit`, `batch_size` at a time (the last batch may be smaller).

    The centre frame of each of `num_frames` segments, as `view` says. A clip that cannot be decoded, or has no caption
    that says anything though they were asked for, is left out and logged: nothing is put in its place, it would be
    scored under a wrong name. Raises DataError when more than `max_bad_rate` of the source is bad.
    """
    with closing(ShardSource(folder, max_open=2)) as source:
        wanted = ClipRequest(num_frames, side, view, antialias, label_fields, caption_field, clean)
        clips = islice(_good_clips(source, wanted, max_bad_rate), limit)
        while some := list(islice(clips, batch_size)):
            yield _stack(some, label_fields)


def _good_clips(source: ShardSource, wanted: ClipRequest, max_bad_rate: float) -> Iterator[EvalClip]:
    bad = 0
    for ref in source.refs():
        try:
            one = _read(source, ref, wanted)
        except DecodeError as error:
            bad += 1
            log.warning("bad sample %s in %s: left out (%s)", source.key(ref), source.folder, error.what)
            if bad > max_bad_rate * len(source):
                raise DataError(
                    f"{source.folder}: {bad} of {len(source)} samples are bad",
                    hint=f"run `umt-data verify {source.folder}`",
                ) from error
        else:
            yield one


def _read(source: ShardSource, ref: SampleRef, wanted: ClipRequest) -> EvalClip:
    with_record = bool(wanted.label_fields) or wanted.caption_field is not None
    clip = read_clip(source, ref, choose=partial(middle, count=wanted.num_frames), with_record=with_record)
    labels = tuple(label_of(clip.record, field) for field in wanted.label_fields)
    captions: list[str] = []
    if wanted.caption_field is not None:
        captions = captions_of(clip.record, field=wanted.caption_field, clean=wanted.clean)
        if not captions:
            raise DecodeError(f"it has no caption in {wanted.caption_field!r}")
    see = centre_view if wanted.view == "centre" else stretch_view
    view = see(clip.frames, side=wanted.side, antialias=wanted.antialias)
    return EvalClip(clip.key, view, labels, tuple(captions))


def _stack(clips: Sequence[EvalClip], fields: Sequence[str]) -> EvalBatch:
    return EvalBatch(
        keys=tuple(clip.key for clip in clips),
        pixels=torch.from_numpy(np.stack([clip.view for clip in clips])),
        labels={field: torch.tensor([clip.labels[i] for clip in clips]) for i, field in enumerate(fields)},
        captions=tuple(clip.captions for clip in clips),
    )

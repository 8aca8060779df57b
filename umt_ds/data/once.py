"""Every sample of a source once, in manifest order and without chance: for probes and evaluation."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from umt_ds.data.augment import centre_view
from umt_ds.data.clips import label_of, read_clip
from umt_ds.data.frames import middle
from umt_ds.data.source import ShardSource
from umt_ds.errors import DataError, DecodeError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledClips:
    """B clips with their names and labels."""

    keys: tuple[str, ...]  # B
    pixels: Tensor  # u8 [B,T,side,side,3]
    labels: dict[str, Tensor]  # field → i64 [B]; -1 where a sample has none


@dataclass(frozen=True)
class _One:
    key: str
    view: NDArray[np.uint8]  # [T,side,side,3]
    labels: tuple[int, ...]


def iterate_once(
    folder: Path,
    *,
    num_frames: int,
    side: int,
    batch_size: int,
    label_fields: Sequence[str] = (),
    max_bad_rate: float = 0.01,
) -> Iterator[LabelledClips]:
    """All clips of a shard folder, `batch_size` at a time (the last batch may be smaller).

    The centre frame of each of `num_frames` segments, short side to `side`, centre crop. A clip that
    cannot be decoded is left out and logged: nothing is put in its place, it would be scored under a
    wrong name. Raises DataError when more than `max_bad_rate` of the source is bad.
    """
    with closing(ShardSource(folder, max_open=2)) as source:
        clips = _good_clips(source, num_frames, side, label_fields, max_bad_rate)
        while some := list(islice(clips, batch_size)):
            yield _stack(some, label_fields)


def _good_clips(
    source: ShardSource, num_frames: int, side: int, fields: Sequence[str], max_bad_rate: float
) -> Iterator[_One]:
    bad = 0
    for ref in source.refs():
        try:
            clip = read_clip(source, ref, choose=partial(middle, count=num_frames), with_record=bool(fields))
            labels = tuple(label_of(clip.record, field) for field in fields)
        except DecodeError as error:
            bad += 1
            log.warning("bad sample %s in %s: left out (%s)", source.key(ref), source.folder, error.what)
            if bad > max_bad_rate * len(source):
                raise DataError(
                    f"{source.folder}: {bad} of {len(source)} samples are bad",
                    hint=f"run `umt-data verify {source.folder}`",
                ) from error
        else:
            yield _One(clip.key, centre_view(clip.frames, side=side), labels)


def _stack(clips: Sequence[_One], fields: Sequence[str]) -> LabelledClips:
    return LabelledClips(
        keys=tuple(clip.key for clip in clips),
        pixels=torch.from_numpy(np.stack([clip.view for clip in clips])),
        labels={field: torch.tensor([clip.labels[i] for clip in clips]) for i, field in enumerate(fields)},
    )

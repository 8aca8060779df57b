"""An evaluation set: each of its items once, in the order of the set and without chance, shared among ranks.

    batch b    items [b·B, (b+1)·B) of the set, whatever the number of ranks and workers
    turn t     of rank r is batch t·world + r; every rank has ⌈batches / world⌉ turns
    no batch   where a rank has none left, its turn has views of zeros and no item: something to put through a model
               (ZeRO stage 3 gathers weights in a forward pass, so all ranks make as many), and nothing to score

So a model sees the same batches whatever the number of ranks, and on a CPU every bit of what it says is the same.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from umt_ds.batch import Movable
from umt_ds.data.clip_request import ClipRequest
from umt_ds.data.clips import members_shown, read_clip, read_record
from umt_ds.data.order.views import FrameRule
from umt_ds.data.pipeline import WorkerPool
from umt_ds.data.pixels.decode import Frames
from umt_ds.data.shards.block_cache import BlockCache
from umt_ds.data.shards.manifest import Manifest
from umt_ds.data.shards.records import Member, SampleRef
from umt_ds.data.shards.sample_record import captions_of, label_of
from umt_ds.data.shards.source import ShardSource
from umt_ds.errors import DataError, DecodeError, shown
from umt_ds.keyed import digest64

_PREFETCH = 1  # batches that a worker builds ahead: those of training stay in memory meanwhile
_STALL_LIMIT_S = 900.0
_TRIED = 8  # items, of which one should be readable


@dataclass(frozen=True)
class LeftOut:
    """An item that could not be scored, and why."""

    key: str
    reason: str


@dataclass(frozen=True)
class ItemInfo:
    """An item that was read, without its pixels. number: its place in the set. content: a hash of its key and of the
    bytes that were read of it. stored_frames: of which some were shown; None where all that the video has count.
    video: what items of the same frames have in common: where their sample lies, and which part of it they are. group:
    what items that count as the same have in common, where a table says so."""

    number: int
    key: str
    content: int
    stored_frames: int | None
    labels: tuple[int, ...]  # in the order of `label_fields`; -1 where it has none
    captions: tuple[str, ...]  # cleaned; empty where none were asked for
    video: tuple[int, ...]
    group: str | None
    said: Any = None  # what `AlsoAsked.read` made of it


@dataclass(frozen=True)
class EvalBatch(Movable):
    """The B items of a batch that could be read, and those that could not.

    pixels: u8 [B·V,T,side,side,3], the V views of an item after another; where B is 0, an item of zeros."""

    items: tuple[ItemInfo, ...]
    pixels: Tensor
    left_out: tuple[LeftOut, ...] = ()


class EvaluationSet:
    """The items of a folder of shards, or the first `limit`, as batches.

    An item that cannot be decoded, or lacks what is asked for, is left out and named: nothing is put in its place, it
    would be scored under a wrong name. What is wrong with the folder, its disk or its store is a DataError.
    max_left_out: share of the items that may be left out, see `check`. look: see `ShardSource`.
    """

    def __init__(
        self,
        shards: Path,
        request: ClipRequest,
        *,
        batch_size: int,
        limit: int | None = None,
        max_left_out: float = 0.01,
        cache: BlockCache | None = None,
        look: bool = True,
    ) -> None:
        self.shards, self.request, self.batch_size = shards, request, batch_size
        self.limit, self._max_left_out = limit, max_left_out
        self._source = ShardSource(shards, max_open=2, cache=cache, look=look)
        size = len(self._source) if limit is None else min(limit, len(self._source))
        self._places: Sequence[int] = range(size)  # in the source, of its items

    def __len__(self) -> int:
        """Items, good and bad."""
        return len(self._places)

    def only(self, places: Sequence[int]) -> EvaluationSet:
        """Of the same set the items at these places alone (`ItemInfo.number`), in this order."""
        some = copy.copy(self)
        some._places = tuple(places)
        return some

    @property
    def manifest(self) -> Manifest:
        return self._source.manifest

    def shared_with(self, shards: Path) -> int:
        """Items that lie in another set, too: same key, same bytes. Raises DataError where one cannot be read.

        Shards that are the same as a whole need no look at their samples.
        """
        with closing(ShardSource(shards, max_open=1, look=False)) as others:
            hashes = set(others.whole_shards()) - {None}
            start = shared = 0
            own: set[tuple[bytes, bytes]] = set()
            for number, (size, whole) in enumerate(zip(self._source.counts, self._source.whole_shards(), strict=True)):
                count = max(0, min(size, len(self) - start))
                start += size
                if whole in hashes:
                    shared += count
                elif count:
                    own.update(self._source.contents(number)[:count])
            self._source.close()
            found: set[tuple[bytes, bytes]] = set()
            for number in range(len(others.counts)) if own else ():
                found |= own.intersection(others.contents(number))
        return shared + len(found)

    def shard_of(self, item: ItemInfo) -> Path:
        """The file that an item's sample lies in."""
        return self._source.tar(item.video[0])

    def key_of(self, number: int) -> str:
        """The key of the item at a place in the set. Raises DataError where its shard cannot be read."""
        return self._source.key(self._source.ref(number))

    def turns(self, world: int) -> int:
        """Batches that each of `world` ranks has, those without an item among them."""
        num_batches = -(-len(self) // self.batch_size)
        return -(-num_batches // world)

    def batches(self, *, rank: int = 0, world: int = 1, num_workers: int = 0) -> Generator[EvalBatch]:
        """The batches of a rank, one for each of its turns. Workers end with the iterator: close it.

        Raises DataError or MachineError, on this rank alone.
        """
        turns = self.turns(world)
        pool = WorkerPool(
            lambda turn: self.batch(turn * world + rank),
            first=0,
            num_workers=min(num_workers, turns),
            prefetch=_PREFETCH,
            stall_limit_s=_STALL_LIMIT_S,
        )
        try:
            for _ in range(turns):
                yield pool.take()
        finally:
            pool.close()
            self._source.close()

    def batch(self, number: int) -> EvalBatch:
        """Batch `number` of the set; without items behind its end."""
        start = number * self.batch_size
        refs = [(place, self._source.ref(place)) for place in self._places[start : start + self.batch_size]]
        self._source.prefetch((ref, self._shown(ref)) for _, ref in refs)
        items: list[ItemInfo] = []
        views: list[Frames] = []
        left_out: list[LeftOut] = []
        for place, ref in refs:
            try:
                item, view = self._read(place, ref)
            except DecodeError as error:
                left_out.append(LeftOut(self._source.key(ref), error.what))
            else:
                items.append(item)
                views.append(view)
        pixels = torch.from_numpy(np.concatenate(views)) if views else self._zeros()
        return EvalBatch(tuple(items), pixels, tuple(left_out))

    def views_of(self, numbers: Collection[int]) -> dict[int, Tensor]:
        """The views of some items, by their place in the set: u8 [V,T,side,side,3]. Raises DataError where one cannot
        be read."""
        try:
            return {place: torch.from_numpy(self._read(place, self._source.ref(place))[1]) for place in numbers}
        finally:
            self._source.close()

    def try_first(self) -> None:
        """Raises DataError where the first item that can be read says that the set is not what is asked for: without
        the frames of a published rule, or with a class that the model does not have."""
        try:
            for place in self._places[:_TRIED]:
                with suppress(DecodeError):
                    self._read(place, self._source.ref(place))
                    return
        finally:
            self._source.close()

    def try_records(self) -> list[tuple[int, ...]]:
        """The labels of the items whose json can be read, in their order, without a look at a frame. Raises DataError
        where so many lack a label or caption that is asked for that no score comes of them (`check`), or a label is no
        class of the model."""
        found: list[tuple[int, ...]] = []
        left_out: list[LeftOut] = []
        try:
            for place in self._places if self.request.reads_record else ():
                ref = self._source.ref(place)
                key = self._source.key(ref)
                try:
                    record = read_record(self._source, ref, asked=self.request.asked)
                    found.append(self._labels(key, record))
                    self._captions(record)
                    self._said(record)
                except DecodeError as error:
                    left_out.append(LeftOut(key, error.what))
        finally:
            self._source.close()
        if self.request.reads_record:
            self.check(left_out)
        return found

    def said(self, most: int) -> list[Any]:
        """What `AlsoAsked.read` makes of those of the first `most` items that say it, without a look at a frame."""
        found = []
        try:
            for place in range(min(len(self), most)):
                with suppress(DecodeError):
                    record = read_record(self._source, self._source.ref(place), asked=self.request.asked)
                    found.append(self._said(record))
        finally:
            self._source.close()
        return found

    def empty_batch(self) -> EvalBatch:
        """What a rank puts through the model where it has no item."""
        return EvalBatch((), self._zeros())

    def close(self) -> None:
        """Close files; the set opens them again when it is used."""
        self._source.close()

    def check(self, left_out: Sequence[LeftOut]) -> None:
        """Raises DataError where so many items are left out that a score would not say much of the set."""
        if len(left_out) <= self._max_left_out * len(self) and len(left_out) < len(self):
            return
        if not len(self):
            raise DataError(f"{self.shards} holds no clips to score", hint="look into it with `umt-data sheet`")
        first = "; ".join(f"{shown(one.key)} ({shown(one.reason, 120)})" for one in left_out[:3])
        raise DataError(
            f"{self.shards}: {len(left_out)} of {len(self)} clips cannot be scored: {first}",
            hint=f"run `umt-data verify {self.shards}`{self._asked_of_clips()}; a score may lack "
            f"{100 * self._max_left_out:g} % of its clips (max_left_out of an evaluation)",
        )

    def _asked_of_clips(self) -> str:
        """For a hint: where the clips say it by another name, settings of the evaluation or the task change it."""
        asked = self.request.asked
        return f", or name the fields that its clips have for {', '.join(asked)}" if asked else ""

    def _zeros(self) -> Tensor:
        request = self.request
        shape = (request.num_views, request.frames.count, request.side, request.side, 3)
        return torch.zeros(shape, dtype=torch.uint8)

    def _shown(self, ref: SampleRef) -> list[Member]:
        """The members of an item that `_read` reads."""
        request = self.request
        return members_shown(
            self._source,
            ref,
            choose=request.frames.choose,
            with_record=request.reads_record,
            asked=request.asked,
        )

    def _read(self, place: int, ref: SampleRef) -> tuple[ItemInfo, Frames]:
        """An item and its views [V,T,side,side,3]. Raises DecodeError where it is bad or lacks what is asked for."""
        request = self.request
        rule = request.frames.choose
        noted: list[int] = []

        def choose(num_frames: int) -> list[int]:
            noted.append(num_frames)
            if num_frames < 1:
                raise DecodeError("the clip holds no frames")
            return rule(num_frames)

        clip = read_clip(
            self._source,
            ref,
            choose=rule if isinstance(rule, FrameRule) else choose,
            with_record=request.reads_record,
            asked=request.asked,
        )
        labels = self._labels(clip.key, clip.record)
        captions = self._captions(clip.record)
        content = digest64(clip.key, *clip.crcs)
        stored = noted[-1] if noted else None
        video, group = self._video_and_group(ref)
        item = ItemInfo(place, clip.key, content, stored, labels, captions, video, group, said=self._said(clip.record))
        return item, request.views_of(clip.frames)

    def _video_and_group(self, ref: SampleRef) -> tuple[tuple[int, ...], str | None]:
        item = self._source.item(ref)
        group = item.fields.get("group")
        return (item.shard, item.row, *(item.frames or ())), None if group is None else str(group)

    def _labels(self, key: str, record: Mapping[str, Any]) -> tuple[int, ...]:
        request = self.request
        labels = tuple(label_of(record, field) for field in request.label_fields)
        if request.needs_labels and -1 in labels:
            raise DecodeError(f"it has no label in {request.label_fields[labels.index(-1)]!r}")
        for field, label in zip(request.label_fields, labels, strict=True):
            if request.num_classes is not None and not -1 <= label < request.num_classes:
                raise DataError(
                    f"{self.shards}: clip {shown(key)} has {field}={label}, and the model has classes 0 to "
                    f"{request.num_classes - 1}",
                    hint="score it on a set with the class list that the model was trained with",
                )
        return labels

    def _said(self, record: Mapping[str, Any]) -> object:
        return None if self.request.also is None else self.request.also.read(record)

    def _captions(self, record: Mapping[str, Any]) -> tuple[str, ...]:
        """Cleaned; none where none are asked for. Raises DecodeError where there is none."""
        field = self.request.caption_field
        if field is None:
            return ()
        captions = captions_of(record, field=field, clean=self.request.clean)
        if not captions:
            raise DecodeError(f"it has no caption in {field!r}")
        return tuple(captions)

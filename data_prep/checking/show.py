"""`umt-data show`: everything that is stored of one sample, and its frames as a picture; of a long video, the first and
last of thousands."""

from __future__ import annotations

import json
import os.path
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from data_prep.checking.samples import StoredSample, sample_at, sample_of_item
from data_prep.checking.sheet import CELL, Box, boxes_of, draw_frame, draw_grid, save_png
from data_prep.decode import evenly_spread
from umt_ds.data.order.views import views_of
from umt_ds.data.pixels.picture import Pixels
from umt_ds.data.shards.manifest import Manifest, load_manifest
from umt_ds.data.shards.records import Member, SampleRef, ShardIndex, load_index, sample_key
from umt_ds.data.shards.sample_record import stored_frames
from umt_ds.data.shards.source import ShardSource
from umt_ds.data.shards.storage import absolute
from umt_ds.errors import DataError, DecodeError, printable, shown, some

_MOST_FRAMES = 256  # on the picture; of a stored video with more, evenly spread ones
_MOST_LISTED = 1000  # files and numbers of a sample that are told one by one
_MOST_COMPARED = 100_000  # keys that difflib looks at: a second or two
_LONGEST_S = 1e9  # of a video; JSON has numbers that no float holds
_LINE_HEIGHT, _COLUMNS = 16, 8


@dataclass(frozen=True)
class _Found:
    """A sample and where it lies."""

    sample: StoredSample
    manifest: Manifest
    shard: int
    row: int
    index: ShardIndex


def show(folder: Path, key: str, png: Path | None = None) -> str:
    """What is stored of a sample, as text: where it lies, its members, its neighbours, its json. Of an item of a table
    what it asks, and of which frames.

    `key` is the sample's key, or the path of the video that it was made of. With `png`, its frames are drawn there.
    Raises DataError, with the nearest keys, where the set has no such sample.
    """
    manifest = load_manifest(folder)
    if manifest.parts:
        sample, lines = _find_item(folder, key)
    else:
        found = _find(folder, manifest, key)
        sample, lines = found.sample, list(_lines(found))
    if png is not None:
        draw_frames(sample, png)
    return "\n".join(map(printable, [*lines, "", *_lines_of_sample(sample)]))


def draw_frames(sample: StoredSample, png: Path) -> int:
    """Draw all frames of a sample, with their numbers and times; returns how many."""
    total = 0

    def choose(count: int) -> list[int]:
        nonlocal total
        total = count
        return evenly_spread(count, _MOST_FRAMES)

    try:
        frames = sample.frames(choose)
    except DecodeError as error:
        raise sample.damaged(error) from error
    first = sample.part[0] if sample.part else 0
    numbers = [first + number for number in evenly_spread(total, _MOST_FRAMES)]
    times_s = _times_of(sample, first + total)
    boxes, boxed = boxes_of(sample.fields), _boxed(sample, numbers, times_s)
    tiles = [
        _draw_tile(
            frame,
            f"{number}   {times_s[number]:.2f} s" if times_s else str(number),
            boxes=boxes if number == boxed else (),
        )
        for number, frame in zip(numbers, frames, strict=True)
    ]
    save_png(draw_grid(tiles, columns=min(_COLUMNS, len(tiles))), png)
    return len(tiles)


def _boxed(sample: StoredSample, numbers: Sequence[int], times_s: Sequence[float]) -> int:
    """The frame that the boxes of an item are drawn on: the nearest to its `second`, else the middle one."""
    second = sample.fields.get("second")
    if times_s and isinstance(second, int | float):
        return min(numbers, key=lambda number: abs(times_s[number] - second))
    return numbers[len(numbers) // 2]


def _times_of(sample: StoredSample, frames: int) -> list[float]:
    """The times of all stored frames, `frames` or, where the item is a part of them, more; none where the json does not
    give a number for each."""
    try:
        times_s = sample.record().get("times_s")
    except DecodeError:
        return []
    if not isinstance(times_s, list) or (len(times_s) < frames if sample.part else len(times_s) != frames):
        return []
    return times_s if all(type(time) in (int, float) and abs(time) < _LONGEST_S for time in times_s) else []


def _spellings_of(key: str) -> tuple[str, ...]:
    """The keys that a user can mean: as it stands, or before the suffix of its file; the path of a video; a path that
    has no suffix, its name with a dot."""
    return key, os.path.splitext(key)[0], sample_key(printable(key)), sample_key(printable(key) + ".mp4")


def _find(folder: Path, manifest: Manifest, key: str) -> _Found:
    wanted = {name.encode(errors="surrogateescape") for name in _spellings_of(key)}
    for number, shard in enumerate(manifest.shards):
        tar = folder / shard.file
        index = load_index(tar)
        row = next((row for row, found in enumerate(index.keys.tolist()) if found in wanted), None)
        if row is not None:
            return _Found(sample_at(tar, index, row), manifest, number, row, index)
    keys = (name.decode() for shard in manifest.shards for name in load_index(folder / shard.file).keys.tolist())
    raise _no_such_key(folder, key, keys, manifest.num_samples)


def _no_such_key(folder: Path, key: str, keys: Iterator[str], count: int) -> DataError:
    """With the nearest ones of the `count` keys that there are; of many only those that begin or end like it count."""
    if count > _MOST_COMPARED:
        keys = (name for name in keys if name[:4] == key[:4] or name[-4:] == key[-4:])
    near = get_close_matches(sample_key(printable(key) + ".mp4"), list(islice(keys, _MOST_COMPARED)), n=3)
    return DataError(
        f"{folder} has no sample '{shown(key)}'",
        hint=f"nearest: {some(near)}" if near else "no key is like it; bad.csv says what became no sample",
    )


def _find_item(folder: Path, key: str) -> tuple[StoredSample, list[str]]:
    """The item of a table that is called so, or else the first over the clip that is; and lines on what it asks.

    Raises DataError, with the nearest keys, where there is none.
    """
    names = _spellings_of(key)
    with closing(ShardSource(folder, max_open=1)) as source:
        ref = next((ref for ref in source.refs() if source.key(ref) in names), None)
        ref = ref or next((ref for ref in source.refs() if source.sample_key(ref) in names), None)
        if ref is None:
            raise _no_such_key(folder, key, map(source.key, source.refs()), len(source))
        return sample_of_item(source, ref), list(_lines_of_item(source, ref))


def _lines_of_item(source: ShardSource, ref: SampleRef) -> Iterator[str]:
    item = source.item(ref)
    refs = [SampleRef(ref.shard, nth) for nth in range(source.counts[ref.shard])]
    others = [source.key(one) for one in refs if one != ref and source.item(one).row == item.row]
    yield f"key     {source.key(ref)}"
    yield f"table   {source.manifest.name}: item {sum(source.counts[: ref.shard]) + ref.row:,} of {len(source):,}"
    yield f"clip    {source.sample_key(ref)}: row {item.row:,} of {absolute(source.tar(ref.shard))}"
    if item.frames:
        yield f"frames  {item.frames[0]:,} to {item.frames[1]:,} of those that are stored"
    yield f"others  {some(others) if others else '(it is the only item of its clip)'}"
    yield from f"asks    {_pretty(item.fields)}".split("\n")


def _lines(found: _Found) -> Iterator[str]:
    sample, shards, rows = found.sample, found.manifest.shards, len(found.index)
    number = sum(shard.samples for shard in shards[: found.shard]) + found.row
    yield f"key     {sample.key}"
    yield f"set     {found.manifest.name}: sample {number:,} of {found.manifest.num_samples:,}"
    yield f"tar     {sample.tar.name}: shard {found.shard:,} of {len(shards):,}, row {found.row:,} of {rows:,}"
    yield f"before  {found.index.key(found.row - 1) if found.row else '(first of its shard)'}"
    yield f"after   {found.index.key(found.row + 1) if found.row + 1 < rows else '(last of its shard)'}"
    yield from _of_views(found)


def _lines_of_sample(sample: StoredSample) -> Iterator[str]:
    """Its files, and what it says of itself."""
    yield f"{'member':<12}{'bytes':>12}{'offset':>16}"
    yield from _of_members(sample.members)
    yield ""
    try:
        yield from _pretty(sample.record()).split("\n")
    except DecodeError as error:
        yield error.what


def _of_members(members: Sequence[Member]) -> Iterator[str]:
    """A line each; of a long video the first and the last."""
    lines = [f"{member.suffix:<12}{member.size:>12,}{member.offset:>16,}" for member in members]
    if len(lines) <= _MOST_LISTED:
        yield from lines
        return
    yield from lines[:3]
    yield f"… and {len(lines) - 6:,} more …"
    yield from lines[-3:]


def _of_views(found: _Found) -> Iterator[str]:
    """Of a set made with --views: how many frames of the clip are stored, for which evaluation."""
    views = views_of(found.manifest.options)
    if views is None:
        return
    try:
        record = found.sample.record()
        stored = stored_frames(record, found.sample.num_frames(record) or 0)
    except DecodeError:
        stored = None
    if stored is not None:
        yield f"views   {views}: {len(stored.numbers)} of the {stored.num_frames} frames of the clip"


def _pretty(record: Mapping[str, Any]) -> str:
    """Indented JSON, but a list of numbers on one line."""
    if not record:
        return "{}"
    fields = (f"  {json.dumps(name, ensure_ascii=False)}: {_value(value)}" for name, value in record.items())
    return "{\n" + ",\n".join(fields) + "\n}"


def _value(value: object) -> str:
    numbers = isinstance(value, Sequence) and all(isinstance(item, int | float) for item in value)
    if numbers and isinstance(value, list) and len(value) > _MOST_LISTED:
        return f"[{', '.join(map(str, value[:3]))}, … {len(value) - 6:,} more …, {', '.join(map(str, value[-3:]))}]"
    text = json.dumps(value, ensure_ascii=False, indent=None if numbers else 2)
    return text.replace("\n", "\n  ")


def _draw_tile(frame: Pixels, text: str, *, boxes: Sequence[Box]) -> Image.Image:
    tile = Image.new("RGB", (CELL[0] + 2, CELL[1] + _LINE_HEIGHT), "white")
    draw_frame(tile, frame, left=1, top=0, boxes=boxes)
    ImageDraw.Draw(tile).text((4, CELL[1] + 1), text, fill="black", font=ImageFont.load_default(size=11))
    return tile

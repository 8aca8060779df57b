"""`umt-data sheet`: a picture of what is in the shards. First, middle and last frame of some samples."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from data_prep.checking.samples import StoredSample, sample_at, sample_of_item
from data_prep.decode import evenly_spread
from umt_ds.data.pixels.picture import Pixels
from umt_ds.data.shards.manifest import load_manifest
from umt_ds.data.shards.records import load_index
from umt_ds.data.shards.sample_record import captions_of, has_label, number_in
from umt_ds.data.shards.source import ShardSource
from umt_ds.data.shards.storage import write_whole
from umt_ds.errors import DataError, DecodeError, printable, shown

CELL = (160, 120)  # width and height of one frame on the sheet
_TEXT_LINES, _LINE_HEIGHT, _MARGIN = 3, 13, 8
_LETTERS, _MOST_TEXT = 80, 500  # of the line below the frames, and of the text below that


def write_sheet(folder: Path, png: Path, *, samples: int = 24, columns: int = 3) -> int:
    """Draw up to `samples` samples, evenly spread over the set, into `png`; returns how many were drawn."""
    chosen = _choose(folder, samples)
    if not chosen:
        raise DataError(f"{folder} holds no sample", hint="look into its bad.csv")
    tiles = [draw_tile(sample) for sample in chosen]
    save_png(draw_grid(tiles, columns=min(columns, len(tiles))), png)
    return len(tiles)


def draw_grid(tiles: Sequence[Image.Image], *, columns: int) -> Image.Image:
    """Tiles of one size in rows of `columns`."""
    width, height = tiles[0].size
    grid = Image.new("RGB", (columns * width, -(-len(tiles) // columns) * height), "white")
    for number, tile in enumerate(tiles):
        grid.paste(tile, (number % columns * width, number // columns * height))
    return grid


def save_png(picture: Image.Image, png: Path) -> None:
    """Write a picture whole."""
    file = io.BytesIO()
    picture.save(file, format="PNG")
    write_whole(png, file.getvalue())


def _choose(folder: Path, wanted: int) -> list[StoredSample]:
    manifest = load_manifest(folder)
    if manifest.parts:
        with closing(ShardSource(folder, max_open=1)) as items:
            return [sample_of_item(items, items.ref(number)) for number in evenly_spread(len(items), wanted)]
    numbers = set(evenly_spread(manifest.num_samples, wanted))
    chosen: list[StoredSample] = []
    first = 0
    for shard in manifest.shards:
        here = [number - first for number in sorted(numbers) if first <= number < first + shard.samples]
        if here:
            tar = folder / shard.file
            index = load_index(tar)
            chosen += [sample_at(tar, index, row) for row in here]
        first += shard.samples
    return chosen


def draw_tile(sample: StoredSample) -> Image.Image:
    """Three frames, and key and caption below them, or why they cannot be read. All tiles have one size."""
    width = 3 * CELL[0] + 2 * _MARGIN
    height = CELL[1] + (_TEXT_LINES + 1) * _LINE_HEIGHT + 2 * _MARGIN
    tile = Image.new("RGB", (width, height), "white")
    tile.paste("lightgray", (_MARGIN, _MARGIN, _MARGIN + 3 * CELL[0], _MARGIN + CELL[1]))
    try:
        boxes = boxes_of(sample.fields)
        frames = sample.frames(_first_middle_last)
        for column, frame in enumerate(frames):
            of_middle = boxes if column == len(frames) // 2 else ()  # they are of the middle of the item's time
            draw_frame(tile, frame, left=_MARGIN + column * CELL[0], top=_MARGIN, boxes=of_middle)
        _write(tile, *_said_of(sample))
    except DataError as error:
        _write(tile, shown(sample.key, _LETTERS), error.what, colour="darkred")
    return tile


Box = tuple[float, float, float, float]  # left, top, right, bottom in shares of the frame


def boxes_of(fields: Mapping[str, Any]) -> list[Box]:
    """The boxes that an item asks about; none where it has none, or something else of that name."""
    said = fields.get("boxes")
    boxes = [tuple(box) for box in said if isinstance(box, list)] if isinstance(said, list) else []
    return [box for box in boxes if len(box) == 4 and all(type(one) in (int, float) for one in box)]


def draw_frame(onto: Image.Image, frame: Pixels, *, left: int, top: int, boxes: Sequence[Box] = ()) -> None:
    """A frame [H,W,3] shrunk into the cell whose corner is given, centred, with `boxes` as rectangles."""
    picture = Image.fromarray(frame)
    picture.thumbnail(CELL)
    draw = ImageDraw.Draw(picture)
    for box in boxes:
        left_top, right_bottom = zip(*(sorted(sides) for sides in (box[::2], box[1::2])), strict=True)
        corners = [
            (min(max(x, 0.0), 1.0) * (picture.width - 1), min(max(y, 0.0), 1.0) * (picture.height - 1))
            for x, y in (left_top, right_bottom)
        ]
        draw.rectangle(corners, outline="red", width=2)
    onto.paste(picture, (left + (CELL[0] - picture.width) // 2, top + (CELL[1] - picture.height) // 2))


def _first_middle_last(count: int) -> list[int]:
    return sorted({0, count // 2, count - 1})


def _said_of(sample: StoredSample) -> tuple[str, str]:
    """One line on a sample, and its (first) caption. Raises DataError where its record cannot be read."""
    record = sample.record()
    name, seconds = record.get("label_name"), number_in(record, "duration_s")
    label = f"  [{record['label'] if name is None else name}]" if has_label(record) else ""
    length = f"  {seconds:.1f} s" if seconds else ""
    try:
        caption = next(iter(captions_of(record)), "") or _question(record)
    except DecodeError as error:
        caption = f"({error.what})"
    return shown(f"{sample.key}{label}{length}", _LETTERS), caption


def _question(record: Mapping[str, Any]) -> str:
    """What is asked of the sample, and what is right."""
    asked = [record[name] for name in ("question", "options", "answers", "answer") if record.get(name) is not None]
    return " - ".join(", ".join(map(str, one)) if isinstance(one, list) else str(one) for one in asked)


def _write(tile: Image.Image, line: str, text: str, *, colour: str = "dimgray") -> None:
    draw = ImageDraw.Draw(tile)
    top = _MARGIN + CELL[1] + 2
    font, small = ImageFont.load_default(size=12), ImageFont.load_default(size=11)
    draw.text((_MARGIN, top), line, fill="black", font=font)
    lines = textwrap.wrap(printable(" ".join(text[:_MOST_TEXT].split())), width=78)[:_TEXT_LINES]
    for number, below in enumerate(lines, start=1):
        draw.text((_MARGIN, top + number * _LINE_HEIGHT), below, fill=colour, font=small)

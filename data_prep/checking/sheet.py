"""`umt-data sheet`: a picture of what is in the shards. First, middle and last frame of some samples."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from data_prep.checking.samples import StoredSample, sample_at
from data_prep.decode import evenly_spread
from umt_ds.data.pixels.picture import Pixels
from umt_ds.data.shards.manifest import load_shards
from umt_ds.data.shards.records import load_index
from umt_ds.data.shards.sample_record import captions_of, has_label, number_in
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
    manifest = load_shards(folder)
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
        for column, frame in enumerate(sample.frames(_first_middle_last)):
            draw_frame(tile, frame, left=_MARGIN + column * CELL[0], top=_MARGIN)
        _write(tile, *_said_of(sample))
    except DataError as error:
        _write(tile, shown(sample.key, _LETTERS), error.what, colour="darkred")
    return tile


def draw_frame(onto: Image.Image, frame: Pixels, *, left: int, top: int) -> None:
    """A frame [H,W,3] shrunk into the cell whose corner is given, centred."""
    picture = Image.fromarray(frame)
    picture.thumbnail(CELL)
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
        caption = next(iter(captions_of(record)), "")
    except DecodeError as error:
        caption = f"({error.what})"
    return shown(f"{sample.key}{label}{length}", _LETTERS), caption


def _write(tile: Image.Image, line: str, text: str, *, colour: str = "dimgray") -> None:
    draw = ImageDraw.Draw(tile)
    top = _MARGIN + CELL[1] + 2
    font, small = ImageFont.load_default(size=12), ImageFont.load_default(size=11)
    draw.text((_MARGIN, top), line, fill="black", font=font)
    lines = textwrap.wrap(printable(" ".join(text[:_MOST_TEXT].split())), width=78)[:_TEXT_LINES]
    for number, below in enumerate(lines, start=1):
        draw.text((_MARGIN, top + number * _LINE_HEIGHT), below, fill=colour, font=small)

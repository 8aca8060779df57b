"""`umt-data sheet`: a picture of what is in the shards. First, middle and last frame of some samples."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from data_prep.decode import evenly_spread
from data_prep.samples import Pixels, StoredSample, caption_text, samples_of
from umt_ds.data.records import load_manifest
from umt_ds.errors import DataError

_CELL = (160, 120)  # width and height of one frame on the sheet
_TEXT_LINES, _LINE_HEIGHT, _MARGIN = 3, 13, 8


def write_sheet(folder: Path, png: Path, *, samples: int = 24, columns: int = 3) -> int:
    """Draw up to `samples` samples, evenly spread over the set, into `png`; returns how many were drawn."""
    chosen = _choose(folder, samples)
    if not chosen:
        raise DataError(f"{folder} holds no sample", hint="look into its bad.csv")
    columns = min(columns, len(chosen))
    tiles = [_tile(sample) for sample in chosen]
    width, height = tiles[0].size
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (number % columns * width, number // columns * height))
    partial = png.with_name(png.name + ".partial")
    sheet.save(partial, format="PNG")
    os.replace(partial, png)
    return len(tiles)


def _choose(folder: Path, wanted: int) -> list[StoredSample]:
    manifest = load_manifest(folder)
    numbers = set(evenly_spread(manifest.num_samples, wanted))
    chosen: list[StoredSample] = []
    first = 0
    for shard in manifest.shards:
        here = [number - first for number in sorted(numbers) if first <= number < first + shard.samples]
        if here:
            stored = list(samples_of(folder / shard.file))
            chosen += [stored[number] for number in here]
        first += shard.samples
    return chosen


def _tile(sample: StoredSample) -> Image.Image:
    """Three frames, and key and caption below them."""
    width = 3 * _CELL[0] + 2 * _MARGIN
    height = _CELL[1] + (_TEXT_LINES + 1) * _LINE_HEIGHT + 2 * _MARGIN
    tile = Image.new("RGB", (width, height), "white")
    tile.paste("lightgray", (_MARGIN, _MARGIN, _MARGIN + 3 * _CELL[0], _MARGIN + _CELL[1]))
    for column, frame in enumerate(_first_middle_last(sample)):
        picture = Image.fromarray(frame)
        picture.thumbnail(_CELL)
        left = _MARGIN + column * _CELL[0] + (_CELL[0] - picture.width) // 2
        tile.paste(picture, (left, _MARGIN + (_CELL[1] - picture.height) // 2))
    _write(tile, sample)
    return tile


def _first_middle_last(sample: StoredSample) -> list[Pixels]:
    return sample.pictures(lambda count: sorted({0, count // 2, count - 1}))


def _write(tile: Image.Image, sample: StoredSample) -> None:
    record = sample.record()
    label = f"  [{record.get('label_name', record['label'])}]" if "label" in record else ""
    seconds = f"  {record['duration_s']:.1f} s" if "duration_s" in record else ""
    draw = ImageDraw.Draw(tile)
    top = _MARGIN + _CELL[1] + 2
    font, small = ImageFont.load_default(size=12), ImageFont.load_default(size=11)
    draw.text((_MARGIN, top), f"{sample.key}{label}{seconds}"[:80], fill="black", font=font)
    lines = textwrap.wrap(caption_text(record), width=78)[:_TEXT_LINES]
    for number, line in enumerate(lines, start=1):
        draw.text((_MARGIN, top + number * _LINE_HEIGHT), line, fill="dimgray", font=small)

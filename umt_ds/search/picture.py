"""A picture of what was found: a row a hit, with some of its frames, its time and its score.

Shapes: T frames.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from umt_ds.data.clip_request import ClipRequest
from umt_ds.data.order.frames import middle
from umt_ds.errors import MachineError, UmtError, shown
from umt_ds.search.clips_found import frames_of
from umt_ds.search.hits import Answer, Hit, told
from umt_ds.whole_file import write_whole

_CELL = (128, 96)  # width and height of a frame: a model sees all of it as a square
_FRAMES, _MARGIN, _LINE = 4, 8, 16
MOST_HITS = 400  # of one picture
_LETTERS = 90


def draw_hits(answers: Sequence[Answer], request: ClipRequest, png: Path) -> None:
    """Write the picture. A hit whose frames are not there any more has the reason in their place. Raises MachineError
    where the file cannot be written."""
    tiles = [tile for answer in answers for tile in _tiles(answer, request)]
    sheet = Image.new("RGB", (tiles[0].width, sum(tile.height for tile in tiles)), "white")
    top = 0
    for tile in tiles:
        sheet.paste(tile, (0, top))
        top += tile.height
    file = io.BytesIO()
    sheet.save(file, format="PNG")
    try:
        write_whole(png, file.getvalue())
    except OSError as error:
        raise MachineError(f"{png} cannot be written: {error}", hint="choose another place: --picture PNG") from error


def _tiles(answer: Answer, request: ClipRequest) -> Iterator[Image.Image]:
    yield _heading(answer.query)
    for hit in answer.hits:
        yield _tile(hit, request)


def _heading(query: str) -> Image.Image:
    return _with_line(Image.new("RGB", (_width(), 2 * _LINE), "white"), shown(query, _LETTERS), top=_MARGIN)


def _tile(hit: Hit, request: ClipRequest) -> Image.Image:
    tile = Image.new("RGB", (_width(), _CELL[1] + _LINE + 2 * _MARGIN), "white")
    match = "" if hit.match is None else f"  match {hit.match:.3f}"
    line = f"{hit.rank}.  {hit.similarity:.3f}{match}  {told(hit)}"
    _with_line(tile, line, top=_CELL[1] + _MARGIN)
    frames = next(iter(frames_of([hit], request)))
    if isinstance(frames, UmtError):
        tile.paste("lightgray", (_MARGIN, _MARGIN // 2, _width() - _MARGIN, _MARGIN // 2 + _CELL[1]))
        return _with_line(tile, shown(frames.what, _LETTERS), top=_CELL[1] // 2, colour="darkred")
    return _with_frames(tile, frames)


def _with_frames(tile: Image.Image, frames: Tensor) -> Image.Image:
    """frames: u8 [T,H,W,3]."""
    for column, number in enumerate(middle(len(frames), count=min(_FRAMES, len(frames)))):
        picture = Image.fromarray(frames[number].numpy()).resize(_CELL, Image.Resampling.BICUBIC)
        tile.paste(picture, (_MARGIN + column * (_CELL[0] + 2), _MARGIN // 2))
    return tile


def _with_line(tile: Image.Image, text: str, *, top: int, colour: str = "black") -> Image.Image:
    ImageDraw.Draw(tile).text((_MARGIN, top), text, fill=colour, font=ImageFont.load_default(12))
    return tile


def _width() -> int:
    return 2 * _MARGIN + _FRAMES * (_CELL[0] + 2)

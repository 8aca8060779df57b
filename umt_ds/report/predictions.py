"""A picture of what was said of videos: frames of each, and the choices beside them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from umt_ds.errors import shown
from umt_ds.evaluation.prediction import Prediction, number_text
from umt_ds.jobs.predict import PredictedVideo
from umt_ds.report.pictures import figure_of, png_of, show_frames

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_DRAWN = 24  # videos; the tables and the JSON have all
_FRAMES = 6  # of each video
_HEIGHT, _TEXT = 1.35, 5.6  # inches, of a video's frames, and beside them
_WIDE = 62  # characters of a line


def draw_predictions(told: Sequence[PredictedVideo], *, title: str) -> bytes:
    """A row for each of the first videos that could be read, as PNG: frames that the model saw, what it said."""
    read = [one for one in told if one.error is None]
    some = read[:MOST_DRAWN]
    lines = [list(_lines(one.predictions)) for one in some]
    heights = [max(_HEIGHT, 0.25 + 0.18 * len(said)) for said in lines] or [1.0]
    whole = f"{title}: the first {len(some)} of {len(read)} videos" if len(some) < len(read) else title
    strips = [one.frames[:: -(-len(one.frames) // _FRAMES)] for one in some if one.frames is not None]
    width = _HEIGHT * max((len(strip) for strip in strips), default=1)  # frames are square
    figure = figure_of(width=width + _TEXT, height=0.7 + sum(heights), title=whole)
    panels = figure.subplots(len(heights), 2, squeeze=False, height_ratios=heights, width_ratios=[width, _TEXT])
    for (left, right), one, strip, said in zip(panels, some, strips, lines, strict=False):
        show_frames(left, strip)
        left.set_title(shown(one.video.name, 80), fontsize=9, loc="left")
        right.text(0.0, 1.0, "\n".join(said), va="top", fontsize=8.5, family="monospace", transform=right.transAxes)
        right.set_axis_off()
    if not some:
        _say_none(panels[0])
    return png_of(figure)


def _say_none(panels: Sequence[Axes]) -> None:
    for panel in panels:
        panel.set_axis_off()
    panels[0].text(0.0, 0.5, "no video could be read", transform=panels[0].transAxes)


def _lines(predictions: Sequence[Prediction]) -> Iterator[str]:
    """What was said, in lines of a small panel."""
    for said in predictions:
        if said.question is not None:
            yield from textwrap.wrap(shown(said.question, 140), _WIDE)
        yield "  ".join(said.choices[0].numbers) if said.choices else ""
        for choice in said.choices:
            numbers = "  ".join(number_text(*each).rjust(len(each[0])) for each in choice.numbers.items())
            first, *rest = textwrap.wrap(shown(choice.text, 140), _WIDE - len(numbers) - 2) or [""]
            yield f"{numbers}  {first}"
            yield from (" " * (len(numbers) + 2) + line for line in rest)

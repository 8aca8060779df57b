"""The sections of a report on what a model answers: retrieval by each of its rankings, questions, multiple choice."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from umt_ds.errors import shown
from umt_ds.evaluation.evaluator import Scores
from umt_ds.evaluation.exhibits import AnsweredClip, AnsweredClips
from umt_ds.evaluation.metrics.retrieval import RetrievalScores
from umt_ds.evaluation.prediction import number_text
from umt_ds.report.pictures import RIGHT, WRONG, figure_of, png_of, show_frames

_FRAMES = 6  # of each clip
_HEIGHT, _TEXT = 1.3, 4.4  # inches, of a clip's frames, and beside them
_WIDE = 48  # characters of a line
_MOST = 5  # choices of a clip


def retrieval_rows(scores: RetrievalScores, again: Scores | None) -> list[list[str]]:
    """R@k both ways in percent, heading first: by similarity, and below it by what else ranks."""
    ways = {"caption → clip": scores.text_to_video, "clip → caption": scores.video_to_text}
    head = ["found among the first k, %", *(f"k = {k}" for k in scores.text_to_video)]
    rows = [[way, *(f"{100 * share:.1f}" for share in shares.values())] for way, shares in ways.items()]
    for scorer in () if again is None else again.scorers:
        told = scorer.replace("_", " ")
        for way, short in (("caption → clip", "t2v"), ("clip → caption", "v2t")):
            cells = [f"{again.values[f'{scorer}_{short}_r{k}']:.1f}" for k in scores.text_to_video]  # type: ignore[union-attr]
            rows.append([f"{way}, {told}", *cells])
    return [head, *rows]


def answer_rows(scores: Scores) -> list[list[str]]:
    """Accuracies in percent, heading first: of all, by chance, and of each type of question."""
    partial = f", {scores.partial_text}" if scores.is_partial else ""
    chance = scores.protocol.get("chance", {})
    best = scores.protocol.get("best_possible")
    rows = [
        [f"% of {scores.items} items{partial}", *(metric.replace("_", " ") for metric in scores.values)],
        ["the model", *(f"{value:.1f}" for value in scores.values.values())],
        ["without a look at the video", *(f"{chance[m]:.1f}" if m in chance else "-" for m in scores.values)],
    ]
    if best is not None:
        rows.append(["with an answer in the list", *(f"{best:.1f}" if m == "accuracy" else "-" for m in scores.values)])
    for kind, found in (scores.by_type or {}).items():
        cells = [f"{found[metric]:.1f}" if metric in found else "-" for metric in scores.values]
        rows.append([f"  {shown(kind)} ({found['items']:.0f})", *cells])
    return rows


def answers_as_json(result: AnsweredClips) -> dict[str, Any]:
    """The scores, of JSON types."""
    scores = result.scores
    return {
        "checkpoint": str(result.checkpoint),
        "values": dict(scores.values),
        "by_type": {kind: dict(found) for kind, found in (scores.by_type or {}).items()},
        "items": scores.items,
        "left_out": [asdict(one) for one in scores.left_out],
        "protocol": dict(scores.protocol),
    }


def draw_answered(result: AnsweredClips, *, title: str) -> bytes:
    """Clips that are answered rightly, then those that are not, each with its question and choices, as PNG."""
    clips = [*result.right, *result.wrong]
    lines = [list(_lines(clip)) for clip in clips]
    heights = [max(_HEIGHT, 0.3 + 0.17 * len(said)) for said in lines] or [1.0]
    strips = [clip.frames[:: -(-len(clip.frames) // _FRAMES)] for clip in clips]
    width = _HEIGHT * max((len(strip) for strip in strips), default=1)  # frames are square
    figure = figure_of(width=width + _TEXT, height=0.7 + sum(heights), title=title)
    panels = figure.subplots(len(heights), 2, squeeze=False, height_ratios=heights, width_ratios=[width, _TEXT])
    for (left, right), clip, strip, said in zip(panels, clips, strips, lines, strict=False):
        show_frames(left, strip, edge=RIGHT if clip.is_right else WRONG, edge_width=3)
        left.set_title(shown(clip.key, 60), fontsize=8.5, loc="left")
        right.text(0.0, 1.0, "\n".join(said), va="top", fontsize=8.5, family="monospace", transform=right.transAxes)
        right.set_axis_off()
    if not clips:
        for panel in panels[0]:
            panel.set_axis_off()
    return png_of(figure)


def _lines(clip: AnsweredClip) -> Iterator[str]:
    """The question, and what may be said: ✓ stands before what is right."""
    yield from textwrap.wrap(shown(clip.question, 140), _WIDE) if clip.question is not None else ()
    for choice in clip.choices[:_MOST]:
        numbers = "  ".join(number_text(*each) for each in choice.numbers.items())
        yield from _line(choice.text, f"{'✓' if _is_right(choice.text, clip.right) else ' '} {numbers}  ")
    if not any(_is_right(choice.text, clip.right) for choice in clip.choices[:_MOST]):
        yield from _line(", ".join(clip.right), "right: ")


def _is_right(text: str, right: Sequence[str]) -> bool:
    return text.strip().lower() in {one.strip().lower() for one in right}


def _line(text: str, before: str) -> Iterator[str]:
    first, *rest = textwrap.wrap(shown(text, 140), max(12, _WIDE - len(before))) or [""]
    yield before + first
    yield from (" " * len(before) + line for line in rest)

"""What a report shows of evaluations in which a model answers something of each item: some that it answers rightly, and
wrongly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from umt_ds.data.evaluation import EvaluationSet
from umt_ds.evaluation.bar import bar_of
from umt_ds.evaluation.encode import ALONE
from umt_ds.evaluation.evaluator import Evaluator
from umt_ds.evaluation.exhibits import AnsweredClip, AnsweredClips

_SHOWN = 6  # items that are answered rightly, and as many that are not

Row = Mapping[str, Any]  # of the predictions
Told = Callable[[Row, Tensor], AnsweredClip]  # with frames u8 [T,H,W,3]


def answered_clips(
    title: str, evaluator: Evaluator, module: nn.Module, told: Told, *, is_right: str, checkpoint: Path
) -> AnsweredClips:
    """The scores of an evaluation, and some of its items. is_right: the column of its predictions that says whether
    one is answered rightly; a column `number` has their places in the set. Raises UmtError."""
    items: EvaluationSet = evaluator.sets[0]
    with bar_of(items, name=f"answer {items.shards.name}") as beat:
        scores = evaluator.run(module, ALONE, beat=beat, predictions=True)
    columns = scores.predictions
    assert columns is not None, "they were asked for"
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    shown = {wanted: _some([row for row in rows if row[is_right] == wanted]) for wanted in (True, False)}
    frames = items.views_of({row["number"] for some in shown.values() for row in some})
    clips = {wanted: tuple(told(row, frames[row["number"]][0]) for row in some) for wanted, some in shown.items()}
    return AnsweredClips(title, checkpoint, scores, right=clips[True], wrong=clips[False])


def _some(rows: Sequence[Row]) -> list[Row]:
    """Of different videos first, evenly spread."""
    seen: set[str] = set()
    first = [row for row in rows if not (row["key"] in seen or seen.add(row["key"]))]  # type: ignore[func-returns-value]
    rows = first if len(first) >= _SHOWN else rows
    step = max(1, len(rows) // _SHOWN)
    return list(rows[::step][:_SHOWN])

"""Scores as a table: a row a run, a column a metric; runs of several seeds put together; what a score leaves out."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence

from umt_ds.config.key_paths import flatten
from umt_ds.errors import shown
from umt_ds.evaluation.evaluator import Scores
from umt_ds.evaluation.metrics.spread import Group, Spread, groups_of, pairs_of
from umt_ds.jobs.eval_runs import evaluations_of
from umt_ds.jobs.run_scores import RunScores
from umt_ds.terminal import columns

_IN_TABLE = ("items", "left_out", "precision")  # of a protocol: what the table says anyway
_SIMPLE = ""  # the scorer whose numbers have no other's name before them
_REASONS = 3  # items left out that are named below a table; the JSON file names all


def score_text(scored: Sequence[RunScores]) -> str:
    """A table for each evaluation, and under it what one must know to read it."""
    names = evaluations_of([one.run for one in scored])
    tables = [_table(name, [one for one in scored if one.of(name) is not None]) for name in names]
    # of a checkpoint all is loaded; of other weights perhaps a part, and the rest is random
    loaded = [f"{one.run.weights} into {one.run.name}: {one.loaded}" for one in scored if one.run.checkpoint is None]
    return "\n\n".join([*tables, *loaded])


def _table(name: str, scored: Sequence[RunScores]) -> str:
    found = [scores for one in scored for scores in [one.of(name)] if scores is not None]
    metrics = list(dict.fromkeys(metric for scores in found for metric in _numbers(scores, _SIMPLE)))
    rows = []
    for one, scores in zip(scored, found, strict=True):
        rows.append([one.run.name, _step(one), _items(scores), *_cells(scores, _SIMPLE, metrics)])
        rows += [[f"  {scorer}", "", "", *_cells(scores, scorer, metrics)] for scorer in scores.scorers]
    rows += _together(name, scored, found, metrics)
    kind = scored[0].run.config.evaluation[name].kind
    about = [line for one, scores in zip(scored, found, strict=True) for line in _left_out(one, scores)]
    title = name if name == kind else f"{name} ({kind})"
    numbers = columns([[title, "step", "items", *metrics], *rows])
    return "\n".join([numbers, *_by_type(name, scored, found), *about, *_protocol(scored, found)])


def _by_type(name: str, scored: Sequence[RunScores], found: Sequence[Scores]) -> list[str]:
    """The same numbers of the items of each type, where an evaluation tells types apart."""
    metrics = list(dict.fromkeys(metric for scores in found for some in scores.by_type.values() for metric in some))
    rows = [
        [one.run.name, shown(kind), *(_by_type_cell(metric, some) for metric in metrics)]
        for one, scores in zip(scored, found, strict=True)
        for kind, some in scores.by_type.items()
    ]
    return [columns([[f"{name} by type", "", *metrics], *rows])] if rows else []


def _by_type_cell(metric: str, some: Mapping[str, float]) -> str:
    return f"{some[metric]:.0f}" if metric == "items" and metric in some else _number(some.get(metric))


def _step(one: RunScores) -> str:
    return "-" if one.step is None else str(one.step)


def _items(scores: Scores) -> str:
    return f"{scores.items} of {scores.items + len(scores.left_out)}" if scores.left_out else str(scores.items)


def _numbers(scores: Scores, scorer: str) -> dict[str, float]:
    """Those of one scorer, by the names that all of them share: the columns of a table."""
    every = {**scores.values, **scores.ranks}
    if scorer != _SIMPLE:
        prefix = f"{scorer}_"
        return {name.removeprefix(prefix): number for name, number in every.items() if name.startswith(prefix)}
    others = tuple(f"{one}_" for one in scores.scorers)
    return {name: number for name, number in every.items() if not name.startswith(others)}


def _cells(scores: Scores, scorer: str, metrics: Sequence[str]) -> list[str]:
    numbers = _numbers(scores, scorer)
    return [_number(numbers.get(metric)) for metric in metrics]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _together(
    name: str, scored: Sequence[RunScores], found: Sequence[Scores], metrics: Sequence[str]
) -> Iterator[list[str]]:
    """Rows of means over seeds, and of differences between what runs began from."""
    configs = [one.run.config for one in scored]
    alike = [config.model_copy(update={"evaluation": {name: config.evaluation[name]}}) for config in configs]
    groups = groups_of(alike, [one.step for one in scored])
    # runs of a group are evaluated alike, so that they have the same metrics
    scorers = [found[group.members[0]].scorers for group in groups]
    for group, others in zip(groups, scorers, strict=True):
        if len(group.members) > 1:
            title = f"mean ± sd of {len(group.members)} from {group.weights}"
            for scorer in (_SIMPLE, *others):
                yield [_titled(title, scorer), "", "", *_mean_cells(_spreads(found, group, scorer), metrics)]
    for one, other in pairs_of(groups):
        title = f"{one.weights} less {other.weights}, ± standard error"
        for scorer in (_SIMPLE, *(some for some in scorers[groups.index(one)] if some in scorers[groups.index(other)])):
            left, right = _spreads(found, one, scorer), _spreads(found, other, scorer)
            yield [_titled(title, scorer), "", "", *_gain_cells(left, right, metrics)]


def _titled(title: str, scorer: str) -> str:
    return title if scorer == _SIMPLE else f"  {scorer}"


def _spreads(found: Sequence[Scores], group: Group, scorer: str) -> dict[str, Spread]:
    of_members = [_numbers(found[member], scorer) for member in group.members]
    return {metric: Spread.of([numbers[metric] for numbers in of_members]) for metric in of_members[0]}


def _mean_cells(spreads: Mapping[str, Spread], metrics: Sequence[str]) -> list[str]:
    return [_with_error(f"{spreads[m].mean:.2f}", spreads[m].deviation) if m in spreads else "-" for m in metrics]


def _gain_cells(left: Mapping[str, Spread], right: Mapping[str, Spread], metrics: Sequence[str]) -> list[str]:
    gains = [left[m].minus(right[m]) if m in left and m in right else None for m in metrics]
    return ["-" if gain is None else _with_error(f"{gain[0]:+.2f}", gain[1]) for gain in gains]


def _with_error(number: str, error: float) -> str:
    """A group of one run has no deviation."""
    return number if math.isnan(error) else f"{number} ± {error:.2f}"


def _left_out(one: RunScores, scores: Scores) -> Iterator[str]:
    yield from (f"partial: {one.run.name}: {gap}" for gap in scores.gaps)
    if not scores.left_out:
        return
    count = len(scores.left_out)
    reasons = "; ".join(f"{shown(item.key)} ({shown(item.reason, 120)})" for item in scores.left_out[:_REASONS])
    more = f"; and {count - _REASONS} more" if count > _REASONS else ""
    yield f"partial: {count} of {scores.items + count} items left out of {one.run.name}: {reasons}{more}"


def _told(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else shown(str(value), 120)  # a hash or a sentence is whole


def _protocol(scored: Sequence[RunScores], found: Sequence[Scores]) -> Iterator[str]:
    """What all scores of a table have in common, and in what they differ."""
    protocols = [flatten(dict(scores.protocol)) for scores in found]
    keys = [key for key in dict.fromkeys(key for one in protocols for key in one) if key not in _IN_TABLE]
    common, odd = [], []
    for key in keys:
        values = [_told(protocol.get(key, "-")) for protocol in protocols]
        if len(set(values)) == 1:
            common.append(f"{key} {values[0]}")
        else:
            told = (f"{value} of {one.run.name}" for one, value in zip(scored, values, strict=True))
            odd.append(f"not alike: {key} is {', '.join(told)}")
    common.append(f"precision {', '.join(sorted({one.precision for one in scored}))}")
    yield textwrap.fill(f"with {'; '.join(common)}", 120, subsequent_indent="  ", break_long_words=False)
    yield from odd

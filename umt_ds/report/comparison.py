"""Several runs side by side: what each is, what its evaluations found and how, and in what their settings differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from umt_ds.config.key_paths import flatten
from umt_ds.config.load import load_run
from umt_ds.config.run import RunConfig
from umt_ds.config.show import as_tree
from umt_ds.engine.best import decisive
from umt_ds.errors import ConfigError, shown, some
from umt_ds.report.compare_runs import compare_runs
from umt_ds.report.evaluated import Evaluated, read_evaluated
from umt_ds.report.facts import key_numbers, origin_rows
from umt_ds.report.history import History, ScoreCurve, ScorePoint, read_history
from umt_ds.terminal import progress

MOST_RUNS = len(ascii_uppercase)
_LONGEST = 80  # characters of a value in a table
# Of a protocol: what a score may differ in and still measure the same. How many clips went through the model at a time,
# in which precision, and how many of them the run trains on; all three are told.
_BESIDE = ("batch", "precision", "percent_trained_on")

Rows = list[list[str]]


@dataclass(frozen=True)
class ComparedRun:
    """One of the runs. letter: what tables and curves call it; label: the end of its path that is its alone."""

    letter: str
    label: str
    folder: Path
    config: RunConfig
    history: History
    evaluations: Mapping[str, Evaluation]  # by name


@dataclass(frozen=True)
class Evaluation:
    """What the evaluation of one name found of a run: a curve for each metric, and the protocol, as it was last."""

    curves: Mapping[str, ScoreCurve]
    protocol: Mapping[str, Any]


@dataclass(frozen=True)
class Measured:
    """Runs whose evaluation of one name is made in one way (set, frames, views …), so that their scores compare.
    curves: of each run, by metric."""

    evaluation: str
    runs: tuple[ComparedRun, ...]
    curves: tuple[Mapping[str, ScoreCurve], ...]

    @property
    def metrics(self) -> list[str]:
        """Those that any of the runs has, in the order in which they are logged."""
        return list(dict.fromkeys(metric for curves in self.curves for metric in curves))


def read_compared(folders: Sequence[Path], score_files: Sequence[Path] = ()) -> list[ComparedRun]:
    """Read the runs, with a bar; and what `umt eval` wrote of them. Raises UmtError where one is no run folder or has
    logged no step, ConfigError where one is named twice, there are more than letters, or a file tells of other runs."""
    if len(folders) > MOST_RUNS:
        raise ConfigError(f"{len(folders)} runs are too many for one page", hint=f"name at most {MOST_RUNS}")
    where = [folder.resolve() for folder in folders]
    if twice := [str(folder) for folder, path in zip(folders, where, strict=True) if where.count(path) > 1]:
        raise ConfigError(f"{' and '.join(twice)} are one run", hint="name each run once")
    scored = [found for file in score_files for found in _of_these(file, where)]
    return [
        _read(folder, letter, label, [found for found in scored if found.where.is_relative_to(folder.resolve())])
        for folder, letter, label in zip(
            progress(folders, desc="reading", unit="run"), ascii_uppercase, _labels(where), strict=False
        )
    ]


def _of_these(file: Path, folders: Sequence[Path]) -> list[Evaluated]:
    found = read_evaluated(file)
    if strange := sorted({str(one.where) for one in found if not any(map(one.where.is_relative_to, folders))}):
        raise ConfigError(
            f"{file} tells of weights of other runs: {some(strange, 3, each=200)}", hint="name these runs, too"
        )
    return found


def _read(folder: Path, letter: str, label: str, scored: Sequence[Evaluated]) -> ComparedRun:
    history = read_history(folder)
    evaluations = {
        name: Evaluation(curves, history.protocols.get(name, {})) for name, curves in _by_evaluation(history).items()
    }
    for one in scored:
        name, step = one.evaluation, history.last["step"] if one.step is None else one.step
        if name in evaluations and decisive(evaluations[name].protocol) != decisive(one.protocol):
            name = f"{name} (umt eval)"  # measured in another way than while the run trained
        before = evaluations[name].curves if name in evaluations else {}
        points = {metric: ScorePoint(step, value, one.items, one.left_out) for metric, value in one.values.items()}
        curves = {metric: _with(before.get(metric), f"{name}/{metric}", point) for metric, point in points.items()}
        evaluations[name] = Evaluation({**before, **curves}, one.protocol)
    return ComparedRun(letter, label, folder, load_run(str(folder / "config.yaml")), history, evaluations)


def _with(curve: ScoreCurve | None, name: str, point: ScorePoint) -> ScoreCurve:
    """The curve with a point that takes the place of one at its step."""
    points = {one.step: one for one in (*(curve.points if curve else ()), point)}
    return ScoreCurve(name, tuple(points[step] for step in sorted(points)))


def _labels(paths: Sequence[Path]) -> list[str]:
    """The last parts of each path, as many as it takes for all to differ."""
    most = max(len(path.parts) for path in paths)
    for count in range(1, most):
        labels = ["/".join(path.parts[-count:]) for path in paths]
        if len(set(labels)) == len(labels):
            return labels
    return [str(path) for path in paths]


# ---------------------------------------------------------------- what they are


def number_rows(runs: Sequence[ComparedRun]) -> Rows:
    """The key numbers of each run, a column a run."""
    numbers = [_as_mapping(key_numbers(run.config, run.history)) for run in runs]
    return [[name, *(one.get(name, "-") for one in numbers)] for name in _names(numbers)]


def setting_rows(runs: Sequence[ComparedRun]) -> Rows:
    """The settings in which they differ, by key, a column a run; - is a setting that a run has not."""
    return _unequal([flatten(as_tree(run.config)) for run in runs])


def origin_difference(runs: Sequence[ComparedRun]) -> Rows:
    """The versions, and contents of data and teacher, in which their newest checkpoints differ; a column a run."""
    return _unequal([_as_mapping(origin_rows(run.folder)) for run in runs])


def clip_lines(runs: Sequence[ComparedRun], *, rtol: float) -> Iterator[str]:
    """Whether each run saw the clips of the first one and computed its numbers, in the words of `umt verify-run`."""
    first = runs[0]
    for other in runs[1:]:
        names = (first.letter, other.letter)
        try:
            said = compare_runs(first.folder, other.folder, rtol=rtol, names=names).text(names)
        except ConfigError as error:
            said = error.what
        yield f"{first.letter} and {other.letter}: {said}"


def _as_mapping(rows: Sequence[tuple[str, ...]]) -> dict[str, str]:
    return {name: ", ".join(cells) for name, *cells in rows}


def _unequal(trees: Sequence[Mapping[str, Any]]) -> Rows:
    rows = [[name, *(_told(tree, name) for tree in trees)] for name in _names(trees)]
    return [row for row in rows if len(set(row[1:])) > 1]


def _told(tree: Mapping[str, Any], name: str) -> str:
    if name not in tree:
        return "-"
    value = tree[name]
    return shown(value if isinstance(value, str) else json.dumps(value), _LONGEST)  # null, as users write it


def _names(trees: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for tree in trees for name in tree))


# ---------------------------------------------------------------- what was measured


def measured_alike(runs: Sequence[ComparedRun]) -> list[Measured]:
    """The evaluations of all runs, in groups of runs that were measured in the same way."""
    found: dict[tuple[str, str], list[tuple[ComparedRun, Mapping[str, ScoreCurve]]]] = {}
    for run in runs:
        for name, evaluation in run.evaluations.items():
            way = {key: value for key, value in _way(run, name).items() if key not in _BESIDE}
            found.setdefault((name, json.dumps(way, sort_keys=True)), []).append((run, evaluation.curves))
    groups = [
        Measured(evaluation, tuple(run for run, _ in members), tuple(curves for _, curves in members))
        for (evaluation, _), members in found.items()
    ]
    order = list(dict.fromkeys(group.evaluation for group in groups))
    return sorted(groups, key=lambda group: order.index(group.evaluation))  # groups of a name beside each other


def _by_evaluation(history: History) -> dict[str, dict[str, ScoreCurve]]:
    """NAME/METRIC → curve, as metric → curve of each name."""
    found: dict[str, dict[str, ScoreCurve]] = {}
    for curve in history.scores:
        evaluation, _, metric = curve.name.rpartition("/")
        found.setdefault(evaluation, {})[metric] = curve
    return found


def _way(run: ComparedRun, evaluation: str) -> dict[str, Any]:
    return decisive(run.evaluations[evaluation].protocol)


def score_rows(group: Measured) -> Rows:
    """A row a metric, a column a run: the last score, and the best where that is another; partial where items are
    left out."""
    return [[metric, *(_score(curves.get(metric)) for curves in group.curves)] for metric in group.metrics]


def _score(curve: ScoreCurve | None) -> str:
    if curve is None:
        return "-"
    last, best = curve.last, curve.best
    told = f"{last.value:.4g} at step {last.step}" + (f", partial: {last.left_out} left out" if last.left_out else "")
    return (
        told
        if (best.left_out, best.value) == (last.left_out, last.value)
        else f"{told}; best {best.value:.4g} at {best.step}"
    )


def way_rows(runs: Sequence[ComparedRun], evaluation: str) -> Rows:
    """In what their protocols of an evaluation differ, a column a run; what cannot change a score is not told."""
    return _unequal([flatten(_way(run, evaluation)) for run in runs])

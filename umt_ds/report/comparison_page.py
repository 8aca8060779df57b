"""What `umt report RUN RUN …` does: several runs on one page."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from umt_ds.report.comparison import (
    ComparedRun,
    Measured,
    clip_lines,
    measured_alike,
    number_rows,
    origin_difference,
    read_compared,
    score_rows,
    setting_rows,
    way_rows,
)
from umt_ds.report.comparison_pictures import axis_of, draw_curves, draw_measured, style_of
from umt_ds.report.folder import ReportFolder
from umt_ds.report.page import Section, legend, note, page, sentence, table
from umt_ds.tasks.room import Say
from umt_ds.terminal import columns

_RTOL = 1e-5  # as `umt verify-run` has it
_SPEED = ("clips_per_s", "data_stall_percent", "peak_memory_gib")


def write_comparison(folders: Sequence[Path], out: Path, *, say: Say, score_files: Sequence[Path] = ()) -> str:
    """Write index.html and the PNGs of several runs into `out`; the page's path and their scores as text.

    score_files: what `umt eval -o` wrote of these runs. Raises UmtError as `read_compared`, MachineError where `out`
    cannot be written.
    """
    runs = read_compared(folders, score_files)
    for run in runs:
        if run.history.passed_over:
            say(run.history.passed_over)
    output = ReportFolder(out)
    say(f"drawing the curves of {len(runs)} runs")
    measured = measured_alike(runs)
    sections = [
        _which(runs, out),
        _training(runs, output),
        *([_scores(runs, measured, output)] if measured else [_unscored()]),
        _settings(runs),
        _clips(runs),
        _speed(runs, output),
    ]
    output.write("index.html", page(f"{len(runs)} runs compared", sections).encode())
    tables = [columns([_head(group), *score_rows(group)]) for group in measured]
    return "\n".join([str(out / "index.html"), *(f"{run.letter}  {run.folder}" for run in runs), *tables])


def _head(group: Measured) -> list[str]:
    return [group.evaluation, *(run.letter for run in group.runs)]


def _letters(runs: Sequence[ComparedRun]) -> list[str]:
    return ["", *(run.letter for run in runs)]


def _which(runs: Sequence[ComparedRun], out: Path) -> Section:
    keys = []
    for run in runs:
        own_page = run.folder / "report" / "index.html"
        href = os.path.relpath(own_page, out) if own_page.is_file() else None
        keys.append((*style_of(run.letter), f"{run.letter}  {run.label}", href))
    tasks = {run.config.task.kind for run in runs}
    several = "The runs have different tasks, so their losses do not compare."
    return Section(
        "The runs",
        (
            legend(keys),
            *([sentence(several)] if len(tasks) > 1 else []),
            table(number_rows(runs), head=_letters(runs)),
        ),
    )


def _training(runs: Sequence[ComparedRun], output: ReportFolder) -> Section:
    losses = list(dict.fromkeys(name for run in runs for name in run.history.loss_names))
    png = draw_curves(runs, [*losses, "lr", "grad_norm"])
    sizes = ", ".join(f"{run.config.batch.global_} of {run.letter}" for run in runs)
    about = f"The batches differ ({sizes}), so the curves are drawn over the clips that each run has drawn."
    return Section(
        "Training",
        (
            output.picture("training.png", png, about="losses, learning rate and gradient norm of all runs"),
            *([sentence(about)] if axis_of(runs) == "clips drawn" else []),
        ),
    )


def _unscored() -> Section:
    return Section(
        "Scores",
        (
            note(
                "None of the runs was evaluated while it trained (cadence.evaluate). With --scores FILE, also what "
                "umt eval -o FILE found of them stands here."
            ),
        ),
    )


def _scores(runs: Sequence[ComparedRun], measured: Sequence[Measured], output: ReportFolder) -> Section:
    """A table for each way in which an evaluation was made, and in what these ways differ."""
    names = list(dict.fromkeys(one.evaluation for one in measured))
    png = draw_measured(measured, runs)
    return Section(
        "Scores",
        (
            *(part for name in names for part in _evaluation(name, measured)),
            output.picture("scores.png", png, about="each metric of the evaluations of all runs over the steps"),
            note(
                "The larger the better. A single run of each proves little: train several seeds, and umt eval puts "
                "their mean and standard deviation in one row."
            ),
        ),
    )


def _evaluation(name: str, measured: Sequence[Measured]) -> Iterator[str]:
    groups = [one for one in measured if one.evaluation == name]
    runs = [run for group in groups for run in group.runs]
    if len(groups) > 1:
        apart = " from ".join(", ".join(run.letter for run in group.runs) for group in groups)
        yield sentence(
            f"{name}: MEASURED IN {len(groups)} WAYS, so that the scores of {apart} do not compare. What differs:"
        )
    for group in groups if len(groups) == 1 else ():
        yield table(score_rows(group), head=_head(group))
    differences = way_rows(runs, name)
    if differences:
        about = f"{name}, measured with" if len(groups) > 1 else f"{name}, not alike"
        yield table(differences, head=(about, *(run.letter for run in runs)))
    for group in groups if len(groups) > 1 else ():
        yield table(score_rows(group), head=_head(group))


def _settings(runs: Sequence[ComparedRun]) -> Section:
    rows, origins = setting_rows(runs), origin_difference(runs)
    head = _letters(runs)
    return Section(
        "What differs",
        (
            table(rows, head=("setting", *head[1:])) if rows else sentence("All settings are the same."),
            *([table(origins, head=("of the newest checkpoint", *head[1:]))] if origins else []),
        ),
    )


def _clips(runs: Sequence[ComparedRun]) -> Section:
    """Line by line what `umt verify-run` says of each run beside the first."""
    return Section("The same clips?", tuple(note(line) for line in clip_lines(runs, rtol=_RTOL)))


def _speed(runs: Sequence[ComparedRun], output: ReportFolder) -> Section:
    png = draw_curves(runs, _SPEED)
    return Section("Speed", (output.picture("speed.png", png, about="throughput, data stall and memory of all runs"),))

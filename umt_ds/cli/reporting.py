"""What `umt report` does: read a run, draw it, probe it, write the page."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from umt_ds.cli.study import Say, Study
from umt_ds.config.load import load_run
from umt_ds.config.schema import RunConfig, Stage1Config
from umt_ds.data.records import load_manifest
from umt_ds.engine.manifest import resolve_checkpoint
from umt_ds.errors import MachineError, UmtError
from umt_ds.evaluation.facts import checkpoint_rows, key_numbers, origin_rows, recipe_difference
from umt_ds.evaluation.history import History, read_history
from umt_ds.evaluation.masked import MaskedClip
from umt_ds.evaluation.page import Section, note, page, picture, sentence, table
from umt_ds.evaluation.pictures import draw_accuracy, draw_masks, draw_speed, draw_training
from umt_ds.evaluation.probe import ProbeResult

T = TypeVar("T")


@dataclass(frozen=True)
class ReportOptions:
    """What to measure, and on which shards: None for the run's own, and the folder `val` beside them."""

    probe: bool = True
    train: Path | None = None
    val: Path | None = None
    max_clips: int = 2000


def write_report(run: Path, out: Path, options: ReportOptions, *, say: Say) -> str:
    """Write index.html, the PNGs and probe.json of `run` into `out`; the page's path and the kNN table as text.

    What a section lacks by itself (held-out shards, labels, a checkpoint, the teacher) that section says. Raises
    UmtError where `run` is no run, and where shards that `options` names are not there.
    """
    history = read_history(run)
    config = load_run(str(run / "config.yaml"))
    for named in (options.train, options.val):
        if named is not None:
            load_manifest(named)
    output = _Output(out)
    say(f"drawing the curves of {run}")
    sections = [_facts(config, history), _training(config, history, output)]
    text = str(out / "index.html")
    match config.task:
        case Stage1Config() as task:
            study = Study(run, config, task, options.train, options.val, options.max_clips)
            say("drawing masks over held-out clips")
            sections.append(_masks(study, _or_error(study.masked_clips), output))
            if options.probe:
                result = _or_error(lambda: study.probe(say))
                sections.append(_probe(study, result, output))
                text += f"\n{_as_text(result)}"
        case _:
            sections.append(Section("What was learned", (note(_ONLY_STAGE1),)))
    sections += [_speed(config, history, output), _origins(run)]
    output.write("index.html", page(f"Run {config.name}", sections).encode())
    return text


_ONLY_STAGE1 = (
    "Masks and kNN are drawn for stage-1 runs only. How good this CLIP is shows where it teaches: in the row "
    "`teacher` of the report of a stage-1 run."
)


class _Output:
    """The folder of a report. Files appear whole. Raises MachineError where they cannot be written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, name: str, content: bytes) -> None:
        path = self._folder / name
        partial = path.with_name(f"{name}.partial")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(content)
            os.replace(partial, path)
        except OSError as error:
            raise MachineError(f"cannot write {path}: {error}", hint="choose another folder with -o") from error

    def picture(self, name: str, png: bytes, *, about: str) -> str:
        """Write the PNG; the same picture as HTML."""
        self.write(name, png)
        return picture(png, about=about)


def _or_error(make: Callable[[], T]) -> T | UmtError:
    """What `make` gives, or why it cannot: a section says so, the rest of the page stands."""
    try:
        return make()
    except UmtError as error:
        return error


# ---------------------------------------------------------------- the sections


def _facts(config: RunConfig, history: History) -> Section:
    parts = [table(key_numbers(config, history))]
    match recipe_difference(config):
        case None:
            parts.append(note(f"No shipped recipe is called {config.name}: config.yaml in the run folder says it all."))
        case (recipe, []):
            parts.append(sentence(f"The configuration is that of the shipped recipe {recipe}, unchanged."))
        case (recipe, lines):
            parts.append(sentence(f"Different from the shipped recipe {recipe} (recipe → this run):"))
            parts.append(table([line.split(": ", 1) for line in lines]))
    return Section("The run", tuple(parts))


def _training(config: RunConfig, history: History, output: _Output) -> Section:
    png = draw_training(history, title=f"{config.name}: training")
    resumed = ", ".join(str(step) for step in history.resumed_at)
    return Section(
        "Training",
        (
            output.picture("training.png", png, about="loss, learning rate and gradient norm over the steps"),
            sentence(f"Resumed; first steps logged after it: {resumed}." if resumed else "Ran without interruption."),
            sentence(str(history.rerun)),
        ),
    )


def _masks(study: Study, clips: list[MaskedClip] | UmtError, output: _Output) -> Section:
    title = "What the student sees"
    if isinstance(clips, UmtError):
        return Section(title, (note(f"Not drawn: {clips}"),))
    kind, grid, frames = study.mask.kind, clips[0].grid, study.task.student.frames
    patches = grid[0] * grid[1]
    png = draw_masks(clips, title=f"{study.config.name}: held-out clips under the {kind} mask")
    about = (
        f"Of the {frames} × {patches} patches of a clip the student sees {study.mask.visible(frames, patches)}, those "
        "in colour. The teacher sees all; its class token attends most to the bright ones"
    )
    return Section(
        title,
        (
            output.picture("masks.png", png, about="frames, the patches that are kept, the teacher's attention"),
            sentence(f"{about}, which are the likeliest to be kept." if kind == "semantic" else f"{about}."),
        ),
    )


def _probe(study: Study, result: ProbeResult | UmtError, output: _Output) -> Section:
    title = "What the features know"
    if isinstance(result, UmtError):
        return Section(title, (note(f"Not measured: {result}"),))
    where = {
        "checkpoint": str(resolve_checkpoint(study.run)),
        "train": str(study.training_shards),
        "val": str(study.held_out_shards),
    }
    output.write("probe.json", (json.dumps({**where, **asdict(result)}, indent=1) + "\n").encode())
    png = draw_accuracy(result.accuracy, title=f"{study.config.name}: kNN accuracy on held-out clips")
    head, *rows = _probe_rows(result)
    return Section(
        title,
        (
            output.picture("probe.png", png, about="kNN accuracy of each model for each label"),
            table(rows, head=head),
            note(
                f"Frozen features, nothing trained: the {result.k} nearest of {result.train_clips} labelled clips vote "
                f"on each of {result.test_clips} held-out ones (cosine, temperature {result.temperature:g}). "
                "Student: mean over all tokens of the unmasked clip; untrained: the same student before step 0. "
                "Teacher: mean over the frames of its image embedding, so it cannot tell their order. "
                "Chance: always the most common class."
            ),
            table(list(where.items())),
        ),
    )


def _speed(config: RunConfig, history: History, output: _Output) -> Section:
    png = draw_speed(history, title=f"{config.name}: speed")
    return Section("Speed", (output.picture("speed.png", png, about="throughput and data stall over the steps"),))


def _origins(run: Path) -> Section:
    rows = checkpoint_rows(run)
    head = ("checkpoint", "written by", "size", "written (UTC)", "hash of the numbers")
    parts = (table(rows, head=head), table(origin_rows(run))) if rows else (note("The run has no checkpoint yet."),)
    return Section("Checkpoints and origins", parts)


def _probe_rows(result: ProbeResult) -> list[list[str]]:
    """The accuracies in percent as a table, heading first."""
    rows = [[model, *(f"{100 * share:.1f}" for share in shares.values())] for model, shares in result.accuracy.items()]
    return [["kNN accuracy, %", *result.labels], *rows]


def _as_text(result: ProbeResult | UmtError) -> str:
    """The table for a terminal."""
    if isinstance(result, UmtError):
        return f"no kNN accuracy: {result}"
    rows = _probe_rows(result)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        row[0].ljust(widths[0])
        + "".join(cell.rjust(width + 3) for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    )

"""`umt report`: one page about a run, or about several beside each other."""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource

from umt_ds.data.shards.storage import as_path
from umt_ds.environment import set_default
from umt_ds.errors import ConfigError

_FOLDER = click.Path(file_okay=False, path_type=Path)


def _place(ctx: click.Context, option: click.Parameter, text: str | None) -> Path | None:
    """A folder, or a URL."""
    return None if text is None else as_path(text)


@click.command("report")
@click.argument("runs", nargs=-1, required=True, type=_FOLDER, metavar="RUN...")
@click.option(
    "-o",
    "--out",
    type=_FOLDER,
    help="Where to write; default RUN/report, of several runs report/comparison of the first.",
)
@click.option("--probe/--no-probe", default=True, help="Measure the kNN accuracy of the features (runs with a probe).")
@click.option(
    "--train", callback=_place, metavar="SHARDS", help="Labelled clips that vote; default: the run's own data."
)
@click.option(
    "--val",
    callback=_place,
    metavar="SHARDS",
    help="Held-out clips; default: the set that the run is judged on, or the folder val beside --train.",
)
@click.option("--clips", type=click.IntRange(1), default=2000, show_default=True, help="Probe at most so many of each.")
@click.option(
    "--scores",
    "score_files",
    multiple=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Of several runs: also the scores that `umt eval RUN RUN -o FILE` has written. May be repeated.",
)
@click.pass_context
def command(
    ctx: click.Context,
    runs: tuple[Path, ...],
    out: Path | None,
    probe: bool,
    train: Path | None,
    val: Path | None,
    clips: int,
    score_files: tuple[Path, ...],
) -> None:
    """Make pictures and one HTML page of a RUN folder, or of several runs beside each other.

    Of one run: curves, speed, the scores of its evaluations, and what its task has to show. Of stage 1 these are masks
    drawn over held-out clips, and what the features know (kNN on held-out clips: trained student, untrained student,
    teacher, chance); of stage 2 and retrieval the clips that held-out captions find, re-ranked too where the run is
    judged so, and the options that a multiple choice takes; of question answering held-out questions with the answers;
    of a classifier its confusion matrix, and held-out clips with their predicted classes.

    Of several runs: their curves over each other, their scores in one table, the settings and versions in which they
    differ, and whether they saw the same clips. Scores that were measured in different ways (another set, other frames)
    stand apart, with what differs.

    Writes index.html, which needs nothing else, the PNGs, and of one run numbers as JSON (probe.json, retrieval.json,
    confusion.json, …). Prints the path of the page, and what there is to show as a table.

    \b
    For example:
      umt report runs/demo/stage1
      umt report runs/mine --train /data/k710/train --val /data/k710/val --clips 5000
      umt report runs/mine-0 runs/mine-1 runs/mine-2 -o compared
      umt report runs/k400-a runs/k400-b --scores scores.json
    """
    # before torch loads: idle threads sleep instead of spinning, since a report often runs beside a training
    set_default("OMP_WAIT_POLICY", "PASSIVE")

    def say(text: str) -> None:
        click.echo(text, err=True)

    if len(runs) > 1:
        _refuse_options_of_one_run(ctx)
        from umt_ds.report.comparison_page import write_comparison

        folder = out or runs[0] / "report" / "comparison"
        click.echo(write_comparison(runs, folder, say=say, score_files=score_files))
        return
    if score_files:
        raise ConfigError("--scores is for the page of several runs", hint="name them all; or leave it out")
    from umt_ds.report.write import write_report
    from umt_ds.tasks.room import ExhibitOptions

    options = ExhibitOptions(probe=probe, train=train, val=val, max_clips=clips)
    click.echo(write_report(runs[0], out or runs[0] / "report", options, say=say))


def _refuse_options_of_one_run(ctx: click.Context) -> None:
    """Raises ConfigError where an option is given that a page of several runs would pass over."""
    default = (ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)
    for name in ("probe", "train", "val", "clips"):
        if ctx.get_parameter_source(name) not in default:
            raise ConfigError(
                f"--{name} is for the page of one run, and several are named",
                hint="leave it out; or make the page of each run by itself",
            )

"""`umt report`: one page about each run."""

from __future__ import annotations

from pathlib import Path

import click

from umt_ds.data.shards.storage import as_path
from umt_ds.environment import set_default
from umt_ds.errors import ConfigError

_FOLDER = click.Path(file_okay=False, path_type=Path)


def _place(ctx: click.Context, option: click.Parameter, text: str | None) -> Path | None:
    """A folder, or a URL."""
    return None if text is None else as_path(text)


@click.command("report")
@click.argument("runs", nargs=-1, required=True, type=_FOLDER, metavar="RUN...")
@click.option("-o", "--out", type=_FOLDER, help="Where to write; default RUN/report. With several runs: OUT/NAME.")
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
def command(
    runs: tuple[Path, ...], out: Path | None, probe: bool, train: Path | None, val: Path | None, clips: int
) -> None:
    """Make pictures and one HTML page of each RUN folder: curves, speed, the scores of its evaluations, and what its
    task has to show. Of stage 1 these are masks drawn over held-out clips, and what the features know (kNN on held-out
    clips: trained student, untrained student, teacher, chance); of stage 2 and retrieval the clips that held-out
    captions find, re-ranked too where the run is judged so, and the options that a multiple choice takes; of question
    answering held-out questions with the answers; of a classifier its confusion matrix, and held-out clips with their
    predicted classes.

    Writes index.html, the PNGs, and numbers as JSON (probe.json, retrieval.json, confusion.json, …). Prints the path of
    the page, and what the task has to show as a table.

    \b
    For example:
      umt report runs/demo/stage1
      umt report runs/demo/teacher runs/demo/stage1 -o reports --no-probe
      umt report runs/mine --train /data/k710/train --val /data/k710/val --clips 5000
    """
    # before torch loads: idle threads sleep instead of spinning, since a report often runs beside a training
    set_default("OMP_WAIT_POLICY", "PASSIVE")
    from umt_ds.report.write import write_report
    from umt_ds.tasks.room import ExhibitOptions

    options = ExhibitOptions(probe=probe, train=train, val=val, max_clips=clips)
    names = [run.resolve().name for run in runs]
    if out is not None and len(set(names)) < len(names):
        raise ConfigError(f"two of the runs have one name: {', '.join(names)}", hint="report them one by one")
    for run, name in zip(runs, names, strict=True):
        folder = run / "report" if out is None else out / name if len(runs) > 1 else out
        click.echo(write_report(run, folder, options, say=lambda text: click.echo(text, err=True)))

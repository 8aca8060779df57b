"""`umt predict`: what a trained model says of video files."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import click

from umt_ds.cli.words import LOCAL_FILE, overrides_in, runs_in
from umt_ds.distributed.world import find_world, sign_of_launcher
from umt_ds.environment import set_default, temporary_folder, working_folder
from umt_ds.errors import EXIT_FAILED, ConfigError, MachineError, printable
from umt_ds.jobs.eval_runs import find_runs
from umt_ds.jobs.predict_input import find_videos, text_lines
from umt_ds.whole_file import write_whole

_TEXT_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_COUNT = click.IntRange(1)
_VIEWS = click.IntRange(1, 99)


@click.command("predict")
@click.argument("words", nargs=-1, required=True, metavar="RUN VIDEO... [KEY=VALUE]...")
@click.option("--caption", "captions", multiple=True, metavar="TEXT", help="May this caption fit? May be repeated.")
@click.option("--captions", "caption_file", type=_TEXT_FILE, help="More captions: a text file, one on each line.")
@click.option("--match", is_flag=True, help="Rank the most similar captions by how probably they match (slower).")
@click.option("--question", "questions", multiple=True, metavar="TEXT", help="A question to answer. May be repeated.")
@click.option("--answers", "answer_file", type=_TEXT_FILE, help="Choose from these (umt-data answers, or one a line); "
              "else answers are written freely.")  # fmt: skip
@click.option("--beams", type=_COUNT, help="Follow so many answers at a time while they are written; default: 1.")
@click.option("--classes", metavar="NAMES", help="Names for classes without: k400, k600, k700, k710, or a file.")
@click.option(
    "--segments",
    type=click.IntRange(1, 99),
    help="Clips of each video that a classifier sees; default: as it is tested.",
)
@click.option(
    "--crops",
    type=click.IntRange(1, 99),
    help="Squares of each frame that a classifier sees; default: as it is tested.",
)
@click.option("--top", type=_COUNT, default=5, show_default=True, help="Say so many of the likeliest.")
@click.option("--weights", metavar="PATH", help="Ask these: a weight file, the folder of a model, run or checkpoint.")
@click.option("--best", is_flag=True, help="Of a run folder, the best checkpoint (cadence.keep_best), not the newest.")
@click.option("--ema/--no-ema", "averaged", default=None, help="Ask the moving average of the weights, or not; "
              "default: as the run is judged.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON in the place of tables.")
@click.option("-o", "--out", type=LOCAL_FILE, help="Write the JSON to this file, too.")
@click.option("--picture", type=LOCAL_FILE, help="Draw frames of the videos with what is said of them, as PNG.")
def command(
    words: tuple[str, ...],
    captions: tuple[str, ...],
    caption_file: Path | None,
    match: bool,
    questions: tuple[str, ...],
    answer_file: Path | None,
    beams: int | None,
    classes: str | None,
    segments: int | None,
    crops: int | None,
    top: int,
    weights: str | None,
    best: bool,
    averaged: bool | None,
    as_json: bool,
    out: Path | None,
    picture: Path | None,
) -> None:
    """Say what is in videos: a classifier names its classes, a model of stage 2 or retrieval says which captions fit, a
    model of question answering answers.

    RUN is what `umt eval` takes: a run folder, a checkpoint folder, or a YAML file or shipped run with --weights.
    VIDEO is a file, or a folder with videos below it. A word with `=` sets a key of the run; write ./a=b for a video
    of that name. Frames are chosen among all of a video, as published tests do. One process does it, on one GPU or on
    the CPU. A video that cannot be read is named, and the exit code is then 1.

    \b
    For example:
      umt predict runs/recognition_b16_k400 clip.mp4 --segments 4 --crops 3
      umt predict recognition/b16_k400 clip.mp4 --weights b16_k400.pth --classes k400
      umt predict runs/b16_5m videos/ --caption "a man opens a box" --caption "a dog runs" --match
      umt predict runs/b16_5m clip.mp4 --captions captions.txt --picture said.png
      umt predict runs/msrvtt_qa clip.mp4 --question "what is the man doing" --answers answers.json --json
    """
    working_folder()  # without these two, libraries would fail somewhere below
    temporary_folder()
    set_default("OMP_WAIT_POLICY", "PASSIVE")
    if sign_of_launcher() and find_world().size > 1:
        raise ConfigError("umt predict is one process, and a launcher has started several", hint="start it without one")
    if weights is not None and best:
        raise click.UsageError("--best is a checkpoint of a run folder, and --weights takes its place")
    name, *named = runs_in(words, weights=None)
    if not named:
        raise click.UsageError("Missing argument 'VIDEO...': which videos?")
    videos = find_videos([Path(video) for video in named])
    for file in (out, picture):
        _refuse_unwritable(file)
    given = [f"init.weights={weights}"] if weights is not None else []
    (run,) = find_runs([name], [*given, *overrides_in(words)], own_weights=weights is None, best=best, judged=False)
    from umt_ds.evaluation.prediction import Asked

    asked = Asked(
        captions=(*captions, *(text_lines(caption_file) if caption_file else ())),
        match=match,
        questions=questions,
        answers=text_lines(answer_file) if answer_file else (),
        beams=beams,
        segments=segments,
        crops=crops,
        top=top,
    )
    from umt_ds.distributed.world import World
    from umt_ds.jobs.evaluate import log_to_stderr
    from umt_ds.jobs.predict import Model, as_document, as_text

    log_to_stderr(World.alone())
    model = Model(run, asked, classes=classes, averaged=averaged)
    told = []
    for one in model.predict(videos):
        told.append(one)
        if one.error is not None:
            click.echo(f"error: {printable(f'{one.video}: {one.error}')}", err=True)
        elif not as_json:
            click.echo(as_text(one))
    document = json.dumps(as_document(model, told), indent=1) + "\n"
    if as_json:
        click.echo(document, nl=False)
    if out is not None:
        write_whole(out, document)
    if picture is not None:
        from umt_ds.report.predictions import draw_predictions

        write_whole(picture, draw_predictions(told, title=run.name))
    if any(one.error is not None for one in told):
        raise SystemExit(EXIT_FAILED)


def _refuse_unwritable(file: Path | None) -> None:
    """Raises MachineError where a file could not be written: before a model is loaded."""
    if file is None:
        return
    try:
        with tempfile.TemporaryFile(dir=file.parent):
            pass
    except OSError as error:
        raise MachineError(f"nothing can be written in {file.parent}: {error}", hint="name another file") from error

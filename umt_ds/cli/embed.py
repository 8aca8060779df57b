"""`umt embed`: clips and captions as vectors, in a file that `umt search` and others read."""

from __future__ import annotations

from math import isfinite
from pathlib import Path

import click
from click.core import ParameterSource

from umt_ds.cli.ranks import start_ranks, tell_the_others
from umt_ds.cli.words import LOCAL_FOLDER, overrides_in, runs_in
from umt_ds.environment import set_default, temporary_folder, working_folder
from umt_ds.errors import UmtError
from umt_ds.jobs.eval_runs import EvalRun, find_runs

_SECONDS = click.FloatRange(min=0, min_open=True)


@click.command("embed")
@click.argument("words", nargs=-1, required=True, metavar="RUN SOURCE... [KEY=VALUE]...")
@click.option("-o", "--out", required=True, type=LOCAL_FOLDER, help="The folder of the index.")
@click.option("--weights", metavar="PATH", help="Take these: a weight file, the folder of a model, run or checkpoint.")
@click.option("--best", is_flag=True, help="Of a run folder, the best checkpoint (cadence.keep_best), not the newest.")
@click.option("--window", type=_SECONDS, help="Cut videos into windows of so many seconds.")
@click.option("--stride", type=_SECONDS, help="Start a window each so many seconds; default: the length of one.")
@click.option("--captions", is_flag=True, help="Embed the captions of sets, too.")
@click.option("--caption-field", default="caption", show_default=True, help="The field that holds them.")
@click.option("--batch", type=click.IntRange(1), default=16, show_default=True, help="Clips that are embedded at once.")
@click.option("--dtype", type=click.Choice(["float16", "float32"]), default="float16", show_default=True)
@click.option("--format", "file_format", type=click.Choice(["parquet", "npz"]), default="parquet", show_default=True)
@click.option("--ranks", type=click.IntRange(1), help="Start that many ranks on this machine; or use a launcher.")
@click.option("--dry-run", is_flag=True, help="Print what would be embedded, and embed nothing.")
def command(
    words: tuple[str, ...],
    out: Path,
    weights: str | None,
    best: bool,
    window: float | None,
    stride: float | None,
    captions: bool,
    caption_field: str,
    batch: int,
    dtype: str,
    file_format: str,
    ranks: int | None,
    dry_run: bool,
) -> None:
    """Embed clips with a model of video and text (stage 2 or retrieval), so that texts can be searched among them.

    RUN is what `umt eval` takes: a run folder, a checkpoint folder, or a YAML file or shipped run with --weights.
    SOURCE is a set of shards or a table over one, a video file, or a folder of video files. A word with `=` sets a key
    of the run.

    A clip becomes one vector: the mean of its frames' unit vectors. Given again, the same command goes on where it was
    ended. Clips that cannot be read are left out, counted and named.

    \b
    For example:
      umt embed runs/b16_5m /data/msrvtt/test -o msrvtt.index --captions --ranks 8
      umt embed stage2/l16_25m ~/films --weights l16_25m.pth --window 10 --stride 5 -o films.index
      umt embed runs/b16_5m a.mp4 b.mp4 -o two.index data.augment.antialias=false
    """
    working_folder()  # without these two, libraries would fail somewhere below
    temporary_folder()
    set_default("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads take the cores of those who work
    set_default("TORCH_CPP_LOG_LEVEL", "ERROR")  # else a lost rank is a stack of C++ on each of the others
    if stride is not None and window is None:
        raise click.UsageError("--stride is of windows: give their length with --window")
    if not all(isfinite(seconds or 0) for seconds in (window, stride)):
        raise click.UsageError("--window and --stride are numbers of seconds")
    names = runs_in(words, weights=None)
    if len(names) < 2:
        raise click.UsageError("Missing argument 'SOURCE...': which clips?")
    try:
        run = _find(names[0], overrides_in(words), weights=weights, best=best)
    except UmtError as error:
        if not dry_run:
            tell_the_others(error)
        raise
    if not dry_run:
        start_ranks(ranks, ["embed", *words, *_options_given()])
    from umt_ds.data.video_clips import Windows
    from umt_ds.search.embed import EmbedJob, plan_embedding, run_embedding

    windows = Windows(window, stride or window) if window is not None else None
    field = caption_field if captions else None
    job = EmbedJob(run, names[1:], out, field, windows, batch, dtype, "npz" if file_format == "npz" else "parquet")
    text = plan_embedding(job, ranks or 1) if dry_run else run_embedding(job)
    if text is not None:
        click.echo(text)


def _find(name: str, overrides: list[str], *, weights: str | None, best: bool) -> EvalRun:
    if weights is not None and best:
        raise click.UsageError("--best is a checkpoint of a run folder, and --weights takes its place")
    given = [f"init.weights={weights}"] if weights is not None else []
    return find_runs([name], [*given, *overrides], own_weights=weights is None, best=best, judged=False)[0]


def _options_given() -> list[str]:
    """The options of this call but --ranks, for each of the ranks."""
    context = click.get_current_context()
    given = []
    for option in context.command.params:
        is_given = context.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
        if isinstance(option, click.Option) and is_given and option.name != "ranks":
            given += [option.opts[0]] if option.is_flag else [option.opts[0], str(context.params[option.name or ""])]
    return given

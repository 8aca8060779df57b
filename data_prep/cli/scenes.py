"""The command that finds scenes in long videos."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from data_prep.cli.options import FOLDER, NEW_FILE, Number, dry_run
from data_prep.cli.options import workers as workers_option
from data_prep.clip import RunOptions
from umt_ds.errors import EXIT_FAILED, ConfigError, shown


@click.command(short_help="Where long videos are cut: a list for `folder --spans`.")
@click.argument("videos", type=FOLDER)
@click.argument("out", type=NEW_FILE)
@click.option("--threshold", default=27.0, type=Number(0, min_open=True), help="Lower finds more cuts.")
@click.option("--min-seconds", default=2.0, type=Number(0), help="Leave out shorter scenes.")
@click.option("--max-seconds", default=60.0, type=Number(0, min_open=True), help="Cut longer scenes into equal parts.")
@click.option("--timeout", default=3600.0, type=Number(0.1), help="Seconds for a video.")
@click.option("--max-bad", default=RunOptions.max_bad, type=Number(0, 1), help="Share that may be bad.")
@workers_option
@dry_run
def scenes(
    videos: Path,
    out: Path,
    threshold: float,
    min_seconds: float,
    max_seconds: float,
    timeout: float,
    max_bad: float,
    workers: int,
    dry_run: bool,
) -> None:
    """Find the scenes of every video below VIDEOS by PySceneDetect, and write them to OUT, a csv with file,start,end.

    Nothing is encoded: `umt-data folder --spans OUT` makes a clip of each row. Give the same command again to
    continue after an interruption. Beside OUT, NAME.bad.csv says which videos cannot be read, and why.

    \b
    Example:
      umt-data scenes ~/films scenes.csv --min-seconds 3
      umt-data folder ~/films ~/shards/films --spans scenes.csv
    """
    from data_prep.sources.scenes import SceneOptions, bad_csv, write_scenes
    from umt_ds.data.shards.storage import is_local

    if not is_local(out):
        raise ConfigError(f"{out} is a URL, and the list is kept line by line", hint="name a file on this machine")
    options = SceneOptions(threshold, min_seconds, max_seconds)
    if dry_run:
        from data_prep.sources.scan import scan_videos

        click.echo(f"would look for scenes in {len(scan_videos(videos).videos):,} videos, and list them in {out}")
        return
    found = write_scenes(videos, out, options=options, run=RunOptions(workers, timeout, max_bad))
    left = f" ({found.short:,} shorter ones left out)" if found.short else ""
    click.echo(f"{out}: {found.spans:,} scenes of {found.videos:,} videos{left}")
    if found.refused:
        first = f"{shown(found.refused[0].source)}, {found.refused[0].reason}"
        click.echo(f"{len(found.refused):,} videos cannot be read, see {bad_csv(out)}: {first}")
    if found.bad_share > max_bad:
        click.echo(f"failed: {found.bad_share:.1%} of the videos cannot be read, more than --max-bad", err=True)
        sys.exit(EXIT_FAILED)


COMMANDS = (scenes,)

"""`umt eval`: how good trained models are, by measures of their tasks."""

from __future__ import annotations

from pathlib import Path

import click

from umt_ds.data.shards.storage import as_path


@click.group("eval")
def command() -> None:
    """Score trained runs on held-out data. Nothing is trained."""


@command.command("retrieval")
@click.argument("runs", nargs=-1, required=True, type=click.Path(file_okay=False, path_type=Path), metavar="RUN...")
@click.option("--shards", required=True, metavar="SHARDS", help="Held-out clips (or images) with captions.")
@click.option("--limit", type=click.IntRange(2), help="Only the first so many: shards lie in hashed order.")
@click.option("--caption", default="caption", show_default=True, help="Field of a sample's json with its text.")
@click.option(
    "--antialias/--no-antialias",
    default=None,
    help="How frames are resized; by default as data.augment.antialias of each run. Published weights: without.",
)
@click.option("--batch", default=16, show_default=True, type=click.IntRange(1), help="Clips embedded together.")
@click.option("-o", "--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the numbers as JSON, too.")
def retrieval(
    runs: tuple[Path, ...],
    shards: str,
    limit: int | None,
    caption: str,
    antialias: bool | None,
    batch: int,
    out: Path | None,
) -> None:
    """Zero-shot retrieval by stage-2 runs: how often a caption finds its clip, and a clip its caption, among all.

    By the similarity of embeddings, of frames in full view. Runs that differ by their seed alone are put together, and
    where such groups differ by init.weights alone, so is what these brought.

    \b
    For example:
      umt eval retrieval runs/b16_5m --shards /data/msrvtt/test
      umt eval retrieval runs/demo/stage2-* --shards runs/demo/data/retrieval -o retrieval.json
    """
    from umt_ds.jobs.evaluate import score_retrieval
    from umt_ds.tasks.stage2.retrieval import Retrieval

    request = Retrieval(as_path(shards), limit=limit, caption=caption, batch=batch, antialias=antialias)
    click.echo(score_retrieval(runs, request, out=out))

"""`umt search`: what a text or a video finds among embedded clips."""

from __future__ import annotations

from pathlib import Path

import click

from umt_ds.cli.words import LOCAL_FILE
from umt_ds.environment import at_home, set_default, temporary_folder, working_folder


@click.command("search")
@click.argument("index", type=click.Path(path_type=Path))
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@click.option("--queries", type=LOCAL_FILE, metavar="FILE", help="Search for each line of this file, too.")
@click.option("--video", type=LOCAL_FILE, metavar="FILE", help="Search for clips that are like this video.")
@click.option("--top", type=click.IntRange(1, 10_000), default=10, show_default=True, help="So many hits of a query.")
@click.option(
    "--rerank",
    type=click.IntRange(1, 10_000),
    metavar="N",
    help="Order the first N hits by the fusion encoder, which reads their clips again.",
)
@click.option("--captions", is_flag=True, help="Search among the captions of the index, not its clips.")
@click.option(
    "--weights", type=click.Path(path_type=Path), metavar="PATH", help="Where the weights of the index lie now."
)
@click.option("--picture", type=LOCAL_FILE, metavar="PNG", help="Draw frames of the hits, with their times and scores.")
@click.option(
    "--export-faiss", "faiss_file", type=LOCAL_FILE, metavar="FILE", help="Search nothing: write the vectors for faiss."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    index: Path,
    texts: tuple[str, ...],
    queries: Path | None,
    video: Path | None,
    top: int,
    rerank: int | None,
    captions: bool,
    weights: Path | None,
    picture: Path | None,
    faiss_file: Path | None,
    as_json: bool,
) -> None:
    """Find the clips of INDEX (`umt embed -o INDEX`) that a TEXT describes best.

    The index says which model made it, and the same one embeds the text. Similarity is the mean of the products of the
    text's unit vector and those of a clip's frames, at most 1. Every clip is compared; nothing is approximate.

    \b
    For example:
      umt search msrvtt.index "a man opens a box"
      umt search films.index "a dog on a beach" "a red car" --top 5 --picture hits.png
      umt search msrvtt.index "a man opens a box" --rerank 128
      umt search films.index --video clip.mp4 --json
      umt search films.index --export-faiss films.faiss
      umt search films.index --queries queries.txt --weights /new/place/l16_25m.pth
    """
    working_folder()  # without these two, libraries would fail somewhere below
    temporary_folder()
    set_default("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads take the cores of those who work
    place = Path(at_home(str(index)))
    if faiss_file is not None:
        if texts or queries or video or picture or rerank or weights or as_json:
            raise click.UsageError("--export-faiss searches nothing: only --captions goes with it")
        from umt_ds.search.faiss_file import export_faiss

        count = export_faiss(place, "captions" if captions else "clips", faiss_file)
        click.echo(f"{count:,} vectors written to {faiss_file}, in the order of the index")
        return
    if video is not None and (texts or queries):
        raise click.UsageError("--video is a query of its own: leave TEXT and --queries away")
    if video is None and not texts and queries is None:
        raise click.UsageError("what is looked for? Give a TEXT, --queries FILE or --video FILE")
    if captions and picture is not None:
        raise click.UsageError("--picture shows clips, and --captions finds captions")
    if rerank is not None and (captions or video is not None):
        raise click.UsageError("--rerank asks whether a text fits a clip: leave --captions and --video away")
    from umt_ds.search.ask import Search, as_text, queries_in, run_search
    from umt_ds.search.ask import as_json as found_as_json

    every = [*texts, *(queries_in(queries) if queries is not None else [])]
    found = run_search(Search(place, every, video, top, captions, weights, picture, rerank or 0))
    click.echo(found_as_json(found) if as_json else as_text(found))

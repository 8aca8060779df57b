"""The command that renders the demo's world, and makes sets and tables of it."""

from __future__ import annotations

from pathlib import Path

import click

from data_prep.cli.options import dry_run, run_options
from data_prep.clip import Listing, RunOptions, StoreOptions


@click.command(short_help="Render a small world and make shards of it.")
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--clips", default=1200, help="Clips in all; each fifth is for validation.")
@click.option("--seed", default=0, help="Another seed, another world.")
@click.option("--size", default=96, help="Height and width in pixels, rendered and stored.")
@dry_run
@run_options
def demo(out: Path, clips: int, seed: int, size: int, dry_run: bool, run: RunOptions) -> None:
    """Render a small world of moving balls in OUT/videos and make the shards OUT/train and OUT/val of it.

    A clip's appearance (a striped red ball) shows in any frame, its motion (moves left) in no single one. For video
    and language there are as many pictures with captions in OUT/images, a vocabulary of their words in OUT/vocab.txt,
    and in OUT/retrieval 64 clips of val that all show something different. OUT/train_captions is a table of the
    captions of train which says what of them means the same in other words. OUT/train_questions and OUT/val_questions
    are tables of questions about the clips, OUT/answers.json lists what can be answered, and OUT/val_choices has five
    captions for each clip of val, of which one is right.

    \b
    Example:
      umt-data demo ~/demo
    """
    from data_prep.cli.making import print_summary
    from data_prep.making.prepare import prepare
    from data_prep.sources import demo as world

    if dry_run:
        made = "shards of them, and tables of what is asked about them"
        click.echo(f"would render {clips} clips and pictures of {size}x{size} below {out}, make {made}")
        return
    world.render_demo(out, count=clips, seed=seed, size=size, run=run)
    world.render_pictures(out, count=clips, seed=seed, size=size, run=run)
    world.write_vocabulary(out)
    store = StoreOptions(frames=world.FRAMES, short_side=size, per_shard=128)
    sets = {
        "train": world.list_demo(out, "train"),
        "val": world.list_demo(out, "val"),
        "images": world.list_pictures(out),
        "retrieval": world.list_distinct(out),
    }
    for name, listing in sets.items():
        summary = prepare(listing.first_in_order(), out / name, name=f"demo-{name}", store=store, run=run)
        print_summary(summary, run.max_bad)
    _ask(out, sets["train"], sets["val"], seed=seed)


def _ask(out: Path, train: Listing, val: Listing, *, seed: int) -> None:
    """Tables over the clips of both splits, each of an annotation file beside them; those that are there are kept."""
    from data_prep.making.item_table import read_items, write_table
    from data_prep.sources import demo_questions as asked
    from umt_ds.data.shards.manifest import MANIFEST
    from umt_ds.data.shards.records import write_json

    learned, held_out = asked.question_rows(train.clips), asked.question_rows(val.clips)
    tables = {
        "train_captions": (out / "train", asked.caption_rows(train.clips)),
        "train_questions": (out / "train", learned),
        "val_questions": (out / "val", held_out),
        "val_choices": (out / "val", asked.choice_rows(val.clips, seed)),
    }
    for name, (clips, rows) in tables.items():
        annotations = out / f"{name}.json"
        asked.write_rows(annotations, rows)
        if not (out / name / MANIFEST).is_file():
            write_table(read_items(clips, annotations=[annotations]), out / name, name=f"demo-{name}")
        click.echo(f"{out / name}: {len(rows):,} items over {clips}")
    write_json(out / "answers.json", asked.all_answers())
    blind = asked.blind_accuracy(learned, held_out)
    click.echo(
        f"{out / 'answers.json'}: {len(asked.all_answers())} answers; the most frequent one to each question is right "
        f"for {blind:.1%} of val_questions, without a look at the clips; chance of val_choices: {1 / asked.OPTIONS:.0%}"
    )


COMMANDS = (demo,)

"""The commands that look at finished sets and change nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from data_prep.cli.options import (
    FILE,
    FOLDER,
    LIST,
    NEW_FILE,
    NEW_FOLDER,
    POSITIVE,
    Number,
    dry_run,
    given,
    say_unused,
    workers,
)
from umt_ds.errors import EXIT_FAILED, ConfigError, DataError


@click.command(short_help="Check every byte of a set, and that frames decode.")
@click.argument("out", type=FOLDER)
@click.option("--every", default=10, type=POSITIVE, help="Decode frames of each n-th sample.")
@click.option("--frames", default=3, type=POSITIVE, help="Frames to decode of such a sample.")
@click.option("--timeout", default=60.0, type=Number(0.1), help="Seconds for a sample.")
@click.option("--items-only", is_flag=True, help="Of a table its items, and not the sets under it.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@workers
def verify(out: Path, every: int, frames: int, timeout: float, items_only: bool, as_json: bool, workers: int) -> None:
    """Check a set of shards: sizes, hashes, checksums, index, json, labels, keys, counts, and that frames decode.

    Of a table over sets each item is checked: its sample, its frames, its label, its key; then each set under it as a
    whole, once. Exit code 1 on any fault.

    \b
    Example:
      umt-data verify ~/shards/mine --every 1
    """
    import json

    from data_prep.checking.verify import verify as check
    from umt_ds.data.shards.manifest import load_manifest

    if items_only and not load_manifest(out).parts:
        raise ConfigError(f"--items-only is for tables, and {out} has shards of its own", hint="leave it away")
    report = check(out, every=every, frames=frames, workers=workers, timeout_s=timeout, items_only=items_only)
    click.echo(json.dumps(report.to_json(), indent=1, ensure_ascii=False) if as_json else report.table())
    sys.exit(EXIT_FAILED if report.faults else 0)


@click.command(short_help="Draw a contact sheet.")
@click.argument("out", type=FOLDER)
@click.option("-o", "--output", type=NEW_FILE, help="[default: OUT/sheet.png]")
@click.option("--samples", default=24, type=POSITIVE, help="At most so many, spread over the set.")
@dry_run
def sheet(out: Path, output: Path | None, samples: int, dry_run: bool) -> None:
    """Draw a contact sheet: first, middle and last frame of some samples, or items of a table, with key, label and
    caption or question, and boxes in the middle one.

    \b
    Example:
      umt-data sheet ~/shards/mine -o mine.png
    """
    from data_prep.checking.sheet import write_sheet

    png = output or out / "sheet.png"
    if dry_run:
        click.echo(f"would draw {png}")
        return
    click.echo(f"{write_sheet(out, png, samples=samples)} samples drawn in {png}")


@click.command(short_help="Durations, sizes, labels, captions in numbers.")
@click.argument("out", type=FOLDER)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--plot", type=NEW_FILE, help="Draw histograms there, as PNG.")
@workers
def stats(out: Path, as_json: bool, plot: Path | None, workers: int) -> None:
    """Say what a set holds: durations, sizes, frame rates, labels, captions. Of a table, what its items hold and what
    the clips that they use, each once.

    No tar is read where the set has statistics.arrow (`umt-data upgrade` makes it).

    \b
    Example:
      umt-data stats ~/shards/mine --plot mine.png
    """
    import json

    from data_prep.checking.stats import collect_stats, table, write_plots

    found = collect_stats(out, workers=workers)
    click.echo(json.dumps(found, indent=1, ensure_ascii=False) if as_json else table(found))
    if plot:
        write_plots(found, plot)
        click.echo(f"drawn in {plot}", err=True)


@click.command(short_help="Everything about one sample.")
@click.argument("out", type=FOLDER)
@click.argument("key")
@click.option("--png", type=NEW_FILE, help="Draw all its frames there, with their times.")
def show(out: Path, key: str, png: Path | None) -> None:
    """Print the json of sample KEY, its files, where they lie, and its neighbours.

    KEY may also be the path of its video, or the name of its file in the tar. Of a table it is that of an item, or of a
    clip, of which the first item is shown: what it asks, and of which frames.

    \b
    Example:
      umt-data show ~/shards/mine "cats/my clip.mp4" --png clip.png
    """
    from data_prep.checking.show import show as everything

    click.echo(everything(out, key, png))


@click.command(short_help="What a training list shares with other lists.")
@click.argument("train", type=LIST)
@click.option("--against", multiple=True, required=True, type=LIST, help="A csv or finished set; repeat.")
@click.option(
    "-o", "--output", type=NEW_FOLDER, help="Write leaks.csv, exclude.txt (and exclude_near.txt, pairs.png) there."
)
@click.option("--same-seconds", is_flag=True, help="Exclude clips that overlap in time only, not all of a video.")
@click.option("--near", is_flag=True, help="Compare what the frames show, too (finished sets).")
@click.option("--frames", default=8, type=POSITIVE, help="With --near: frames of each clip.")
@click.option("--distance", default=10, type=click.IntRange(0, 32), help="With --near: bits of 64 that may differ.")
@click.option("--share", default=0.5, type=Number(0, 1, min_open=True), help="With --near: of the frames.")
@click.option("--check", is_flag=True, help="Exit code 1 if anything is found, or cannot be read.")
@workers
@dry_run
def leaks(
    train: Path,
    against: tuple[Path, ...],
    output: Path | None,
    same_seconds: bool,
    near: bool,
    frames: int,
    distance: int,
    share: float,
    check: bool,
    workers: int,
    dry_run: bool,
) -> None:
    """Say which clips of TRAIN stand in other lists too: by YouTube id, by seconds and, with --near, by their frames.

    TRAIN and the lists are official Kinetics csv files or finished sets; of a table over sets, the clips that its items
    use. Give exclude.txt to --exclude of the commands that make sets. What only looks alike is in exclude_near.txt:
    look at pairs.png first.

    TRAIN itself may be among the lists: then clips are found that are in it twice, and exclude.txt leaves one of each
    (of each video; with --same-seconds also its other parts).

    \b
    Example:
      umt-data leaks k700/train.csv --against k400/val.csv --against k600/val.csv -o ~/leaks
      umt-data leaks ~/shards/web --against ~/shards/k400-val --near -o ~/leaks
      umt-data leaks ~/shards/web --against ~/shards/web --near -o ~/twice
    """
    from data_prep.leaks.report import find_leaks, write_found

    if not near:
        say_unused(given("frames", "distance", "share"), without="--near")
    if not output:
        say_unused(given("same_seconds"), without="--output")
    if dry_run:
        click.echo(f"would compare {train} with {' and '.join(map(str, against))}" + f", into {output}" * bool(output))
        return
    settings = {"frames": frames, "distance": distance, "share": share} if near else None
    found = find_leaks(train, against, near=settings, workers=workers)
    click.echo(found.table())
    if output:
        for sentence in write_found(found, output, kind="time" if same_seconds else "id"):
            click.echo(sentence)
    sys.exit(EXIT_FAILED if check and not found.is_clean else 0)


@click.command(short_help="The answers of questions, and lists of them.")
@click.argument("tables", metavar="TABLE...", nargs=-1, required=True, type=FOLDER)
@click.option("-o", "--output", type=NEW_FILE, help="Write the list of answers there: json, the most frequent first.")
@click.option("--most", type=POSITIVE, help="With --output: so many answers.  [default: all]")
@click.option("--min-count", default=1, type=POSITIVE, help="With --output: answers of so many questions.")
@click.option("--against", type=FILE, help="Say how many questions have an answer in this list.")
def answers(
    tables: tuple[Path, ...], output: Path | None, most: int | None, min_count: int, against: Path | None
) -> None:
    """Count the answers in tables of questions, and write the list among which a model chooses.

    A score by exact match cannot be above the share of questions that have an answer in the list.

    \b
    Example:
      umt-data answers ~/shards/msrvtt-qa-train -o answers.json --most 1500
      umt-data answers ~/shards/msrvtt-qa-test --against answers.json
    """
    import json

    from data_prep.checking.answers import read_answer_list, read_questions
    from umt_ds.data.shards.storage import write_whole

    if not output:
        say_unused(given("most", "min_count"), without="--output")
    listed = read_answer_list(against) if against else None
    questions = read_questions(tables)
    click.echo(questions.table())
    if listed is not None:
        click.echo(f"{against}: {questions.covered_by(listed)}")
    if output:
        chosen = questions.most_frequent(most=most, min_count=min_count)
        if not chosen:
            raise DataError(f"no answer is that of {min_count} questions", hint="give a smaller --min-count")
        write_whole(output, json.dumps(chosen, ensure_ascii=False, indent=0).encode())
        click.echo(f"{output}: {questions.covered_by(chosen)}")


COMMANDS = (verify, stats, sheet, show, leaks, answers)

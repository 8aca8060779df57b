"""The commands that make sets from tars: adopted as they are, filtered, split, merged. Nothing is decoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path

import click

from data_prep.cli.making import BuildJob, set_options
from data_prep.cli.options import FILE, FOLDER, NEW_FOLDER, Number, dry_run
from data_prep.cli.options import workers as workers_option
from umt_ds.errors import ConfigError


@click.command(short_help="Index tars that another tool wrote.")
@click.argument("out", type=FOLDER)
@click.option("--force", is_flag=True, help="Index again what is there now.")
@click.option("--subfolders", is_flag=True, help="Each folder below OUT that holds tars, too, as a set of its own.")
@click.option(
    "--suffix",
    "suffixes",
    multiple=True,
    metavar="OLD=NEW",
    help="What the tars call a file, and what it is: caption=txt, frame_*.jpg=*.jpg (* is a number); repeat.",
)
@workers_option
@dry_run
def index(out: Path, force: bool, subfolders: bool, suffixes: tuple[str, ...], workers: int, dry_run: bool) -> None:
    """Index the tars in OUT that img2dataset, video2dataset or another tool wrote, and write their manifest.

    Nothing is copied. What the tools say of failed downloads is summed up. The same command adds tars that have arrived
    since. What --subfolders makes, `umt-data merge` joins to one set.

    \b
    Example:
      umt-data index ~/cc3m-by-img2dataset
      umt-data index ~/mine --subfolders --suffix caption=txt --suffix class=cls
    """
    from data_prep.making.foreign import adopt_alone, adopt_below, folders_of_tars, new_tars, tars_in
    from data_prep.making.foreign_tar import suffixes_meant
    from umt_ds.data.shards.manifest import MANIFEST, load_manifest
    from umt_ds.data.shards.storage import kind_of

    meant = suffixes_meant(suffixes) or None
    if dry_run:
        for folder in folders_of_tars(out) if subfolders else [out]:
            tars, notes = tars_in(folder, alone=not subfolders)
            for note in notes:
                click.echo(note, err=True)
            is_there = kind_of(folder / MANIFEST) and not force
            added = new_tars(folder, load_manifest(folder), tars) if is_there else tars
            of = f" of {len(tars)}" if is_there else ""
            click.echo(f"would index {len(added)}{of} tars in {folder}")
        return
    take = adopt_below if subfolders else adopt_alone
    count = 0
    for adopted in take(out, force=force, suffixes=meant, workers=workers):
        count += 1
        for note in adopted.notes:
            click.echo(note, err=True)
        made = adopted.manifest
        where = f", {adopted.folder}" if subfolders else ""
        click.echo(f"{made.name}: {made.num_samples:,} samples ({made.media}) in {len(made.shards)} shards{where}")
    if not count:
        click.echo(f"all folders of tars below {out} are indexed already (--force indexes again what is there now)")


@click.command(short_help="Bring a set of an earlier version up to date.")
@click.argument("set_", metavar="SET", type=FOLDER)
@workers_option
@dry_run
def upgrade(set_: Path, workers: int, dry_run: bool) -> None:
    """Write index.arrow and statistics.arrow into SET, where an earlier version did not, or they are damaged.

    index.arrow is the index of all shards, which training maps; without it every node makes one for itself when a run
    starts. statistics.arrow holds what `stats` and `filter` ask of samples, so that they read no tar; to make it, what
    each sample says of itself is read once. Shards, fingerprint and the order of training stay.

    \b
    Example:
      umt-data upgrade ~/shards/k710
    """
    from data_prep.making.upgrade import missing_files
    from data_prep.making.upgrade import upgrade as bring_up_to_date

    missing = missing_files(set_) if dry_run else bring_up_to_date(set_, workers=workers)
    if not missing:
        click.echo(f"{set_} is up to date")
    elif dry_run:
        click.echo(f"would write {' and '.join(missing)} into {set_}")
    else:
        click.echo(f"{set_}: {' and '.join(missing)} written")


_copy = click.option("--copy", is_flag=True, help="Copy the samples to tars of their own.  [default: a table over SET]")


def _filter_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options that say which samples stay, given to `command` as one Filter, `keep`."""

    @click.option("--min-seconds", default=0.0, type=Number(0), help="Leave out shorter clips.")
    @click.option("--max-seconds", type=Number(0, min_open=True), help="Leave out longer clips.")
    @click.option("--min-side", default=0, type=click.IntRange(0), help="Leave out sources of a smaller short side.")
    @click.option("--captioned", is_flag=True, help="Leave out samples without a caption.")
    @click.option("--labelled", is_flag=True, help="Leave out samples without a label.")
    @wraps(command)
    def wrapped(
        min_seconds: float, max_seconds: float | None, min_side: int, captioned: bool, labelled: bool, **others: object
    ) -> None:
        from data_prep.sources.sets import Filter

        longest = Filter.max_seconds if max_seconds is None else max_seconds
        command(keep=Filter(min_seconds, longest, min_side, captioned, labelled), **others)

    return wrapped


@click.command("filter", short_help="A set without some of its samples.")
@click.argument("set_", metavar="SET", type=FOLDER)
@click.argument("out", type=NEW_FOLDER)
@_filter_options
@_copy
@set_options
def filter_(set_: Path, out: Path, keep: object, copy: bool, making: BuildJob) -> None:
    """Make a set OUT of the items of SET that no --exclude list names and no option leaves out.

    OUT is a table over SET: nothing is copied, and SET must stay where it is, seen from OUT. With --copy, samples are
    copied byte for byte and dealt to new shards. The lists are part of the new set's fingerprint. A sample that does
    not say its seconds or size is left out where they are asked about.

    \b
    Example:
      umt-data leaks ~/shards/k710 --against ~/shards/k400-val --output ~/leaks
      umt-data filter ~/shards/k710 ~/shards/k710-clean --exclude ~/leaks/exclude.txt
    """
    from data_prep.sources.set_items import list_items
    from data_prep.sources.sets import Filter, list_sets

    assert isinstance(keep, Filter)
    if keep == Filter() and not making.exclude and not making.limit:
        raise ConfigError("nothing says what to leave out", hint="give --exclude FILE, --min-seconds, --captioned, …")
    if copy:
        making.make(list_sets([set_], keep=keep, verb="filter"), out)
        return
    making.refuse_what_copies()
    making.make_table(list_items([set_], keep=keep, lists=making.key_lists(), verb="filter"), out)


@click.command(short_help="Two sets without a video in common.")
@click.argument("set_", metavar="SET", type=FOLDER)
@click.argument("out", type=NEW_FOLDER)
@click.option(
    "--share", default=0.05, type=Number(0, 1, min_open=True, max_open=True), help="Of the samples that go to OUT/val."
)
@click.option("--seed", default=0, help="Another seed, another split.")
@_copy
@set_options
def split(set_: Path, out: Path, share: float, seed: int, copy: bool, making: BuildJob) -> None:
    """Make sets OUT/train and OUT/val of the items of SET. Clips of one video stay on one side.

    They are tables over SET, or with --copy sets with tars of their own. The side is a hash of the video's id: it stays
    the same when the set grows.

    \b
    Example:
      umt-data split ~/shards/mine ~/shards/mine-split --share 0.1
    """
    from data_prep.sources.set_items import list_items, split_items
    from data_prep.sources.sets import list_sets
    from data_prep.sources.sets import split as two_sides

    name = making.name or set_.resolve().name
    train, val = (replace(making, name=f"{name}-{side}", exclude=()) for side in ("train", "val"))
    if copy:
        whole = making.without_excluded(list_sets([set_], verb="split"))
        first, second = two_sides(whole, share=share, seed=seed)
        train.make(first, out / "train")
        val.make(second, out / "val")
        return
    making.refuse_what_copies()
    items = list_items([set_], lists=making.key_lists(), verb="split")
    larger, smaller = split_items(items, share=share, seed=seed)
    train.make_table(larger, out / "train")
    val.make_table(smaller, out / "val")


@click.command(short_help="One set of several.")
@click.argument("out", type=NEW_FOLDER)
@click.argument("sets", metavar="SET...", nargs=-1, required=True, type=FOLDER)
@_copy
@set_options
def merge(out: Path, sets: tuple[Path, ...], copy: bool, making: BuildJob) -> None:
    """Make one set OUT of all SETs. They must hold the same media and have the same classes.

    OUT is a table over them: nothing is copied. With --copy, their samples are copied to new shards, mixed. A training
    run can also read several sets side by side, each with a weight of its own.

    \b
    Example:
      umt-data merge ~/shards/all ~/shards/a ~/shards/b
    """
    from data_prep.sources.set_items import list_items
    from data_prep.sources.sets import list_sets

    if copy:
        making.make(list_sets(sets, verb="merge"), out)
        return
    making.refuse_what_copies()
    making.make_table(list_items(sets, lists=making.key_lists(), verb="merge"), out)


@click.command(short_help="Another table over the frames of a set.")
@click.argument("set_", metavar="SET", type=FOLDER)
@click.argument("out", type=NEW_FOLDER)
@click.option(
    "--annotations",
    type=FILE,
    required=True,
    multiple=True,
    help="csv, tsv, json, jsonl, parquet, arrow, sqlite: a row an item; repeat.",
)
@click.option(
    "--protocol", metavar="NAME", help="FILE is of a published task, and in its form: `umt-data protocols` lists them."
)
@click.option("--classes", type=FILE, help="Names of the classes that `label` numbers, if they are not those of SET.")
@click.option("--explode", metavar="FIELD", help="A list in this field makes an item of each of its members.")
@click.option("--name", help="Name of the table.  [default: the folder's]")
@dry_run
def items(
    set_: Path,
    out: Path,
    annotations: tuple[Path, ...],
    protocol: str | None,
    classes: Path | None,
    explode: str | None,
    name: str | None,
    dry_run: bool,
) -> None:
    """Write a table of items over the frames of SET in OUT: no frame is copied, and OUT is used as a set.

    A row names its clip by `key`, or by `video`, `image`, `file`, … with the path of its file, and has any fields:
    `caption`, `label`, `question`, `answer`, …; `start` and `end` (seconds) make the item a part of its clip. Fields
    stand in the place of those that the clip had. OUT finds SET by where it lies: move both together.

    \b
    Example:
      umt-data items ~/shards/msrvtt ~/shards/msrvtt-1ka --annotations msrvtt_test1k.json --protocol msrvtt-1ka
      umt-data items ~/shards/mine ~/shards/mine-captions --annotations captions.csv --explode caption
    """
    from data_prep.making.item_table import read_items, write_table
    from data_prep.protocols import known
    from data_prep.tables.class_list import read_class_list

    asked = known.protocol(protocol) if protocol else None
    if asked and explode:
        raise ConfigError("--protocol says what an item is, and so does --explode", hint="leave --explode out")
    labels = read_class_list(classes) if classes else ()
    read = read_items(set_, annotations=annotations, protocol=asked, labels=labels, explode=explode)
    click.echo(read.text())
    if dry_run:
        click.echo(f"would write them to {out}")
        return
    write_table(read, out, name=name or "")
    if read.left_out:
        click.echo(f"see {out}/bad.csv")


@click.command(short_help="List the published tasks whose files `items` reads.")
def protocols() -> None:
    """Print the names that `umt-data items --protocol NAME` takes, with the videos and texts that their files have.

    \b
    Example:
      umt-data protocols
    """
    from data_prep.protocols import known

    click.echo(known.table())


COMMANDS = (index, upgrade, items, protocols, filter_, split, merge)

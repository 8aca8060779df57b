"""umt-data: from videos to shards. Commands parse, call one function, and print what came out.

Each command imports what it needs when it runs, so that --help answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING

import click

from data_prep.clip import Listing, RunOptions, StoreOptions
from umt_ds.errors import EXIT_FAILED, UmtError

if TYPE_CHECKING:
    from data_prep.manifest import Summary

Folder = click.Path(exists=True, file_okay=False, path_type=Path)
File = click.Path(exists=True, dir_okay=False, path_type=Path)
NewFolder = click.Path(file_okay=False, path_type=Path)
_POSITIVE = click.IntRange(1)


def main() -> None:
    """The program. Exit code 0: done; 1: something is wrong with data or machine; 2: wrong command or options."""
    try:
        umt_data()
    except UmtError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:  # no permission, a disk that fails: the system's words say it
        click.echo(f"error: {error}", err=True)
        sys.exit(EXIT_FAILED)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def umt_data() -> None:
    """From videos to shards (plain WebDataset tars with an index), and what to do with shards.

    \b
    Example:
      umt-data folder ~/videos ~/shards/mine --captions captions.csv
      umt-data verify ~/shards/mine
      umt-data sheet ~/shards/mine
    """


def _cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options of how the work is done, given to `command` as one RunOptions, `run`."""
    seconds, share = click.FloatRange(0.1), click.FloatRange(0, 1)

    @click.option("--workers", default=_cores(), type=_POSITIVE, help="Decoding processes.")
    @click.option("--timeout", default=RunOptions.timeout_s, type=seconds, help="Seconds granted to a clip.")
    @click.option("--max-bad", default=RunOptions.max_bad, type=share, help="Share of clips that may be bad.")
    @wraps(command)
    def wrapped(workers: int, timeout: float, max_bad: float, **others: object) -> None:
        command(run=RunOptions(workers, timeout, max_bad), **others)

    return wrapped


def _store_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options of what is stored, given to `command` as one StoreOptions, `store`."""
    quality_range, side = click.IntRange(1, 100), StoreOptions.short_side

    @click.option("--frames", default=StoreOptions.frames, type=_POSITIVE, help="Per clip, evenly spread.")
    @click.option("--short-side", default=side, type=_POSITIVE, help="Pixels; smaller videos stay so.")
    @click.option("--quality", default=StoreOptions.quality, type=quality_range, help="JPEG quality.")
    @click.option("--per-shard", default=StoreOptions.per_shard, type=_POSITIVE, help="Clips per shard.")
    @wraps(command)
    def wrapped(frames: int, short_side: int, quality: int, per_shard: int, **others: object) -> None:
        command(store=StoreOptions(frames, short_side, quality, per_shard), **others)

    return wrapped


_name = click.option("--name", help="Name of the set, first part of its file names.  [default: the folder's]")
_limit = click.option("--limit", type=_POSITIVE, help="Only this many clips, a fair sample of them.")
_dry_run = click.option("--dry-run", is_flag=True, help="Say what would be done; write nothing.")
_classes = click.option("--classes", type=File, help="Class names, one a line: fixes the label numbers.")


@umt_data.command(short_help="Shards of any folder of videos.")
@click.argument("videos", type=Folder)
@click.argument("out", type=NewFolder)
@click.option("--captions", type=File, help="csv with a header and the columns file,caption[,label].")
@click.option("--labels", type=File, help="csv with a header and the columns file,label.")
@_classes
@_name
@_limit
@_dry_run
@_run_options
@_store_options
def folder(
    videos: Path,
    out: Path,
    captions: Path | None,
    labels: Path | None,
    classes: Path | None,
    name: str | None,
    limit: int | None,
    dry_run: bool,
    store: StoreOptions,
    run: RunOptions,
) -> None:
    """Make shards in OUT of every video below VIDEOS.

    Give the same command again to continue after an interruption. OUT/bad.csv says which files became no
    sample, and why.

    \b
    Example:
      umt-data folder ~/videos ~/shards/mine --captions captions.csv --limit 100
    """
    from data_prep.sources.folder import list_folder

    listing = list_folder(videos, captions=captions, labels=labels, classes=classes)
    _prepare(listing.first_in_order(limit), out, name=name, store=store, run=run, dry_run=dry_run)


@umt_data.command(short_help="Shards of Kinetics by its official csv.")
@click.argument("videos", type=Folder)
@click.argument("out", type=NewFolder)
@click.option("--csv", type=File, required=True, help="Official csv: label,youtube_id,time_start,time_end,split.")
@_classes
@_name
@_limit
@_dry_run
@_run_options
@_store_options
def kinetics(
    videos: Path,
    out: Path,
    csv: Path,
    classes: Path | None,
    name: str | None,
    limit: int | None,
    dry_run: bool,
    store: StoreOptions,
    run: RunOptions,
) -> None:
    """Make shards in OUT of the Kinetics clips below VIDEOS that an official csv names.

    Rows without a file are listed in OUT/bad.csv as missing; they do not count against --max-bad.

    \b
    Example:
      umt-data kinetics ~/k400/val ~/shards/k400-val --csv kinetics400_validate.csv
    """
    from data_prep.sources.kinetics import list_kinetics

    listing = list_kinetics(videos, csv=csv, classes=classes)
    _prepare(listing.first_in_order(limit), out, name=name, store=store, run=run, dry_run=dry_run)


@umt_data.command(short_help="Render a small world and make shards of it.")
@click.argument("out", type=NewFolder)
@click.option("--clips", default=600, help="Clips in all; each fifth is for validation.")
@click.option("--seed", default=0, help="Another seed, another world.")
@click.option("--size", default=96, help="Height and width in pixels, rendered and stored.")
@_dry_run
@_run_options
def demo(out: Path, clips: int, seed: int, size: int, dry_run: bool, run: RunOptions) -> None:
    """Render a small world of moving balls in OUT/videos and make the shards OUT/train and OUT/val of it.

    A clip's appearance (a striped red ball) shows in any frame, its motion (moves left) in no single one.

    \b
    Example:
      umt-data demo ~/demo
    """
    from data_prep.sources.demo import FRAMES, list_demo, render_demo

    if dry_run:
        click.echo(f"would render {clips} clips of {size}x{size} in {out}/videos, then {out}/train and {out}/val")
        return
    render_demo(out, count=clips, seed=seed, size=size, run=run)
    store = StoreOptions(frames=FRAMES, short_side=size, per_shard=128)
    for split in ("train", "val"):
        listing = list_demo(out, split)
        _prepare(listing.first_in_order(None), out / split, name=f"demo-{split}", store=store, run=run)


@umt_data.command(short_help="Check every byte of a set, and that frames decode.")
@click.argument("out", type=Folder)
@click.option("--every", default=10, type=_POSITIVE, help="Decode frames of each n-th sample.")
@click.option("--frames", default=3, type=_POSITIVE, help="Frames to decode of such a sample.")
def verify(out: Path, every: int, frames: int) -> None:
    """Check a set of shards: sizes, hashes, checksums, index, json, and that frames decode.

    \b
    Example:
      umt-data verify ~/shards/mine --every 1
    """
    from data_prep.verify import verify as check

    report = check(out, every=every, frames=frames)
    click.echo(report.table())
    sys.exit(EXIT_FAILED if report.faults else 0)


@umt_data.command(short_help="Index tars that another tool wrote.")
@click.argument("out", type=Folder)
@click.option("--force", is_flag=True, help="Index again what is there now.")
@_dry_run
def index(out: Path, force: bool, dry_run: bool) -> None:
    """Index the tars in OUT that another tool wrote, and write their manifest. Nothing is copied.

    \b
    Example:
      umt-data index ~/cc3m-by-img2dataset
    """
    from data_prep.foreign import index_folder

    if dry_run:
        click.echo(f"would index {len(list(out.glob('*.tar')))} tars in {out}")
        return
    manifest = index_folder(out, force=force)
    click.echo(f"{manifest.name}: {manifest.num_samples:,} samples ({manifest.media}) in {len(manifest.shards)} shards")


@umt_data.command(short_help="Draw a contact sheet.")
@click.argument("out", type=Folder)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="[default: OUT/sheet.png]")
@click.option("--samples", default=24, type=_POSITIVE, help="At most so many, spread over the set.")
@_dry_run
def sheet(out: Path, output: Path | None, samples: int, dry_run: bool) -> None:
    """Draw a contact sheet: first, middle and last frame of some samples, with key, label and caption.

    \b
    Example:
      umt-data sheet ~/shards/mine -o mine.png
    """
    from data_prep.sheet import write_sheet

    png = output or out / "sheet.png"
    if dry_run:
        click.echo(f"would draw {png}")
        return
    click.echo(f"{write_sheet(out, png, samples=samples)} samples drawn in {png}")


@umt_data.command(short_help="Durations, sizes, labels, captions in numbers.")
@click.argument("out", type=Folder)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def stats(out: Path, as_json: bool) -> None:
    """Say what a set holds: durations, sizes, frame rates, labels, caption lengths.

    \b
    Example:
      umt-data stats ~/shards/mine
    """
    import json

    from data_prep.stats import collect_stats, table

    found = collect_stats(out)
    click.echo(json.dumps(found, indent=1, ensure_ascii=False) if as_json else table(found))


def _prepare(
    listing: Listing,
    out: Path,
    *,
    name: str | None,
    store: StoreOptions,
    run: RunOptions,
    dry_run: bool = False,
) -> None:
    """Make the set and say what came out; exit code 1 if more than max_bad of the clips were refused."""
    from data_prep.prepare import prepare

    for note in listing.notes:
        click.echo(note, err=True)
    name = name or out.resolve().name
    if dry_run:
        click.echo(_plan_text(listing, out, name, store))
        return
    summary = prepare(listing, out, name=name, store=store, run=run)
    click.echo(_summary_text(summary))
    if summary.bad_share > run.max_bad:
        click.echo(f"failed: {summary.bad_share:.1%} of the clips were refused, more than --max-bad", err=True)
        sys.exit(EXIT_FAILED)


def _plan_text(listing: Listing, out: Path, name: str, store: StoreOptions) -> str:
    shards = -(-len(listing.clips) // store.per_shard)
    lines = [
        f"would make {shards} shards {out}/{name}-000000.tar … of {len(listing.clips):,} clips",
        f"  {store.frames} frames a clip, short side {store.short_side}, JPEG quality {store.quality}",
        f"  {len(listing.labels)} classes, {sum(bool(clip.captions) for clip in listing.clips):,} clips with a caption",
        f"  {len(listing.left_out):,} entries left out before decoding",
        *(f"  {clip.source} → {clip.key}" for clip in listing.clips[:5]),
    ]
    return "\n".join(lines)


def _summary_text(summary: Summary) -> str:
    """samples + refused + left out = all, and the most frequent reasons."""
    from collections import Counter

    total = summary.samples + len(summary.refused) + len(summary.left_out)
    parts = [f"{summary.samples:,} samples", f"{len(summary.refused):,} refused"]
    if summary.left_out:
        parts.append(f"{len(summary.left_out):,} left out before decoding")
    size = f"{summary.bytes / 1e6:,.1f} MB in {summary.shards} shard{'s' * (summary.shards != 1)}"
    lines = [f"{summary.name}: {' + '.join(parts)} = {total:,} in all; {size}, {summary.out}"]
    if summary.refused:
        reasons = Counter(refusal.reason for refusal in summary.refused).most_common(8)
        lines += [f"{count:>8,}  {reason}" for reason, count in reasons]
    if summary.refused or summary.left_out:
        lines.append(f"see {summary.out}/bad.csv")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

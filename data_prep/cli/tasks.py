"""The commands of a job array, also for schedulers that are not Slurm: make a part of a set, end the set."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from data_prep.cli.options import FOLDER, Number, run_options
from data_prep.clip import RunOptions

if TYPE_CHECKING:
    from data_prep.state.plan import Plan


@click.command(short_help="Make a part of the shards of a set that was begun.")
@click.argument("out", type=FOLDER)
@click.option("--part", required=True, help="NUMBER/PARTS, such as 0/64: every 64th shard.")
@click.option("--retry-failed", is_flag=True, help="Also of finished shards: the clips that were refused.")
@click.option("--no-finish", is_flag=True, help="Leave the end of the set to `umt-data finish`, also as the last part.")
@run_options
def work(out: Path, part: str, retry_failed: bool, no_finish: bool, run: RunOptions) -> None:
    """Make the shards of one part of the set in OUT. Parts need nothing of each other, and run anywhere that sees the
    videos and OUT by the names that the set was begun with. The part that ends last also does what `finish` does, but
    with --retry-failed.

    \b
    Example:
      umt-data folder /data/videos /data/shards/mine --plan-only
      umt-data work /data/shards/mine --part 0/64      (… 63/64, on any machines)

    `--engine slurm` starts this in each task of its array. An indexed Job of Kubernetes gives it
    `--part $(JOB_COMPLETION_INDEX)/64`.
    """
    from data_prep.making.cluster import Part
    from data_prep.making.prepare import build_shards
    from data_prep.state.plan import go_on, load_plan

    own = Part.parse(part)
    plan = load_plan(out)
    mine = plan.pending(own.of_shards(range(plan.num_shards)), retry_failed=retry_failed)
    if mine:  # else this part is in nobody's way, who may be ending the set
        with go_on(out, alone=False) as plan:
            mine = plan.pending(mine, retry_failed=retry_failed)
            build_shards(plan, mine, run=run)
    click.echo(f"part {part} of {plan.name}: {len(mine)} shards made, none is left")
    _end_part(plan, run, closes=not (no_finish or retry_failed), is_new=bool(mine))


def _end_part(plan: Plan, run: RunOptions, *, closes: bool, is_new: bool) -> None:
    """Say what is left of the set, and end it if nothing is. is_new: this part has made something of it."""
    from data_prep.cli.making import print_summary
    from data_prep.making.prepare import close_if_last
    from data_prep.state.manifest import summary_of

    done, by_hand = plan.num_done(), f"`umt-data finish {shlex.quote(str(plan.out))}` ends the set"
    then = "other parts go on" if done < plan.num_shards else "the set is ended" if closes else by_hand
    click.echo(f"{done:,} of {plan.num_shards:,} shards of the set are made: {then}")
    if not closes or done < plan.num_shards:
        return
    if not is_new and _is_ended(plan):
        print_summary(summary_of(plan), run.max_bad)
    elif summary := close_if_last(plan.out):
        print_summary(summary, run.max_bad)
    else:
        click.echo(f"by another process, which works there now; if it was killed, {by_hand}")


def _is_ended(plan: Plan) -> bool:
    """Whether there is a manifest, of all the shards: a set that has grown has that of before."""
    from data_prep.state.manifest import summary_of
    from umt_ds.data.shards.manifest import MANIFEST, load_manifest
    from umt_ds.data.shards.storage import kind_of

    there = kind_of(plan.out / MANIFEST) is not None
    return there and load_manifest(plan.out).num_samples == summary_of(plan).samples


@click.command(short_help="Write the manifest of a set whose parts are all made.")
@click.argument("out", type=FOLDER)
@click.option("--max-bad", default=RunOptions.max_bad, type=Number(0, 1), help="Share that may be bad.")
def finish(out: Path, max_bad: float) -> None:
    """Write manifest, bad.csv and statistics of the set in OUT; says which shards are missing if any is.

    \b
    Example:
      umt-data finish ~/shards/mine
    """
    from data_prep.cli.making import print_summary
    from data_prep.making.prepare import close_set
    from data_prep.state.plan import go_on

    with go_on(out, alone=True) as plan:
        summary = close_set(plan)
    print_summary(summary, max_bad)


COMMANDS = (work, finish)

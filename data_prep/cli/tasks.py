"""The commands of a job array, also for schedulers that are not Slurm: make a part of a set, end the set."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from data_prep.cli.options import FOLDER, Number, run_options
from data_prep.clip import RunOptions


@click.command(short_help="Make a part of the shards of a set that was begun.")
@click.argument("out", type=FOLDER)
@click.option("--part", required=True, help="NUMBER/PARTS, such as 0/64: every 64th shard.")
@click.option("--retry-failed", is_flag=True, help="Also of finished shards: the clips that were refused.")
@run_options
def work(out: Path, part: str, retry_failed: bool, run: RunOptions) -> None:
    """Make the shards of one part of the set in OUT. Parts need nothing of each other, and run anywhere that sees the
    videos and OUT by the names that the set was begun with.

    \b
    Example:
      umt-data folder /data/videos /data/shards/mine --plan-only
      umt-data work /data/shards/mine --part 0/64      (… 63/64, on any machines)
      umt-data finish /data/shards/mine

    `--engine slurm` starts this in each task of its array. An indexed Job of Kubernetes gives it
    `--part $(JOB_COMPLETION_INDEX)/64`.
    """
    from data_prep.making.cluster import Part
    from data_prep.making.prepare import build_shards
    from data_prep.state.plan import go_on

    own = Part.parse(part)
    with go_on(out, alone=False) as plan:
        mine = plan.pending(own.of_shards(range(plan.num_shards)), retry_failed=retry_failed)
        build_shards(plan, mine, run=run)
        done = plan.num_done()
    click.echo(f"part {part} of {plan.name}: {len(mine)} shards made, none is left")
    then = f"`umt-data finish {shlex.quote(str(out))}` ends the set" if done == plan.num_shards else "other parts go on"
    click.echo(f"{done:,} of {plan.num_shards:,} shards of the set are made: {then}")


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

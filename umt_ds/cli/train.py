"""`umt train`: resolve the configuration, start the ranks if asked to, train."""

from __future__ import annotations

import sys

import click

from umt_ds.cli.ranks import start_ranks, tell_the_others
from umt_ds.config.load import load_run
from umt_ds.config.run import RunConfig
from umt_ds.config.show import as_tree, as_yaml
from umt_ds.environment import set_default, temporary_folder, working_folder
from umt_ds.errors import ConfigError


@click.command("train")
@click.argument("name")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--ranks", type=click.IntRange(1), default=None, help="Start that many ranks on this machine.")
@click.option("--allow-config-change", is_flag=True, help="Resume although numbers of the experiment changed.")
@click.option("--dry-run", is_flag=True, help="Check the configuration and the data, print the plan, train nothing.")
def command(name: str, overrides: tuple[str, ...], ranks: int | None, allow_config_change: bool, dry_run: bool) -> None:
    """Train run NAME (a shipped one such as stage1/b16_k710, or a YAML file), with settings overridden.

    A value that begins with [, { or a quote is YAML; any other is taken whole, with its # and spaces. null is nothing,
    ~ your home folder.

    Started again with the same run_dir it resumes from the newest checkpoint. Exit codes: 0 the schedule is
    done, 75 stopped and resumable (SIGTERM, SIGUSR1, RUN/stop, stop_at), 2 bad configuration, 1 anything else.

    \b
    For example:
      umt train demo/stage1 run_dir=runs/mine --ranks 2 stop_at=40
      umt train stage1/b16_k710 data.sources.k710.shards=/data/k710 task.teacher.weights=clip_b16.pt
      umt train stage1/b16_k710 data.sources.k710.shards=s3://bucket/k710 data.cache.folder=/nvme/umt
      torchrun --nproc-per-node 8 -m umt_ds train stage1/l16_k710 batch.micro=32
      deepspeed --module umt_ds train stage1/b16_k710
    """
    working_folder()  # without these two, libraries would fail somewhere below
    temporary_folder()
    set_default("TORCH_CPP_LOG_LEVEL", "ERROR")  # else a lost rank is a stack of C++ on each of the others
    try:
        config = load_run(name, overrides)
    except ConfigError as error:
        if not dry_run:
            tell_the_others(error)
        raise
    if dry_run:
        return _print_plan(config, ranks or 1)
    # the ranks read the same words; run_dir is made absolute by nobody, so the folder stays the same
    start_ranks(ranks, ["train", name, *overrides, *(["--allow-config-change"] if allow_config_change else [])])
    from umt_ds.jobs.train import run_training

    sys.exit(run_training(config, allow_config_change=allow_config_change))


def _print_plan(config: RunConfig, world: int) -> None:
    """What would happen, without a process group or a device."""
    from umt_ds.config.batching import plan_run
    from umt_ds.config.deepspeed_json import complete_deepspeed_json, load_deepspeed_json
    from umt_ds.config.effect import without_effect
    from umt_ds.jobs.train import try_evaluations
    from umt_ds.tasks.loader import check_media
    from umt_ds.tasks.sources import count_samples, sample_counts

    samples = sample_counts(config)
    plan = plan_run(config, world=world, num_samples=count_samples(config))
    check_media(config, plan)
    settings = complete_deepspeed_json(load_deepspeed_json(config.engine), config, plan)
    try_evaluations(config)
    for line in without_effect(config):
        click.echo(line, err=True)
    click.echo(as_yaml(as_tree(config)))
    click.echo(as_yaml({"samples": samples, "plan": vars(plan), "deepspeed": settings}))

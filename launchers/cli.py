"""`umt-launch`: check a run before the queue, write one sbatch file, submit it."""

from __future__ import annotations

import sys

import click

from launchers.slurm import SlurmJob, render, submit
from umt_ds.config.batching import accumulation_of
from umt_ds.config.deepspeed_json import load_deepspeed_json
from umt_ds.config.load import load_run
from umt_ds.errors import UmtError


@click.command("umt-launch", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("name")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--nodes", type=click.IntRange(1), default=1, show_default=True)
@click.option("--gpus-per-node", type=click.IntRange(0), default=8, show_default=True, help="0: CPU job, see --tasks.")
@click.option("--tasks", type=click.IntRange(1), help="Ranks per node; default: one per GPU.")
@click.option("--cpus-per-task", type=click.IntRange(1), default=14, show_default=True)
@click.option("--time", "time_limit", help="Slurm's time limit, such as 24:00:00.")
@click.option("--partition", help="Slurm partition.")
@click.option("--account", help="Slurm account.")
@click.option("--grace", type=click.IntRange(1), default=600, show_default=True, help="Seconds from USR1 to the limit.")
@click.option("--dry-run", is_flag=True, help="Check everything and print the sbatch file; write and submit nothing.")
def launch(
    name: str,
    overrides: tuple[str, ...],
    nodes: int,
    gpus_per_node: int,
    tasks: int | None,
    cpus_per_task: int,
    time_limit: str | None,
    partition: str | None,
    account: str | None,
    grace: int,
    dry_run: bool,
) -> None:
    """Submit run NAME to Slurm, one task per device; the configuration is checked before the queue.

    \b
    For example:
      umt-launch stage1/b16_k710 --nodes 4 --time 24:00:00 --partition gpu run_dir=/data/runs/b16
    """
    config = load_run(name, overrides)
    load_deepspeed_json(config.engine)
    ranks_per_node = tasks or max(1, gpus_per_node)
    accumulation_of(config.batch.global_, config.batch.micro, nodes * ranks_per_node)
    run = config.folder.resolve()
    given = {"time": time_limit, "partition": partition, "account": account}
    extra = [f"--{option}={value}" for option, value in given.items() if value is not None]
    extra += [f"--cpus-per-task={cpus_per_task}"]
    extra += [f"--gpus-per-node={gpus_per_node}"] if gpus_per_node else []
    words = [sys.executable, "-m", "umt_ds", "train", name, *overrides, f"run_dir={run}"]
    text = render(SlurmJob(config.name, run, nodes, ranks_per_node, grace, words, extra))
    if dry_run:
        click.echo(text, nl=False)
        return
    run.mkdir(parents=True, exist_ok=True)
    script = run / "train.sbatch"
    script.write_text(text)
    job = submit(script)
    click.echo(f"job {job}: {config.name} on {nodes} node(s) x {ranks_per_node} rank(s)")
    click.echo(f"watch: tail -F {run}/slurm-{job}.log")
    click.echo(f"stop:  scancel {job}")


def main() -> None:
    """Run the command; errors that users can act on end with one message and their exit code."""
    try:
        launch(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except UmtError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)

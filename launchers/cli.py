"""`umt-launch`: check a run before the queue, submit it, look after it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from launchers.hosts import as_hostfile, is_here, read_hostfile
from launchers.runs import (
    describe,
    last_submission,
    log_of,
    refuse_second_job,
    resume_run,
    stop_run,
    submit_run,
)
from launchers.slurm import check_path, environment_of
from launchers.snapshot import write_snapshot
from launchers.train import GRACE_S, Launcher, TrainJob, grace_within, render
from umt_ds.config.batching import split_batch
from umt_ds.config.cluster import EXAMPLE, ClusterConfig, cluster_file, load_cluster, time_limit_s
from umt_ds.config.deepspeed_json import load_deepspeed_json
from umt_ds.config.effect import without_effect
from umt_ds.config.load import load_run
from umt_ds.config.run import RunConfig
from umt_ds.config.show import as_yaml
from umt_ds.environment import EXPECTED_WORLD, Environment, print_anything, working_folder
from umt_ds.errors import EXIT_FAILED, ConfigError, UmtError
from umt_ds.refused import told_of_machine

_RUN = click.argument("run", type=click.Path(path_type=Path, file_okay=False, resolve_path=True))


class _SubmitByDefault(click.Group):
    """`umt-launch NAME …` is `umt-launch submit NAME …`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["submit", *args]
        return super().parse_args(ctx, args)


@click.group("umt-launch", cls=_SubmitByDefault, context_settings={"help_option_names": ["-h", "--help"]})
def launch() -> None:
    """Start runs on a cluster, and look after them. `umt-launch NAME …` is short for `umt-launch submit NAME …`.

    \b
    For example:
      umt-launch stage1/b16_k710 --nodes 4 --time 24:00:00 run_dir=/data/runs/b16
      umt-launch status /data/runs/b16
      umt-launch submit --help
    """


def _variables(ctx: click.Context, option: click.Parameter, words: tuple[str, ...]) -> dict[str, str]:
    pairs = [word.partition("=") for word in words]
    for name, equals, _ in pairs:
        if not (name.isidentifier() and equals):
            raise click.BadParameter("is of the form NAME=VALUE", ctx, option)
    return {name: value for name, _, value in pairs}


@launch.command()
@click.argument("name")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--nodes", type=click.IntRange(1), default=1, show_default=True)
@click.option(
    "--launcher",
    type=click.Choice(["srun", "torchrun", "deepspeed"]),
    default="srun",
    show_default=True,
    help="Who makes the ranks: srun itself, or one torchrun or DeepSpeed launcher a node.",
)
@click.option(
    "--hosts",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Without Slurm: lines `HOST slots=RANKS`; needs --launcher deepspeed and ssh.",
)
@click.option("--tasks", type=click.IntRange(1), help="Ranks per node; default: one per GPU.")
@click.option(
    "--grace",
    type=click.IntRange(1, 65535),
    show_default=f"{GRACE_S}, or a quarter of a shorter limit",
    help="Seconds before the time limit at which the job begins to save.",
)
@click.option("--allow-config-change", is_flag=True, help="Resume although numbers of the experiment changed.")
@click.option("--dry-run", is_flag=True, help="Check everything and print the job; write and submit nothing.")
@click.option("--partition")
@click.option("--account")
@click.option("--qos")
@click.option("--constraint")
@click.option("--time", help="Slurm's time limit, such as 24:00:00.")
@click.option("--gpus-per-node", type=click.IntRange(0), help="0: a job on CPUs, see --tasks.")
@click.option("--gpus", metavar="OPTION", help="How GPUs are asked for, such as --gpus=--gres=gpu:h100:{count}")
@click.option("--cpus-per-task", type=click.IntRange(1), help="Cores of each rank.")
@click.option("--module", "modules", multiple=True, help="Load this module first.")
@click.option("--interface", help="Network interface of NCCL and gloo.")
@click.option("--env", multiple=True, callback=_variables, metavar="NAME=VALUE", help="A variable for the ranks.")
@click.option("--container", help="Image in which the ranks run.")
@click.option("--container-runtime", type=click.Choice(["pyxis", "apptainer"]))
@click.option("--mount", "mounts", multiple=True, metavar="FROM:TO", help="Bind into the container.")
@click.option("--sbatch", multiple=True, metavar="OPTION", help="Any other option of sbatch, such as --exclusive.")
def submit(
    name: str,
    overrides: tuple[str, ...],
    nodes: int,
    launcher: Launcher,
    hosts: Path | None,
    tasks: int | None,
    grace: int | None,
    allow_config_change: bool,
    dry_run: bool,
    **habits: Any,
) -> None:
    """Submit run NAME to Slurm. Its configuration is checked before the queue and kept in RUN/launch.

    Options from --partition on have their defaults in ~/.config/umt/cluster.yaml, see `umt-launch cluster`.

    \b
    For example:
      umt-launch stage1/b16_k710 --nodes 4 --time 24:00:00 --partition gpu run_dir=/data/runs/b16
      umt-launch stage1/b16_k710 --nodes 4 --launcher torchrun --dry-run
      umt-launch stage1/b16_k710 --hosts hosts.txt --launcher deepspeed
    """
    folder = working_folder()
    cluster = load_cluster(habits)
    config = load_run(name, overrides)
    run = config.folder.resolve()
    config = load_run(name, [*overrides, f"run_dir={run}"])
    load_deepspeed_json(config.engine)
    for line in without_effect(config):
        click.echo(line, err=True)
    words = ["--allow-config-change"] if allow_config_change else []
    if hosts is not None:
        return _start_on_hosts(config, cluster, hosts.resolve(), launcher, words, dry_run)
    ranks_per_node = tasks or max(1, cluster.gpus_per_node)
    grace_s = _grace(cluster, grace)
    job = TrainJob(config.name, run, folder, nodes, ranks_per_node, cluster, launcher, grace_s, config.stop_at, words)
    split_batch(config, job.world)
    files = render(job)
    if dry_run:
        click.echo(files["train.sbatch"] + (f"\n# ---- node.sh\n{files['node.sh']}" if "node.sh" in files else ""))
        return None
    refuse_second_job(run)
    write_snapshot(run, config, files)
    _tell(run, submit_run(run, f"{nodes} node(s) x {ranks_per_node} rank(s) by {launcher}"))
    return None


def _grace(cluster: ClusterConfig, asked_s: int | None) -> int:
    """Seconds before the time limit, of the habits or of the variable that sbatch reads. Raises ConfigError."""
    time = cluster.time
    if time is None and (time := Environment().text("SBATCH_TIMELIMIT")) is not None:
        try:
            time_limit_s(time)
        except ValueError as error:
            raise ConfigError(f"SBATCH_TIMELIMIT={time!r} {error}") from None
    grace_s = grace_within(time, asked_s)
    if asked_s is None and grace_s < GRACE_S:
        click.echo(f"grace: {grace_s} s instead of {GRACE_S}, a quarter of the time limit {time}", err=True)
    return grace_s


def _start_on_hosts(
    config: RunConfig, cluster: ClusterConfig, file: Path, launcher: Launcher, words: list[str], dry_run: bool
) -> None:
    """Become the deepspeed command, which reaches the hosts by ssh."""
    if launcher != "deepspeed":
        raise ConfigError(f"--hosts cannot be used with --launcher {launcher}", hint="--launcher deepspeed")
    hosts = read_hostfile(file)
    world = sum(hosts.values())
    split_batch(config, world)
    launch = config.folder / "launch"
    environment = {EXPECTED_WORLD: str(world), **environment_of(cluster)}
    for path in (config.folder, working_folder()):  # DeepSpeed hands them to a shell on each host
        check_path(path)
    for name, value in environment.items():
        if re.search(r"[\n\"$`\\]", value):
            raise ConfigError(f"env: {name}={value!r} would not reach the hosts as it is", hint="no quotes or $ there")
    command = [sys.executable, "-m", "deepspeed.launcher.runner", f"--hostfile={launch}/hostfile"]
    command += [f"--master_addr={next(iter(hosts))}"]
    command += ["--no_ssh_check"] if is_here(hosts) else []
    command += ["--force_multi"] if len(hosts) == 1 and not is_here(hosts) else []  # or it would run on this machine
    command += ["--module", "umt_ds", "train", f"{launch}/config.yaml", *words]
    click.echo(f"stop: touch {config.folder}/stop   (exit code 75: the same command goes on)", err=True)
    if dry_run:
        click.echo(shlex.join(command))
        return
    variables = "".join(f"{name}={value}\n" for name, value in environment.items())
    write_snapshot(config.folder, config, {"deepspeed_env": variables, "hostfile": as_hostfile(hosts)})
    # DeepSpeed takes variables over to the hosts from this file only
    os.environ.update(environment, DS_ENV_FILE=f"{launch}/deepspeed_env")
    os.execv(command[0], command)


def _tell(run: Path, job: str) -> None:
    click.echo(f"job {job}: {last_submission(run).asked}")
    click.echo(f"log:   {log_of(run)}")
    click.echo(f"watch: umt-launch logs {run} --follow")
    click.echo(f"state: umt-launch status {run}")
    click.echo(f"stop:  umt-launch stop {run}   (saves first; scancel {job} may not)")


@launch.command()
@_RUN
def status(run: Path) -> None:
    """Say how a run is doing: its job, its last step and checkpoint, and how its jobs started and ended."""
    for what, text in describe(run):
        click.echo(f"{what + ':':<12}{text}")


@launch.command()
@_RUN
@click.option("--lines", type=click.IntRange(1), default=40, show_default=True)
@click.option("--follow", is_flag=True, help="Go on printing what comes.")
def logs(run: Path, lines: int, follow: bool) -> None:
    """Print the end of what the last job wrote."""
    log = log_of(run)
    if not log.exists() and not follow:
        click.echo(f"{log} does not exist yet: the job has not started", err=True)
        return
    sys.exit(subprocess.call(["tail", f"--lines={lines}", *(["-F"] if follow else []), str(log)]))


@launch.command()
@_RUN
def stop(run: Path) -> None:
    """Let the job of a run save and end; it stays stopped until `umt-launch resume RUN`."""
    click.echo(stop_run(run))


@launch.command()
@_RUN
def resume(run: Path) -> None:
    """Submit a run again, as it was launched: it goes on from its newest checkpoint."""
    _tell(run, resume_run(run))


@launch.command()
def cluster() -> None:
    """Print the habits of this cluster that are in force, and an example of the file that says them."""
    path, habits = cluster_file(), load_cluster()
    there = "in force" if path is not None and path.exists() else "not there, so these are the defaults"
    click.echo(f"# {path or 'a cluster.yaml (this user has no home folder)'}: {there}")
    click.echo(as_yaml(habits.model_dump(mode="json")))
    click.echo(f"# ---- an example\n{EXAMPLE}", nl=False)


def main() -> None:
    """Run the command; errors that users can act on end with one message and their exit code."""
    print_anything()
    try:
        launch(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.Abort:
        sys.exit(130)
    except UmtError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except Exception as error:
        told = told_of_machine(error)
        if told is None:
            raise
        click.echo(f"error: {told}", err=True)
        sys.exit(EXIT_FAILED)

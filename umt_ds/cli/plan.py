"""`umt plan`: what a run will need, before it waits in a queue."""

from __future__ import annotations

import click

from umt_ds.config.load import load_run
from umt_ds.engine.gpus import GPUS
from umt_ds.errors import ConfigError

# Of a recipe whose evaluations are all made by `umt eval`, as those of zero_shot/… are, which nobody trains.
_ONLY_JUDGED = (
    "a plan is of training: where the run is only judged, `umt eval NAME --dry-run` says what is read, and in how many "
    "passes"
)


@click.command("plan")
@click.argument("name")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--gpus", type=click.IntRange(1), default=8, show_default=True, help="Ranks: one a GPU.")
@click.option("--gpu", "kind", type=click.Choice(list(GPUS)), default="h100", show_default=True)
@click.option("--cores-per-gpu", type=click.IntRange(1), default=14, show_default=True, help="CPU cores.")
@click.option("--samples", type=click.IntRange(1), help="Size of the data, where its shards are not here.")
@click.option("--mfu", type=click.FloatRange(0.1, 100), default=25.0, show_default=True, help="Percent, assumed.")
@click.option("--measure-loader/--no-measure-loader", default=True, help="10 s on the run's shards, if here.")
def command(
    name: str,
    overrides: tuple[str, ...],
    gpus: int,
    kind: str,
    cores_per_gpu: int,
    samples: int | None,
    mfu: float,
    measure_loader: bool,
) -> None:
    """Say what run NAME costs on --gpus GPUs: FLOPs, memory by ZeRO stage, disk and cores for the loader, hours,
    evaluations, checkpoints; with every assumption. Shards and weights need not be here.

    A run that does not fit, or whose batch cannot be divided, is refused with exit code 2.

    \b
    For example:
      umt plan stage1/b16_k710 --gpus 32 --gpu a100 --samples 658000
      umt plan stage1/l16_k710 batch.micro=32 --gpus 8 --gpu h100 --mfu 30
    """
    config = load_run(name, overrides, keep_unset=True)
    from umt_ds.preflight.plan import Request, plan_job
    from umt_ds.preflight.plan_text import plan_text

    request = Request(gpus, kind, cores_per_gpu, samples, mfu / 100, measure_loader)
    try:
        job = plan_job(config, request, say=lambda text: click.echo(text, err=True))
    except ConfigError as error:
        if config.evaluation and not config.evaluations_in_training:
            raise ConfigError(error.what, hint="; ".join(filter(None, [error.hint, _ONLY_JUDGED]))) from error
        raise
    click.echo(plan_text(job))

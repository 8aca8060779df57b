"""`umt probe`: what frozen features know, by kNN, a linear and an attentive probe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import click

from umt_ds.cli.words import LOCAL_FOLDER, overrides_in, runs_in
from umt_ds.config.probes import PROBE_KINDS, HeadGrid, ProbeKind, ProbeSettings
from umt_ds.data.shards.storage import as_path
from umt_ds.distributed.world import find_world, sign_of_launcher
from umt_ds.environment import set_default, temporary_folder, working_folder
from umt_ds.errors import ConfigError
from umt_ds.jobs.eval_runs import find_runs


def _kinds(ctx: click.Context, option: click.Parameter, text: str) -> tuple[ProbeKind, ...]:
    """Probes with commas between them."""
    words = _words(text)
    strange = [word for word in words if word not in PROBE_KINDS]
    if strange:
        raise click.BadParameter(f"{strange[0]!r} is none of {', '.join(PROBE_KINDS)}", ctx, option)
    if not words:
        raise click.BadParameter("it names no probe", ctx, option)
    return tuple(kind for kind in PROBE_KINDS if kind in words)


def _numbers(ctx: click.Context, option: click.Parameter, text: str | None) -> tuple[float, ...]:
    """Numbers with commas between them: weight decays from 0 on, learning rates above 0."""
    if text is None:
        return ()
    try:
        numbers = tuple(float(word) for word in _words(text))
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no list of numbers, such as 1e-3,3e-4", ctx, option) from error
    if not numbers:
        raise click.BadParameter("it names no number", ctx, option)
    may_be_zero = option.name == "weight_decay"
    if not all(math.isfinite(one) and one >= 0 and (one or may_be_zero) for one in numbers):
        raise click.BadParameter(f"{text!r}: a number is infinite, or too small", ctx, option)
    return numbers


def _words(text: str) -> list[str]:
    """Each once."""
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


_COUNT = click.IntRange(1)
_NORMAL = ProbeSettings()


@click.command("probe")
@click.argument("words", nargs=-1, required=True, metavar="RUN... [KEY=VALUE]...")
@click.option("--train", required=True, metavar="SHARDS", help="Labelled clips that probes are trained on.")
@click.option("--val", required=True, metavar="SHARDS", help="Labelled held-out clips.")
@click.option("--weights", metavar="PATH", help="Probe these: a weight file, the folder of a model, run or checkpoint.")
@click.option("--ema", is_flag=True, help="Probe the moving average of the weights (optim.ema_decay).")
@click.option("-o", "--out", type=LOCAL_FOLDER, help="Where features and scores are kept; default: RUN/probes.")
@click.option("--kinds", callback=_kinds, default=",".join(PROBE_KINDS), show_default=True, help="Which probes.")
@click.option("--label", "labels", multiple=True, metavar="FIELD", help="Field of a clip's json. May be repeated.")
@click.option("--limit", type=click.IntRange(2), help="Only the first so many clips of each set.")
@click.option("--seeds", type=_COUNT, default=_NORMAL.seeds, show_default=True, help="Train each probe so many times.")
@click.option("--lr", metavar="NUMBERS", callback=_numbers, help="Learning rates of the grid: 1e-3,3e-4.")
@click.option("--weight-decay", metavar="NUMBERS", callback=_numbers, help="Weight decays of the grid: 0.01,0.1.")
@click.option("--epochs", type=_COUNT, help="Train for exactly so many epochs.")
@click.option("--batch", type=_COUNT, help="Clips of a step.")
@click.option(
    "--pool", type=_COUNT, default=_NORMAL.pool, show_default=True, help="Average so many x so many patches of a frame."
)
@click.option(
    "--cache-gb",
    type=click.FloatRange(min=0, min_open=True),
    default=_NORMAL.cache_gb,
    show_default=True,
    help="Refuse to store more features of a run.",
)
@click.option("--dry-run", is_flag=True, help="Print what would be computed and stored, and probe nothing.")
def command(
    words: tuple[str, ...],
    train: str,
    val: str,
    weights: str | None,
    ema: bool,
    out: Path | None,
    kinds: tuple[ProbeKind, ...],
    labels: tuple[str, ...],
    limit: int | None,
    seeds: int,
    lr: tuple[float, ...],
    weight_decay: tuple[float, ...],
    epochs: int | None,
    batch: int | None,
    pool: int,
    cache_gb: float,
    dry_run: bool,
) -> None:
    """Ask the frozen features of trained models which labels they tell apart: by the vote of nearest neighbours (kNN),
    a linear layer on the mean of a clip's tokens, and an attentive probe of four blocks on all tokens.

    RUN is what `umt eval` takes: a run folder, a checkpoint folder, or a YAML file or shipped run with --weights. A
    word with `=` sets a key in each of them. One process does it, on one GPU or on the CPU.

    Each clip goes through the model once. Its features are kept, and found by the next call. Heads of a whole grid of
    learning rate x weight decay are trained side by side; which of them counts is decided by a tenth of the training
    clips. --lr, --weight-decay, --epochs and --batch hold for both trained probes.

    \b
    For example:
      umt probe runs/b16_k710 --train /data/ssv2/train --val /data/ssv2/val --pool 2
      umt probe runs/a runs/b --train /data/mine/train --val /data/mine/val --seeds 3 -o probes
      umt probe stage1/b16_k710 --weights b16.pth --train /data/k400/train --val /data/k400/val -o probes --dry-run
      umt probe runs/mine --train /data/mine/train --val /data/mine/val --kinds knn,linear --label motion_label
    """
    working_folder()  # without these two, libraries would fail somewhere below
    temporary_folder()
    set_default("OMP_WAIT_POLICY", "PASSIVE")
    _refuse_ranks()
    _refuse_unused(kinds, ("attentive",), {"--pool": pool > 1})
    of_grid = {"--lr": lr, "--weight-decay": weight_decay, "--epochs": epochs, "--batch": batch, "--seeds": seeds > 1}
    _refuse_unused(kinds, ("linear", "attentive"), of_grid)
    names = runs_in(words, weights=weights)
    given = [f"init.weights={weights}"] if weights is not None else []
    runs = find_runs(names, [*given, *overrides_in(words)], own_weights=weights is None, judged=False)

    def changed(grid: HeadGrid) -> HeadGrid:
        return grid.changed(lr=lr, weight_decay=weight_decay, epochs=epochs, batch=batch)

    settings = ProbeSettings(kinds, labels, limit, pool, cache_gb, seeds)
    settings = replace(settings, linear=changed(settings.linear), attentive=changed(settings.attentive))
    from umt_ds.jobs.probe import ProbeJob, plan_probes, run_probes

    job = ProbeJob(as_path(train), as_path(val), settings, out, ema)
    click.echo(plan_probes(runs, job) if dry_run else run_probes(runs, job))


def _refuse_unused(kinds: Sequence[ProbeKind], of: Sequence[ProbeKind], options: Mapping[str, object]) -> None:
    """Raises click.UsageError for an option that is given, where none of the probes that it is for is asked for."""
    given = next((name for name, value in options.items() if value), None)
    if given is not None and not set(kinds) & set(of):
        raise click.UsageError(f"{given} is for the probes {' and '.join(of)}, and --kinds asks for {','.join(kinds)}")


def _refuse_ranks() -> None:
    if sign_of_launcher() and find_world().size > 1:
        raise ConfigError("umt probe is one process, and a launcher has started several", hint="start it without one")

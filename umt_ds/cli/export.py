"""`umt export`: a trained model in the form in which another program loads it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import click

from umt_ds.cli.words import LOCAL_FOLDER, overrides_in, runs_in
from umt_ds.environment import set_default, temporary_folder, working_folder
from umt_ds.exchange.targets import TARGETS, Options, Part, TargetName, Wrap
from umt_ds.jobs.eval_runs import EvalRun, find_runs

_CLIP = click.Path(exists=True, dir_okay=False, path_type=Path)
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


class _Size(click.ParamType[int]):
    """A number of bytes, as 2GB or 500MiB."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = re.fullmatch(rf"([1-9][0-9]{{0,9}})({'|'.join(_UNITS)})", str(value))
        if found is None:
            self.fail(f"{value!r} is no size: a whole number with {', '.join(_UNITS)}, as 2GB", param, ctx)
        return int(found[1]) * _UNITS[found[2]]


@click.command("export")
@click.argument("words", nargs=-1, required=True, metavar="RUN|FILE [KEY=VALUE]...")
@click.option("--to", "target", required=True, type=click.Choice(TARGETS), help="For whom.")
@click.option("-o", "--out", required=True, type=LOCAL_FOLDER, help="The folder to write; it must not be there yet.")
@click.option("--weights", metavar="PATH", help="Take these: a weight file, the folder of a model, run or checkpoint.")
@click.option("--best", is_flag=True, help="Of a run folder, the best checkpoint (cadence.keep_best), not the newest.")
@click.option("--ema", is_flag=True, help="Take the moving average of the weights (optim.ema_decay).")
@click.option("--classes", metavar="NAMES", help="Names for classes without: k400, k600, k700, k710, or a file.")
@click.option("--wrap", type=click.Choice(get_args(Wrap)), help="published: the key that holds the weights, or flat; "
              "default: as the release of that task has it.")  # fmt: skip
@click.option("--max-shard-size", "max_shard_bytes", type=_Size(), help="safetensors: files of at most that size.")
@click.option("--part", type=click.Choice(get_args(Part)), help="transformers, onnx: one part of a model alone.")
@click.option("--clip", type=_CLIP, help="Compare on this video; default: on synthetic clips.")
@click.option("--dry-run", is_flag=True, help="Print what would be written, and write nothing.")
def command(
    words: tuple[str, ...],
    target: TargetName,
    out: Path,
    weights: str | None,
    best: bool,
    ema: bool,
    classes: str | None,
    wrap: Wrap | None,
    max_shard_bytes: int | None,
    part: Part | None,
    clip: Path | None,
    dry_run: bool,
) -> None:
    """Write a trained model as another program loads it, with a card that says what it is, and check that it is the
    same model.

    RUN is what `umt eval` takes: a run folder, a checkpoint folder, a model folder that this command wrote, or a YAML
    file or shipped run with --weights; or a published weight file of size B or L by itself, whose run is told by its
    tensors. A word with `=` sets a key of the run, as task.text.vocabulary for a model of video and text.

    The folder holds the weights, README.md and card.json. After writing it is loaded again by its own library; both
    models look at the same clip, and the largest differences are printed.

    \b
    For example:
      umt export runs/stage1 --to published -o stage1_published
      umt export recognition/b16_k400 --weights b16_k400.pth --classes k400 --to safetensors -o b16_k400
      umt export runs/recognition --to timm -o b16_timm
      umt export runs/retrieval --to transformers --part text -o b16_text
      umt export b16_25m.pth task.text.vocabulary=vocab.txt --to safetensors -o b16_25m
      umt export runs/b16_5m --ema --to safetensors --max-shard-size 500MB -o b16_5m --dry-run
    """
    working_folder()  # without these two, libraries would fail somewhere below
    temporary_folder()
    set_default("OMP_WAIT_POLICY", "PASSIVE")
    if weights is not None and best:
        raise click.UsageError("--best is a checkpoint of a run folder, and --weights takes its place")
    name, *others = runs_in(words, weights=None)
    if others:
        raise click.UsageError(f"one RUN at a time: {name} and {others[0]} are two")
    (run,) = _runs(name, overrides_in(words), weights=weights, best=best)
    from umt_ds.distributed.world import World
    from umt_ds.exchange.export import as_text, export, plan_export, plan_text, refuse_existing
    from umt_ds.exchange.source import open_source
    from umt_ds.jobs.evaluate import log_to_stderr

    log_to_stderr(World.alone())
    refuse_existing(out)
    options = Options(wrap=wrap, max_shard_bytes=max_shard_bytes, part=part)
    source = open_source(run, averaged=ema, classes=classes)
    if dry_run:
        click.echo(plan_text(out, plan_export(source, target, out, options)))
        return
    click.echo(as_text(export(source, target, out, options, clip=clip, keep=False)))


def _runs(name: str, overrides: list[str], *, weights: str | None, best: bool) -> list[EvalRun]:
    """The run that is called so, or the one to which a weight file of that name belongs."""
    if weights is None and Path(name).is_file() and not name.endswith((".yaml", ".yml")):
        from umt_ds.tasks.file_run import run_of_file

        recipe, given = run_of_file(Path(name), overrides)
        click.echo(f"{name} is taken for a model of {recipe}; another run: umt export RUN --weights {name}", err=True)
        return find_runs([recipe], given, own_weights=False, best=best, judged=False)
    given = [f"init.weights={weights}"] if weights is not None else []
    return find_runs([name], [*given, *overrides], own_weights=weights is None, best=best, judged=False)

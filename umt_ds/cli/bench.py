"""`umt bench`: measurements that anybody can repeat on their machine."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from umt_ds.distributed.world import sign_of_launcher
from umt_ds.errors import UmtError

if TYPE_CHECKING:
    from umt_ds.bench.loader import Against
    from umt_ds.bench.synthetic import Shown

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_POSITIVE = click.IntRange(1)


@click.group("bench")
def command() -> None:
    """Measure a part of the system, and print a table that says on what machine. Slow: run it alone."""


def _tell(title: str, packages: Sequence[str], lines: Sequence[str], *, keep: bool) -> None:
    """Print what was measured under a header; with `keep`, append it to RESULTS.md too."""
    from umt_ds.bench import machine

    text = "\n".join([*machine.header(f"umt {shlex.join(sys.argv[1:])}", packages), *lines])
    click.echo(text)
    if keep:
        machine.record(title, text)


def _workers(context: click.Context, parameter: click.Parameter, text: str) -> list[int]:
    try:
        counts = [int(count) for count in text.split(",")]
    except ValueError:
        counts = [0]
    if min(counts) < 1:
        raise click.BadParameter(f"{text!r} is no list of numbers such as 1,2")
    return counts


@command.command()
@click.option("--videos", type=_FOLDER, help="A folder of videos; default: textured clips of WebVid's size, made now.")
@click.option("--clips", type=_POSITIVE, default=60, show_default=True, help="So many videos.")
@click.option("--rounds", type=_POSITIVE, default=3, show_default=True, help="Measure each way so often, in turns.")
@click.option("--workers", default=f"1,{os.cpu_count()}", show_default=True, callback=_workers, help="As for umt-data.")
@click.option("--memory", type=click.IntRange(0), default=0, help="Also watch a worker's memory over so many clips.")
@click.option("--long", type=click.FloatRange(0), default=0, help="Also watch it over a video of so many minutes.")
@click.option("--writer", type=click.IntRange(0), default=0, help="Also measure what writes shards, by so many clips.")
@click.option("--record", "keep", is_flag=True, help="Append the table to umt_ds/bench/RESULTS.md.")
def prep(
    videos: Path | None, clips: int, rounds: int, workers: list[int], memory: int, long: float, writer: int, keep: bool
) -> None:
    """Compare umt-data with plain ffmpeg and with the usual decord script, on the same videos, in turns; and say
    what corpora would cost at the measured rate.

    \b
    For example:
      umt bench prep
      umt bench prep --videos ~/webvid/part-00 --clips 200 --memory 2000
      umt bench prep --clips 12 --rounds 1 --long 15 --writer 5000
    """
    from umt_ds.bench.prep import PACKAGES, measure_long, measure_memory, measure_prep, measure_writer

    table = measure_prep(videos, clips=clips, rounds=rounds, workers=workers)
    what = "the videos given" if videos else "made clips of 596x336, 15 s, 25 fps"
    lines = [f"what:    {table.files} videos ({what}), {rounds} rounds: median (min-max)", "", table.text()]
    if memory:
        lines += ["", measure_memory(videos, clips=memory)]
    if long:
        lines += ["", measure_long(long)]
    if writer:
        lines += ["", measure_writer(writer, workers=max(workers))]
    _tell("prep", PACKAGES, lines, keep=keep)


# ---------------------------------------------------------------- kernels


def _chips(context: click.Context, parameter: click.Parameter, text: str | None) -> list[int]:
    chips = [] if text is None else text.split(",")
    if not all(chip.removeprefix("sm_").isdecimal() for chip in chips):
        raise click.BadParameter(f"{text!r} is no list of chips such as sm_80,sm_90")
    return [int(chip.removeprefix("sm_")) for chip in chips]


@command.command()
@click.option("--clips", type=_POSITIVE, help="Clips in a micro-batch; default: 32 on a GPU, 1 on a CPU.")
@click.option("--rounds", type=_POSITIVE, default=20, show_default=True, help="Measure each way so often, in turns.")
@click.option("--compile", "chips", callback=_chips, help="Only compile, for chips such as sm_80,sm_90; needs no GPU.")
@click.option("--record", "keep", is_flag=True, help="Append the table to umt_ds/bench/RESULTS.md.")
def kernels(clips: int | None, rounds: int, chips: list[int], keep: bool) -> None:
    """Measure each kernel against what it replaces, forward and with backward, at the sizes B and L. Without a GPU,
    measure the torch references on the CPU, and compile the Triton kernels for A100 and H100.

    \b
    For example:
      umt bench kernels --record
      umt bench kernels --compile sm_80,sm_90
    """
    import torch

    from umt_ds.bench.kernels import PACKAGES, Setup, all_cases, compiled, measure_kernel, table

    on_gpu = torch.cuda.is_available()
    setup = Setup(clips or (32 if on_gpu else 1), torch.device("cuda" if on_gpu else "cpu"),
                  torch.bfloat16 if on_gpu else torch.float32)  # fmt: skip
    lines: list[str] = []
    if not chips:
        where = "on the GPU, in bf16" if on_gpu else "without a GPU: the torch references on the CPU, in fp32"
        lines += [f"what:    {where}, {setup.clips} clips, {rounds} rounds: median (min-max)"]
        for case in all_cases(setup):
            click.echo(f"measuring {case.title}", err=True)
            lines += ["", table(case, measure_kernel(case, rounds=rounds, device=setup.device))]
    if chips or not on_gpu:
        lines += ["", compiled(chips or [80, 90], clips=clips or 32)]
    _tell("kernels", PACKAGES, lines, keep=keep)


@command.command()
@click.argument("name")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--ranks", type=_POSITIVE, help="Start that many ranks on this machine; or use a launcher, as for train.")
@click.option("--data", type=click.Choice(["synthetic", "shards"]), default="synthetic", show_default=True,
              help="Noise in memory, or the run's own shards.")  # fmt: skip
@click.option("--against", type=click.Choice(["plain"]), help="In turns with the published step in plain torch.")
@click.option("--media", "shown", type=click.Choice(["video", "image", "packed"]), default="video", show_default=True,
              help="What the noise is, where a task learns from images and clips.")  # fmt: skip
@click.option("--rounds", type=_POSITIVE, default=5, show_default=True, help="Turns of each way.")
@click.option("--steps", type=_POSITIVE, help="Steps of a turn; default: as many as fill a second.")
@click.option("--sweep", "sweeps", multiple=True, metavar="KEY=A,B,…",
              help="One line for each value. Several: all combinations; 'K=A,B L=C,D' in one: together.")  # fmt: skip
@click.option("--profile", type=click.Path(dir_okay=False, path_type=Path), help="Chrome trace of two more steps.")
@click.option("--record", "keep", is_flag=True, help="Append what is printed to umt_ds/bench/RESULTS.md.")
@click.option("--outcome", type=click.Path(path_type=Path), hidden=True, help="Write the report here, print nothing.")
def step(
    name: str,
    overrides: tuple[str, ...],
    ranks: int | None,
    data: Literal["synthetic", "shards"],
    against: str | None,
    shown: Shown,
    rounds: int,
    steps: int | None,
    sweeps: tuple[str, ...],
    profile: Path | None,
    keep: bool,
    outcome: Path | None,
) -> None:
    """Measure one training step of run NAME on this machine: clips/s, TFLOP/s, MFU, memory, where its
    time goes. No weights or shards are needed. A step is one micro-batch of each rank, unless batch.global is given.

    \b
    For example:
      umt bench step stage1/b16_k710 batch.micro=64
      umt bench step stage1/b16_k710 batch.micro=64 --against plain --profile trace.json
      umt bench step stage1/b16_k710 --sweep batch.micro=16,32,64 --sweep task.mask.ratio=0.5,0.8,0.9
      umt bench step stage1/b16_k710 batch.micro=2 engine.deepspeed=cpu.json --ranks 2
      umt bench step stage2/b16_5m --media image --against plain
      umt bench step stage2/b16_5m --sweep task.loss_weights.uta=1,0
      umt bench step retrieval/msrvtt/b16_25m batch.micro=32
    """
    if sweeps and profile:
        raise click.UsageError("--profile takes one measurement, --sweep makes many")
    if ranks is not None and ranks > 1 and not sweeps and not sign_of_launcher():
        from umt_ds.distributed.local import run_local_ranks

        sys.exit(run_local_ranks([sys.executable, "-m", "umt_ds", *sys.argv[1:]], ranks))  # they know by RANK
    from umt_ds.bench.step_report import PACKAGES

    if sweeps:
        options = {
            "--ranks": ranks, "--data": data, "--against": against, "--media": shown, "--rounds": rounds,
            "--steps": steps,
        }  # fmt: skip
        words = [word for option, value in options.items() if value is not None for word in (option, str(value))]
        text = _sweep([name, *overrides, *words], sweeps)
    else:
        from umt_ds.bench.step import Request, measure_step
        from umt_ds.bench.step_report import save_outcome
        from umt_ds.distributed.world import find_world

        try:
            report = measure_step(name, overrides, Request(rounds, steps, against is not None, data, profile, shown))
        except UmtError as error:
            if outcome is not None:
                save_outcome(error.what, outcome)
            raise
        if not find_world().is_first:
            return
        if outcome is not None:
            save_outcome(report, outcome)
            return
        text = report.text()
    _tell(f"step {name}", PACKAGES, [text], keep=keep)


def _sweep(words: list[str], sweeps: tuple[str, ...]) -> str:
    from umt_ds.bench.step_report import StepReport, sweep_text
    from umt_ds.bench.step_sweep import label, measure_apart, sweep_points

    outcomes: dict[str, StepReport | str] = {}
    for point in sweep_points(sweeps):
        click.echo(f"{label(point)} …", err=True)
        outcomes[label(point)] = measure_apart([*words, *point])
    return sweep_text(outcomes)


@command.command()
@click.argument("what", required=False, metavar="[RUN_OR_SHARDS]")
@click.option(
    "--against",
    type=click.Choice(["plain", "simplejpeg"]),
    multiple=True,
    default=("plain", "simplejpeg"),
    show_default=True,
    help="plain: decord, from the videos. May be given twice.",
)
@click.option("--clips", type=_POSITIVE, default=24, show_default=True, help="Make so many videos.")
@click.option("--rounds", type=_POSITIVE, default=7, show_default=True, help="Measure each way so often, in turns.")
@click.option("--workers", default=f"{os.cpu_count()}", show_default=True, callback=_workers, help="Also with so many.")
@click.option("--on-device", is_flag=True, help="Also what is left for workers with data.augment.on_device.")
@click.option("--fine-tuning", is_flag=True, help="Also two views of each clip, with and without RandAugment.")
@click.option("--record", "keep", is_flag=True, help="Append the table to umt_ds/bench/RESULTS.md.")
def loader(
    what: str | None,
    against: tuple[Against, ...],
    clips: int,
    rounds: int,
    workers: list[int],
    on_device: bool,
    fine_tuning: bool,
    keep: bool,
) -> None:
    """Count the clips that a core makes ready for training, from shards made for it or from yours; against decord,
    which reads the videos instead, and against nothing but decoding JPEG; and say how many cores an H100 needs.

    \b
    For example:
      umt bench loader
      umt bench loader --on-device --workers 1,2 --record
      umt bench loader --fine-tuning
      umt bench loader ~/shards/mine --rounds 3
      umt bench loader stage1/b16_k710 --against simplejpeg
    """
    from umt_ds.bench.loader import PACKAGES, measure_ways

    table = measure_ways(
        what,
        clips=clips,
        rounds=rounds,
        workers=workers,
        against=against,
        on_device=on_device,
        fine_tuning=fine_tuning,
    )
    source = what or f"{clips} made clips of 340x256, 10 s, 25 fps, one key frame"
    lines = [f"what:    {source}; {rounds} rounds: median (min-max)", "", table.text()]
    _tell("loader", PACKAGES, lines, keep=keep)


@command.command()
@click.argument("name")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--clips", type=_POSITIVE, default=16, show_default=True, help="So many clips of the run's shards.")
@click.option("--record", "keep", is_flag=True, help="Append what is printed to umt_ds/bench/RESULTS.md.")
def fp8(name: str, overrides: tuple[str, ...], clips: int, keep: bool) -> None:
    """Say what changes when the teacher of run NAME multiplies in FP8 (its `precision: fp8`): how far its
    targets turn away from those in bf16, and how many kept patches stay the same. How much faster it is says
    `umt bench step`. A CPU emulates the products, slowly.

    \b
    For example:
      umt bench fp8 stage1/b16_k710 data.sources.k710.shards=~/shards/mine task.teacher.weights=clip_b16.safetensors
    """
    from umt_ds.bench.fp8 import PACKAGES, compare
    from umt_ds.config.load import load_run

    change = compare(load_run(name, overrides), clips=clips)
    lines = [f"what:    the first {clips} clips of the run", "", change.text()]
    _tell(f"fp8 {name}", PACKAGES, lines, keep=keep)

"""`umt bench loader`: how many clips a core makes ready for training, against what else the core could do.

All ways are measured in turns, on clips of one kind (10 s of 340x256 H.264 with one key frame, which are made for it;
short side 256 in shards of 32 frames):

    umt_ds       the loader as a run uses it, from shards to batches: 8 frames, multi-scale crops of 224, flips
    on device    the workers' part of it, with data.augment.on_device: the rest is up to the GPU
    fine-tuning  the loader with the two views of a clip of recognition/b16_k710, with and without RandAugment
    simplejpeg   nothing but decoding the same frames from memory, into one buffer: a loader cannot be faster
    decord       no shards: 8 frames out of the mp4 by one thread, the same crops

Rates are told per second and per core-second, as in `umt_ds.bench.prep`.
"""

from __future__ import annotations

import cProfile
import multiprocessing
import pstats
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import simplejpeg
import torch

from data_prep.clip import RunOptions, StoreOptions
from data_prep.making.prepare import prepare
from data_prep.sources.folder import list_folder
from umt_ds.bench.machine import Clock, aligned, spread
from umt_ds.bench.prep import make_clips
from umt_ds.bench.rate import ALONE, plan_of
from umt_ds.bench.run import load_loader_run
from umt_ds.config.load import load_run
from umt_ds.config.run import RunConfig
from umt_ds.data.loader import Loader, LoaderPlan, SourceSpec
from umt_ds.data.on_device import OnDevice
from umt_ds.data.order.frames import FramePolicy
from umt_ds.data.pixels.augment import draw_view, render
from umt_ds.data.shards.manifest import MANIFEST
from umt_ds.engine.gpus import GPUS
from umt_ds.environment import temporary_folder
from umt_ds.errors import ConfigError
from umt_ds.keyed import Stream
from umt_ds.tasks.kinds import cost_of
from umt_ds.tasks.loader import build_loader, plan_loader

PACKAGES = ("torch", "simplejpeg", "decord", "pillow", "numpy")  # for the header
Against = Literal["plain", "simplejpeg"]  # plain: decord, from the videos
GOALS = {"decord": 10.0, "simplejpeg": 0.55}  # times the rate of each
# clips a second that one H100 is to train, stage 1: the project's goals, and what this share of its peak would be
H100_GOALS = {"b16": 900, "l16": 280}
H100_MFU = 0.43

_FRAMES, _SIDE, _MICRO = 8, 224, 8
_WHOLE = "umt_ds"
_FINE_TUNING = "fine-tuning"
_FINE_TUNING_RECIPE = "recognition/b16_k710"
_STAGES = {  # functions by file and name
    "read": {("clips.py", "__init__"), ("clips.py", "__call__")},
    "decode": {("decode.py", "decode_pictures")},
    "crop, resize, flip": {("augment.py", "render")},
}

MakeLoader = Callable[[int, OnDevice], Loader]  # (workers, on_device)


@dataclass(frozen=True)
class Run:
    """What one way did once."""

    clips: int
    wall_s: float
    core_s: float  # user and system time, all processes


@dataclass
class Table:
    """The runs of each way, by name, one a round; why a way was left out; and shares of the whole loader's time."""

    runs: dict[str, list[Run]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)

    def text(self) -> str:
        """Medians over the rounds, with the least and the most."""
        others = [way for way in GOALS if way in self.runs]
        rows = [("", "clips/s", "clips/core-s", *(f"x {other}" for other in others))]
        rows += [(*self._rates(way), *(self._ratio(way, other) for other in others)) for way in self.runs]
        lines = [*aligned(rows), *(f"{way}: skipped, {reason}" for way, reason in self.skipped.items()), ""]
        lines += [self._verdict(other) for other in others]
        lines += ["a core's time: " + ", ".join(f"{stage} {share:.0%}" for stage, share in self.shares.items()), ""]
        return "\n".join([*lines, *self._cores()])

    def ratios(self, way: str, other: str) -> list[float]:
        """Clips per core-second, against the other way's in the same round."""
        pairs = zip(self.runs[way], self.runs[other], strict=True)
        return [(mine.clips / mine.core_s) / (its.clips / its.core_s) for mine, its in pairs]

    def _rates(self, way: str) -> tuple[str, str, str]:
        runs = self.runs[way]
        per_core = [run.clips / run.core_s for run in runs]
        return way, spread([run.clips / run.wall_s for run in runs]), spread(per_core)

    def _ratio(self, way: str, other: str) -> str:
        return "-" if way == other else spread(self.ratios(way, other))

    def _verdict(self, other: str) -> str:
        reached = {way: median(self.ratios(way, other)) for way in self._loaders()}
        verdict = "met" if reached[_WHOLE] >= GOALS[other] else "MISSED"
        told = ", ".join(f"{way} {ratio:.2f} x" for way, ratio in reached.items())
        return f"goal of {GOALS[other]:g} x {other}, in one process: {verdict} ({told})"

    def _loaders(self) -> list[str]:
        return [way for way in self.runs if way.startswith(_WHOLE)]

    def _cores(self) -> Iterator[str]:
        """With workers, where those were measured: they also hand their batches over."""
        rate = min(median(run.clips / run.core_s for run in self.runs[way]) for way in self._loaders())
        for name, goal in H100_GOALS.items():
            at_mfu = GPUS["h100"].half_flops * H100_MFU / cost_of(_recipe(f"stage1/{name}_k710"), "bf16").flops
            yield (
                f"cores for one H100, {name}: {goal / rate:.1f} at {goal} clips/s, "
                f"{at_mfu / rate:.1f} at {H100_MFU:.0%} MFU ({at_mfu:.0f} clips/s)"
            )
        if _FINE_TUNING in self.runs:
            recipe = _recipe(_FINE_TUNING_RECIPE)
            clips = GPUS["h100"].half_flops * H100_MFU / cost_of(recipe, "bf16").flops / recipe.data.num_sample
            rate = median(run.clips / run.core_s for run in self.runs[_FINE_TUNING])
            yield (
                f"cores for one H100, {_FINE_TUNING} b16: {clips / rate:.1f} at {H100_MFU:.0%} MFU "
                f"({clips:.0f} clips/s, {recipe.data.num_sample} views of each)"
            )


def measure_ways(
    what: str | None,
    *,
    clips: int,
    rounds: int,
    workers: Sequence[int],
    against: Sequence[Against] = ("plain", "simplejpeg"),
    on_device: bool = False,
    fine_tuning: bool = False,
    draws: int = 192,
) -> Table:
    """`rounds` turns over all ways. `what`: a run or a folder of shards; None: `clips` videos are made, and shards of
    them. The loader and simplejpeg do `draws` clips a turn, decord each video once.

    Raises ConfigError for `fine_tuning` of a run: its views are its own.
    """
    if fine_tuning and what and not _is_set(what):
        raise ConfigError(f"{what} has views of its own", hint="without --fine-tuning they are measured")
    torch.set_num_threads(1)
    table = Table()
    with (
        TemporaryDirectory(dir=temporary_folder()) as scratch,
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone,
    ):
        videos = _videos(Path(scratch), clips) if what is None else []
        shards = None if what and not _is_set(what) else Path(what) if what else _shards(Path(scratch))
        make = partial(_run_loader, load_loader_run(str(what))) if shards is None else partial(_shard_loader, shards)
        ways: dict[str, Callable[[int], Run]] = {_WHOLE: lambda turn: _in_process(make, turn, draws)}
        for count in workers:
            name = f"umt_ds, {count} worker{'s' * (count > 1)}"
            ways[name] = partial(_with_workers, make, workers=count, draws=draws)
        if on_device:
            ways["resize on device"] = partial(_workers_part, make, "resize", draws=draws)
            ways["decode on device"] = partial(_workers_part, make, "decode", draws=draws)
        if fine_tuning and shards:
            for name, augmented in ((_FINE_TUNING, True), (f"{_FINE_TUNING}, no RandAugment", False)):
                ways[name] = partial(_in_process, partial(_fine_tuning_loader, shards, augmented), draws=draws)
        if "simplejpeg" in against:
            ways["simplejpeg"] = partial(_by_simplejpeg, make, draws=draws)
        if "plain" in against:
            ways["decord"] = lambda turn: alone.submit(_by_decord, videos, turn).result()
            if not videos or find_spec("decord") is None:
                table.skipped["decord"] = "decord is not installed" if videos else "it needs the videos, not shards"
                del ways["decord"]
        for turn in range(-1, rounds):  # the first loads libraries and files, and does not count
            for way, run in ways.items():
                done = run(max(turn, 0))
                if turn >= 0:
                    table.runs.setdefault(way, []).append(done)
        table.shares = _shares(make, draws)
    return table


# ---------------------------------------------------------------- what is measured


def _videos(scratch: Path, clips: int) -> list[Path]:
    return sorted(make_clips(scratch / "videos", clips, size=(340, 256), frames=250).iterdir())


def _shards(scratch: Path) -> Path:
    listing = list_folder(scratch / "videos")
    prepare(listing, scratch / "shards", name="bench", store=StoreOptions(), run=RunOptions(workers=1, timeout_s=600))
    return scratch / "shards"


def _is_set(what: str) -> bool:
    return (Path(what) / MANIFEST).is_file()


def _shard_loader(folder: Path, workers: int, on_device: OnDevice) -> Loader:
    plan = LoaderPlan(
        seed=0, global_draws=_MICRO, micro=_MICRO, image_side=_SIDE, num_workers=workers, on_device=on_device
    )
    return Loader([SourceSpec("bench", folder, FramePolicy("sparse", _FRAMES))], plan)


def _fine_tuning_loader(folder: Path, rand_augment: bool, workers: int, on_device: OnDevice) -> Loader:
    recipe = _recipe(_FINE_TUNING_RECIPE)
    plan = plan_loader(recipe, plan_of(_MICRO, views=recipe.data.num_sample), ALONE)
    plan = replace(plan, num_workers=workers, on_device=on_device)
    if not rand_augment:
        plan = replace(plan, rand_augment=None)
    return Loader([SourceSpec("bench", folder, FramePolicy("kinetics_sparse", _FRAMES))], plan)


def _run_loader(config: RunConfig, workers: int, on_device: OnDevice) -> Loader:
    augment = config.data.augment
    if on_device != "nothing":
        augment = augment.model_copy(update={"on_device": on_device, "color_jitter": 0.0, "rand_augment": None})
    data = config.data.model_copy(update={"workers": workers, "augment": augment})
    plan = plan_of(_MICRO, views=data.num_sample)
    return build_loader(config.model_copy(update={"data": data}), plan, ALONE, device=torch.device("cuda"))


def _recipe(name: str) -> RunConfig:
    """A shipped run; its data and weights need not be here."""
    return load_run(name, keep_unset=True)


# ---------------------------------------------------------------- the ways


def _batches(turn: int, draws: int) -> range:
    """The micro-batches of one turn: at least one."""
    count = max(1, draws // _MICRO)
    return range(turn * count, (turn + 1) * count)


def _in_process(make: MakeLoader, turn: int, draws: int) -> Run:
    with closing(make(0, "nothing")) as loader:
        numbers = _batches(turn, draws)
        next(loader.micro_batches(numbers[0]))  # opens the shards
        with Clock() as clock:
            for number in numbers:
                list(loader.micro_batches(number + 1))
    return Run(len(numbers) * _MICRO, clock.wall_s, clock.core_s)


def _with_workers(make: MakeLoader, turn: int, *, workers: int, draws: int) -> Run:
    """From when the workers are busy until they still are: what they began before and leave unfinished cancel out."""
    with closing(make(workers, "nothing")) as loader:
        numbers = _batches(turn, draws)
        ahead = 2 * workers
        for number in range(ahead):
            list(loader.micro_batches(numbers[0] + number))
        with Clock() as clock:
            for number in numbers:
                list(loader.micro_batches(ahead + number))
    return Run(len(numbers) * _MICRO, clock.wall_s, clock.core_s)


def _workers_part(make: MakeLoader, on_device: OnDevice, turn: int, *, draws: int) -> Run:
    with closing(make(0, on_device)) as loader:
        numbers = _batches(turn, draws)
        loader.builder(numbers[0])
        with Clock() as clock:
            for number in numbers:
                loader.builder(number + 1)
    return Run(len(numbers) * _MICRO, clock.wall_s, clock.core_s)


def _by_simplejpeg(make: MakeLoader, turn: int, *, draws: int) -> Run:
    """The frames that `_in_process` shows in this turn, without reading them: the worker packs them for a device."""
    numbers = _batches(turn, draws)
    with closing(make(0, "decode")) as loader:
        packs = [loader.builder(number + 1).parts[0].packed for number in numbers]
    if not all(piece.is_jpeg for pack in packs if pack for piece in pack.pieces):
        raise ConfigError("some frames there are no JPEG", hint="--against plain leaves simplejpeg out")
    files = [f.numpy().tobytes() for pack in packs if pack for f in torch.split(pack.files, list(pack.file_sizes))]
    sizes = [simplejpeg.decode_jpeg_header(file)[:2] for file in files]
    buffer = np.empty(3 * max(height * width for height, width in sizes), np.uint8)
    with Clock() as clock:
        for file in files:
            simplejpeg.decode_jpeg(file, colorspace="RGB", fastdct=False, fastupsample=False, buffer=buffer)
    return Run(len(numbers) * _MICRO, clock.wall_s, clock.core_s)


def _by_decord(videos: Sequence[Path], turn: int) -> Run:
    """In a process of its own: decord can crash, and keeps memory."""
    import decord

    torch.set_num_threads(1)
    out = np.empty((_FRAMES, _SIDE, _SIDE, 3), np.uint8)
    with Clock() as clock:
        for draw, path in enumerate(videos, start=turn * len(videos)):
            reader = decord.VideoReader(str(path), num_threads=1)
            numbers = FramePolicy("sparse", _FRAMES).choose(len(reader), Stream(0, "frames", draw))
            frames = reader.get_batch(numbers).asnumpy()
            height, width = frames.shape[1:3]
            stream = Stream(0, "augment", draw, 0)
            render(frames, draw_view(width, height, side=_SIDE, stream=stream, flip=True), out)
    return Run(len(videos), clock.wall_s, clock.core_s)


def _shares(make: MakeLoader, draws: int) -> dict[str, float]:
    """Parts of a core's time, by a profile of the loader without workers."""
    with closing(make(0, "nothing")) as loader, cProfile.Profile() as profile:
        for number in _batches(0, draws):
            loader.builder(number)
    rows = pstats.Stats(profile).stats.items()  # type: ignore[attr-defined]
    whole = sum(row[2] for _, row in rows)
    shares = {
        stage: sum(row[3] for (file, _, name), row in rows if (Path(file).name, name) in functions) / whole
        for stage, functions in _STAGES.items()
    }
    return {**shares, "rest": 1 - sum(shares.values())}

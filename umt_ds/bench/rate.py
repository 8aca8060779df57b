"""How much work of a core a drawn clip is, and how many bytes of disk, measured with a run's own loader."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch

from umt_ds.bench.machine import cpu_model
from umt_ds.config.batching import RunPlan
from umt_ds.config.run import RunConfig
from umt_ds.distributed.world import World
from umt_ds.tasks.loader import build_loader

_DRAWS = 8  # at a time
ALONE = World.alone()


@dataclass(frozen=True)
class LoaderRate:
    """Drawn clips per second of one core's time, and bytes read for each; `origin` says how it is known."""

    clips_per_core_s: float
    bytes_per_clip: float
    origin: str


def measure_loader(config: RunConfig, *, seconds: float = 10.0) -> LoaderRate:
    """Read, decode and crop clips of the run's shards in this process, for that long.

    It is the core's time that counts, so a busy machine gives the same rate as an idle one. Pages that were read
    before come from memory: the disk's own speed is `umt doctor`'s business. Raises DataError as a run would.
    """
    data = config.data.model_copy(update={"workers": 0})
    plan = plan_of(_DRAWS, views=data.num_sample)
    gpu = torch.device("cuda")  # need not be there: what is left to it is not measured
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker
    with closing(build_loader(config.model_copy(update={"data": data}), plan, ALONE, device=gpu)) as loader:
        loader.builder(0)  # opens shards, imports decoders
        clips, step, read = 0, 1, _bytes_read()
        begin, core = time.perf_counter(), time.process_time()
        while time.perf_counter() - begin < seconds:
            loader.builder(step)
            clips, step = clips + _DRAWS, step + 1
        core_s, read = time.process_time() - core, _bytes_read() - read
    torch.set_num_threads(threads)
    return LoaderRate(clips / core_s, read / clips, f"measured here on {clips:,} clips, {cpu_model()}")


def plan_of(draws: int, *, views: int = 1) -> RunPlan:
    """A plan of one rank that shows so many draws at a time."""
    return RunPlan(
        world=1, micro=draws, chunk=draws, accumulation=1, draws_per_step=draws, views_per_step=draws * views,
        steps_per_epoch=1, total_steps=1, warmup_steps=0, peak_lr=0.0, min_lr=0.0,
    )  # fmt: skip


def _bytes_read() -> int:
    """By this process so far, from files of any kind."""
    text = Path("/proc/self/io").read_text()
    return int(text.partition("rchar:")[2].split()[0])

"""How long a set will take and how large it will be, measured on a few of its clips before long work starts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data_prep.clip import Clip, Outcome, Refusal, RunOptions, Sample
from data_prep.decode import make_sample
from data_prep.engines import map_ordered
from data_prep.making.cells import with_bytes
from data_prep.spool import each_member, forget, spool_folder
from data_prep.state.plan import Plan

CLIPS_WORTH_AN_ESTIMATE = 1000
_SAMPLE, _SAMPLE_SECONDS = 32, 15.0
_TAR_BLOCK = 512


@dataclass(frozen=True)
class Estimate:
    """Of `clips` clips to come, from `measured` of them."""

    clips: int
    measured: int
    seconds_a_clip: float  # of one process, with the waiting for disk, network and others
    core_seconds_a_clip: float
    bytes_a_clip: float

    def text(self, *, processes: int, free: int | None) -> str:
        """One line; with a warning where `free` bytes of disk will not do."""
        seconds, size = self.clips * self.seconds_a_clip, self.clips * self.bytes_a_clip
        core_hours = self.clips * self.core_seconds_a_clip / 3600
        line = (
            f"about {_duration(seconds / processes)} with {processes} processes ({core_hours:,.1f} core-hours) "
            f"and {_size(size)} for {self.clips:,} clips (from {self.measured})"
        )
        if free is None:
            return line
        return f"{line}; {_size(free)} free" + (": WARNING, that is not enough" if size > free else "")


def estimate(plan: Plan, shards: list[int], *, run: RunOptions) -> Estimate | None:
    """Measure the first clips of the first shard to come, a fair sample of all, for 15 seconds at most.

    None where there are too few clips to come for it to be worth the while.
    """
    clips = sum(plan.num_clips_of(shard) for shard in shards)
    if clips < CLIPS_WORTH_AN_ESTIMATE:
        return None
    with spool_folder() as spool:
        measured = _measured(plan, plan.clips_of(shards[0])[:_SAMPLE], run, spool)
    if not measured:
        return None
    seconds, core_seconds, size = (sum(column) / len(measured) for column in zip(*measured, strict=True))
    return Estimate(clips, len(measured), seconds, core_seconds, size)


def _measured(plan: Plan, clips: Sequence[Clip], run: RunOptions, spool: Path) -> list[tuple[float, float, int]]:
    """What `_measure` gives of the first of these clips, in the time there is."""
    work = partial(_measure, plan=plan, spool=spool)
    found = with_bytes(clips, root=plan.root, spool=spool)
    results = map_ordered(work, found, workers=run.workers, timeout_s=run.timeout_s, memory_gb=run.memory_gb)
    started = time.perf_counter()
    measured: list[tuple[float, float, int]] = []
    with closing(results):
        for result in results:
            if isinstance(result, tuple):
                measured.append(result)
            if time.perf_counter() - started > _SAMPLE_SECONDS:
                break
    return measured


def _measure(clip: Clip | Refusal, *, plan: Plan, spool: Path) -> tuple[float, float, int]:
    """Seconds, core-seconds, and bytes in the tar: each member has a header and is padded to whole blocks."""
    started, worked = time.perf_counter(), time.process_time()
    outcome: Outcome = (
        clip
        if isinstance(clip, Refusal)
        else make_sample(clip, root=plan.root, media=plan.media, store=plan.store, spool=spool)
    )
    seconds, core_seconds = time.perf_counter() - started, time.process_time() - worked
    members = outcome.members if isinstance(outcome, Sample) else {}
    sizes = [size for _, size, _ in each_member(members)]
    forget(spool, clip.key)
    return seconds, core_seconds, sum(_TAR_BLOCK + -(-size // _TAR_BLOCK) * _TAR_BLOCK for size in sizes)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"


def _size(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count < 1e12 else f"{count / 1e12:,.2f} TB"

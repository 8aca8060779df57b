"""The training state as copies in main memory, which a thread writes while training goes on.

Taking a snapshot is collective and belongs to the main thread; writing it is not, and may fail on one rank alone.
"""

from __future__ import annotations

import hashlib
import os
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from umt_ds.distributed.world import World
from umt_ds.engine.deepspeed import Engine
from umt_ds.engine.manifest import StateKind, tensor_file

Share = dict[str, Tensor]  # fp32 on the CPU, by parameter name
Files = dict[str, dict[str, object]]  # name → bytes and sha256


@dataclass
class Writing:
    """Files of this rank that are being written, one a kind of state."""

    jobs: list[Future[Files]] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)
    ended: float = field(default_factory=time.perf_counter)  # when the last file was ready

    def done(self) -> bool:
        """Is every file on the disk, or failed?"""
        return all(job.done() for job in self.jobs)

    def files(self) -> Files:
        """Wait until all are written. Raises what writing raised: OSError, SafetensorError."""
        wait(self.jobs)
        return {name: entry for job in self.jobs for name, entry in job.result().items()}

    @property
    def seconds(self) -> float:
        return self.ended - self.began


class SnapshotWriter:
    """Takes snapshots and writes them in one thread. What waits to be written is all in memory: take the next one
    when the last is done."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")

    def write(self, engine: Engine, folder: Path, *, at_once: bool) -> Writing:
        """Copy this rank's share of the state, and write it into `folder`: by the time this returns if `at_once`
        (then only one kind of state is in memory at a time), else later. All ranks call it; an error of the disk is
        kept for `Writing.files`, so that gathering ends on every rank."""
        writing = Writing()
        for kind in engine.state_kinds:
            share = _take_share(engine, kind, self._world)
            if share:
                path = folder / tensor_file(kind, self._world.rank)
                writing.jobs.append(self._thread.submit(_write, path, share, writing))
            del share  # the thread has it, and it goes when it is written
            if at_once:
                wait(writing.jobs)
        return writing


def _take_share(engine: Engine, kind: StateKind, world: World) -> Share:
    """Names are dealt over the ranks. Gathering a tensor is collective, whoever keeps it."""
    return {
        name: tensor.detach().to("cpu", copy=True).contiguous()
        for position, (name, tensor) in enumerate(engine.read_state(kind))
        if position % world.size == world.rank
    }


def _write(path: Path, share: Share, writing: Writing) -> Files:
    try:
        save_file(share, path)
        return {path.name: {"bytes": path.stat().st_size, "sha256": _sync_and_hash(path)}}
    finally:
        writing.ended = time.perf_counter()


def _sync_and_hash(path: Path) -> str:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()

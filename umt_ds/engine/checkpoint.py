"""Checkpoints that know neither world size nor ZeRO stage, appear whole or not at all, and resume exactly.

    RUN/checkpoints/step-00012000/weight-00000.safetensors      fp32 weights, names dealt over the ranks
                                  exp_avg-00000.safetensors      AdamW's first moments
                                  exp_avg_sq-00000.safetensors   AdamW's second moments
                                  ema-00000.safetensors          averaged weights, where `optim.ema_decay` is set
                                  manifest.json                  step, digests, config, hashes of the files
    RUN/checkpoints/LATEST                                       name of the newest one
    RUN/checkpoints/BEST                                         the best one, where a metric decides (`engine.best`)

No pickle and no DeepSpeed file: plain tensors by parameter name. A frozen teacher is not in it.

Training goes on while a snapshot is written (`engine.snapshot`); once all ranks have written theirs, rank 0 makes it a
checkpoint at the end of a step. There is at most one snapshot on its way: the next save waits for it. What a crash can
cost is `cadence.save` steps and those that one write takes; an agreed stop costs none.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import torch
from safetensors import SafetensorError

from umt_ds.config.key_paths import flatten
from umt_ds.config.run import RunConfig
from umt_ds.config.show import as_tree, config_hash
from umt_ds.distributed.collectives import any_rank, barrier, broadcast_object
from umt_ds.distributed.world import World
from umt_ds.engine.best import BEST, Best, judge
from umt_ds.engine.deepspeed import Engine
from umt_ds.engine.manifest import CHECKPOINTS, LATEST, MANIFEST, CheckpointManifest, folder_name, versions
from umt_ds.engine.protocol import Progress
from umt_ds.engine.resume import Resume, find_resume, load_state, numbers_with_precision
from umt_ds.engine.snapshot import Files, SnapshotWriter, Writing
from umt_ds.engine.tidy import make_partial, make_room, newest_checkpoint, partial_of, prune, room_on, sync_folder
from umt_ds.errors import CheckpointError, UmtError
from umt_ds.whole_file import write_whole

log = logging.getLogger("umt_ds")
_Action = Callable[[], None]


@dataclass
class _Pending:
    """A snapshot on its way to the disk, and for how long it has held training up."""

    final: Path
    manifest: CheckpointManifest  # all but the files
    writing: Writing
    held_s: float


class CheckpointStore:
    """The checkpoints of one run. Every rank calls every method."""

    def __init__(
        self,
        run: Path,
        *,
        world: World,
        config: RunConfig,
        fingerprints: Mapping[str, str],
        device: torch.device,
        not_reproducible: Iterable[str] = (),
        classes: Sequence[str] = (),
        earlier: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        """earlier: of each name in `fingerprints` others that it had, and what to say of them."""
        self.run = run
        self._world = world
        self._config = config
        self._fingerprints = dict(fingerprints)
        self._earlier = earlier or {}
        self._classes = list(classes)
        self._not_reproducible = set(not_reproducible)  # sources that are, or ever were, streamed
        self._device = device
        self._saved_step: int | None = None
        self._writer = SnapshotWriter(world)
        self._pending: _Pending | None = None  # on all ranks, or on none
        self._saves = self._waits = 0

    # ------------------------------------------------------------ start

    def plan_resume(self, *, allow_config_change: bool = False) -> Resume:
        """Which of the cases applies: my own checkpoint, or `init.resume_from`, or fresh.

        Rank 0 looks and checks; all ranks get its answer. A damaged newest checkpoint is reported and the
        one before it is taken; if none is left, CheckpointError (never a silent fresh start). One that another version
        wrote (CheckpointError), or that the disk does not give (MachineError), is not passed over.
        """

        found: Resume | UmtError | None = None
        if self._world.is_first:
            try:
                found = find_resume(
                    self.run,
                    self._config,
                    fingerprints=self._fingerprints,
                    earlier=self._earlier,
                    classes=self._classes,
                    allow_config_change=allow_config_change,
                )
            except UmtError as error:  # every rank must hear of it, or the others wait for ever
                found = error
        answer = broadcast_object(found)
        if isinstance(answer, UmtError):
            raise answer.by_all_ranks()
        assert answer is not None  # rank 0 found one or the other
        if answer.manifest is not None:
            self._not_reproducible |= set(answer.manifest.inexact)
        return answer

    def load(self, engine: Engine, resume: Resume) -> Progress:
        """Put moments, average, step counter and loss scale into an engine whose module already has the weights."""
        if resume.folder is None or resume.manifest is None:
            return Progress()
        load_state(engine, resume.folder, resume.manifest)
        self._saved_step = resume.progress.step if resume.folder.parent == self.run / CHECKPOINTS else None
        return resume.progress

    # ------------------------------------------------------------ save

    def save(self, engine: Engine, progress: Progress, *, wait: bool = True) -> Path:
        """Write `step-N.partial/`, agree that it is whole, rename it, move LATEST, prune.

        Without `wait` (and with `cadence.async_save`) only a snapshot is taken now; `finish` does the rest after some
        later step, when all ranks say that they have written. Raises CheckpointError on every rank if one rank could
        not write, then or now; older checkpoints stay.
        """
        began = time.perf_counter()
        final = self.run / CHECKPOINTS / folder_name(progress.step)
        if self._pending is not None:
            self._wait_for_room(progress.step)
        if self._saved_step == progress.step:
            return final
        self._together("was not written", final, lambda: self._prepare(final))
        wait = wait or not self._config.cadence.async_save
        writing = self._writer.write(engine, partial_of(final), at_once=wait)
        self._saves += 1
        held_s = time.perf_counter() - began
        self._pending = _Pending(final, self._manifest(engine, progress), writing, held_s)
        if wait:
            self.finish()
        return final

    def has_written(self) -> bool:
        """Is a snapshot on its way, and this rank's part of it on the disk?"""
        return self._pending is not None and self._pending.writing.done()

    def finish(self) -> None:
        """Wait for the snapshot that is on its way, if there is one, and make it a checkpoint."""
        if self._pending is None:
            return
        began = time.perf_counter()
        pending, self._pending = self._pending, None
        final, files = pending.final, Files()
        self._together("was not written", final, lambda: files.update(pending.writing.files()))
        manifest = replace(
            pending.manifest, files=_gather_files(files), written=datetime.now(UTC).isoformat(timespec="seconds")
        )
        self._together("was not written", final, lambda: self._commit(final, manifest))
        self._together(f"is whole, but {LATEST} does not name it", final, lambda: self._point_to(final, manifest))
        self._saved_step = manifest.step
        log.info(
            "saved %s: %.2f GB in %.2f s, training held %.2f s",
            final.name,
            sum(int(entry["bytes"]) for entry in manifest.files.values()) / 1e9,
            pending.writing.seconds,
            pending.held_s + time.perf_counter() - began,
        )

    def note_score(self, new: Best) -> None:
        """Name the checkpoint of `new`, which must be saved, the best, if it is.

        Raises CheckpointError on every rank if BEST cannot be read or written.
        """
        outcome, best = f"was judged, but {BEST} is not up to date", self.run / CHECKPOINTS / new.checkpoint
        self._together(outcome, best, lambda: judge(self.run, new) if self._world.is_first else None)

    def _wait_for_room(self, step: int) -> None:
        """One snapshot in memory is enough."""
        assert self._pending is not None
        began, name = time.perf_counter(), self._pending.final.name
        self.finish()
        self._waits += 1
        log.info(
            "the save of step %d waited %.2f s for %s to be written (%d of %d saves waited so far)",
            step,
            time.perf_counter() - began,
            name,
            self._waits,
            self._saves,
        )

    def _together(self, outcome: str, final: Path, action: _Action) -> None:
        """Do it on every rank; if it failed on one, fail on all, with `outcome`. No collective is in `action`."""
        problem: OSError | SafetensorError | UmtError | None = None
        try:
            action()
        except (OSError, SafetensorError, UmtError) as error:
            problem = error
            log.error("rank %d: checkpoint %s %s: %s", self._world.rank, final.name, outcome, error)
        if any_rank(problem is not None, self._device):
            raise CheckpointError(
                f"checkpoint {final.name} {outcome} ({getattr(problem, 'what', problem) or 'another rank failed'})",
                hint=f"last good checkpoint: {newest_checkpoint(self.run)}; {room_on(self.run)}: "
                "free some space and start the same command again",
            ).by_all_ranks() from problem

    def _prepare(self, final: Path) -> None:
        if self._world.is_first:
            make_partial(final)

    def _manifest(self, engine: Engine, progress: Progress) -> CheckpointManifest:
        """What is true now; the files and the time come when they are written."""
        tree = as_tree(self._config)
        numbers = numbers_with_precision(self._config)
        running = {key: value for key, value in flatten(tree).items() if key not in numbers}
        return CheckpointManifest(
            step=progress.step,
            progress=asdict(progress),
            config=tree,
            numbers_hash=config_hash(numbers),
            running_hash=config_hash(running),
            fingerprints=self._fingerprints,
            files={},
            world=self._world.size,
            zero_stage=engine.stage,
            precision=engine.precision,
            loss_scale=engine.read_loss_scale(),
            inexact=sorted(self._not_reproducible),
            classes=self._classes,
            versions=versions(),
        )

    def _commit(self, final: Path, manifest: CheckpointManifest) -> None:
        """Rank 0 makes the checkpoint real: manifest, fsync, rename."""
        if not self._world.is_first:
            return
        partial = partial_of(final)
        with (partial / MANIFEST).open("w") as out:
            out.write(manifest.to_json())
            out.flush()
            os.fsync(out.fileno())
        sync_folder(partial)
        make_room(final)  # of a damaged checkpoint of the same step, refused when this run started
        os.replace(partial, final)
        sync_folder(final.parent)

    def _point_to(self, final: Path, manifest: CheckpointManifest) -> None:
        """LATEST is for people; then older checkpoints may go."""
        if not self._world.is_first:
            return
        write_whole(final.parent / LATEST, final.name + "\n")
        sync_folder(final.parent)
        prune(self.run, newest=manifest.step, keep=self._config.cadence.keep)


def _gather_files(own: Files) -> Files:
    """What all ranks wrote."""
    import torch.distributed as dist

    parts: list[Files] = [own]
    if dist.is_initialized() and dist.get_world_size() > 1:
        parts = [{} for _ in range(dist.get_world_size())]
        dist.all_gather_object(parts, own)
    barrier()
    return {name: entry for part in parts for name, entry in sorted(part.items())}

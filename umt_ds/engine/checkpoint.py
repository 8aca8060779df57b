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

from umt_ds.classes import first_difference
from umt_ds.config.check import check
from umt_ds.config.deepspeed_json import load_deepspeed_json, precision_of
from umt_ds.config.explain import Origin
from umt_ds.config.key_paths import flatten
from umt_ds.config.run import RunConfig
from umt_ds.config.show import as_tree, config_hash, numbers_of
from umt_ds.distributed.collectives import any_rank, barrier, broadcast_object
from umt_ds.distributed.world import World
from umt_ds.engine.best import BEST, Best, judge, read_best
from umt_ds.engine.checkpoint_files import read_tensors, verify_files, verify_state
from umt_ds.engine.deepspeed import Engine
from umt_ds.engine.manifest import (
    CHECKPOINTS,
    LATEST,
    MANIFEST,
    CheckpointManifest,
    StateKind,
    checkpoint_folders,
    folder_name,
    read_checkpoint_manifest,
    resolve_checkpoint,
    strangers,
    versions,
)
from umt_ds.engine.protocol import Progress
from umt_ds.engine.snapshot import Files, SnapshotWriter, Writing
from umt_ds.engine.tidy import make_partial, make_room, newest_checkpoint, partial_of, prune, room_on, sync_folder
from umt_ds.errors import CheckpointError, ConfigError, DamagedCheckpointError, UmtError, quoted
from umt_ds.whole_file import write_whole

log = logging.getLogger("umt_ds")
_Action = Callable[[], None]


@dataclass(frozen=True)
class Resume:
    """How a run starts: from the checkpoint in `folder` (state and all), or fresh where it is None."""

    folder: Path | None
    manifest: CheckpointManifest | None
    sentence: str  # what the log says about it

    @property
    def progress(self) -> Progress:
        return _progress_in(self.manifest) if self.manifest else Progress()


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
    ) -> None:
        self.run = run
        self._world = world
        self._config = config
        self._fingerprints = dict(fingerprints)
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
                found = self._find_resume(allow_config_change)
            except UmtError as error:  # every rank must hear of it, or the others wait for ever
                found = error
        answer = broadcast_object(found)
        if isinstance(answer, UmtError):
            raise answer.by_all_ranks()
        assert answer is not None  # rank 0 found one or the other
        if answer.manifest is not None:
            self._not_reproducible |= set(answer.manifest.inexact)
        return answer

    def _find_resume(self, allow_config_change: bool) -> Resume:
        own = checkpoint_folders(self.run)
        read_best(self.run)  # a damaged one is told now, not after the first evaluation
        if others := strangers(self.run):
            log.warning(
                "ignored in %s, as a checkpoint is a folder with a name such as %s: %s",
                self.run / CHECKPOINTS,
                folder_name(12),
                ", ".join(others),
            )
        source = self._config.init.resume_from
        if own:
            folder, manifest = self._newest_whole(own)
            sentence = f"resuming this run at step {manifest.step}"
        elif source is not None:
            folder, manifest = self._newest_whole(checkpoint_folders(source) or [resolve_checkpoint(source)])
            sentence = f"continuing {source} at step {manifest.step} (init.resume_from)"
        else:
            return Resume(None, None, "starting at step 0")
        _progress_in(manifest)
        self._compare_config(manifest, allow_config_change)
        return Resume(folder, manifest, f"{sentence}, from {folder}")

    def _newest_whole(self, folders: list[Path]) -> tuple[Path, CheckpointManifest]:
        problems = []
        for folder in folders:
            try:
                manifest = read_checkpoint_manifest(folder)
                verify_files(folder, manifest)
                verify_state(folder, manifest)
                return folder, manifest
            except DamagedCheckpointError as error:
                problems.append(error)
                log.error("checkpoint refused: %s", error.what)
        raise CheckpointError(
            f"no usable checkpoint: {problems[0].what}",
            hint="restore the damaged file; or move the checkpoints away to start again from the beginning",
        )

    def _compare_config(self, manifest: CheckpointManifest, allow_change: bool) -> None:
        """Only a change of *numbers* (or of what they refer to) needs leave; any change is logged."""
        mine = {**self._numbers(), **{f"content of {k}": v for k, v in self._fingerprints.items()}}
        config_then = _config_in(manifest)  # with the defaults of settings that came later: no change
        then = {**numbers_of(config_then), "precision": manifest.precision}
        theirs = {**then, **{f"content of {k}": v for k, v in manifest.fingerprints.items()}}
        changed = [k for k in sorted(mine.keys() | theirs.keys()) if mine.get(k) != theirs.get(k)]
        lines = [f"{key}: {theirs.get(key)} → {mine.get(key)}" for key in changed]
        if (other := first_difference(manifest.classes, self._classes)) is not None:
            lines.append(f"class {other[0]} of the head: {quoted(other[1])} → {quoted(other[2])}")
        if lines and not allow_change:
            raise CheckpointError(
                f"the checkpoint at step {manifest.step} belongs to another experiment: " + "; ".join(lines),
                hint="undo the change, or choose another run_dir, or accept it with --allow-config-change",
            )
        for line in lines:
            log.warning("changed since the checkpoint: %s", line)
        now, before = flatten(as_tree(self._config)), flatten(as_tree(config_then))
        for key in sorted(now.keys() | before.keys()):
            if now.get(key) != before.get(key) and key not in changed:
                log.info("changed since the checkpoint (running only): %s: %s → %s", key, before.get(key), now.get(key))

    def load(self, engine: Engine, resume: Resume) -> Progress:
        """Put moments, average, step counter and loss scale into an engine whose module already has the weights."""
        if resume.folder is None or resume.manifest is None:
            return Progress()
        engine.reset_moments(steps=resume.progress.step - resume.progress.skipped)
        for kind in engine.state_kinds:
            self._load_kind(engine, resume.folder, kind, resume.manifest)
        engine.write_loss_scale(resume.manifest.loss_scale)
        self._saved_step = resume.progress.step if resume.folder.parent == self.run / CHECKPOINTS else None
        return resume.progress

    def _load_kind(self, engine: Engine, folder: Path, kind: StateKind, manifest: CheckpointManifest) -> None:
        held: StateKind = kind
        if kind == "ema" and kind not in manifest.kinds:  # switched on since, with leave
            log.warning("the checkpoint holds no average of the weights: it begins with the weights that it holds")
            held = "weight"
        stored, names = dict(read_tensors(folder, held, manifest)), engine.names()
        if odd := sorted(stored.keys() ^ set(names)):
            raise CheckpointError(
                f"{folder.name}: its {kind} is not of this model; in one of them only: {', '.join(odd[:5])}",
                hint="resume with the code and configuration that wrote it, or choose another run_dir",
            )
        for name in names:
            engine.write_state(kind, name, stored[name])

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

    def _numbers(self) -> dict[str, object]:
        """What makes this the experiment it is; the precision is said in the DeepSpeed JSON."""
        return {**numbers_of(self._config), "precision": precision_of(load_deepspeed_json(self._config.engine))}

    def _manifest(self, engine: Engine, progress: Progress) -> CheckpointManifest:
        """What is true now; the files and the time come when they are written."""
        tree = as_tree(self._config)
        numbers = self._numbers()
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


def _progress_in(manifest: CheckpointManifest) -> Progress:
    try:
        return Progress(**manifest.progress)
    except TypeError as error:
        raise CheckpointError(
            f"this version cannot read the progress of {folder_name(manifest.step)}: {error}",
            hint="resume with the version that wrote it (its manifest says which); to go on without it, move it away",
        ) from error


def _config_in(manifest: CheckpointManifest) -> RunConfig:
    where = f"the checkpoint at step {manifest.step}"
    try:
        return check(manifest.config, {"": Origin(where)})
    except ConfigError as error:
        raise CheckpointError(
            f"this version cannot read the configuration of {where}: {error.what}",
            hint="resume with the version that wrote it (its manifest says which), or choose another run_dir",
        ) from error


def _gather_files(own: Files) -> Files:
    """What all ranks wrote."""
    import torch.distributed as dist

    parts: list[Files] = [own]
    if dist.is_initialized() and dist.get_world_size() > 1:
        parts = [{} for _ in range(dist.get_world_size())]
        dist.all_gather_object(parts, own)
    barrier()
    return {name: entry for part in parts for name, entry in sorted(part.items())}

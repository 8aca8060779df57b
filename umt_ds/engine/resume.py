"""Which checkpoint a run goes on from, whether it is one of the same experiment, and its state into an engine."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from umt_ds.classes import first_difference
from umt_ds.config.check import check
from umt_ds.config.deepspeed_json import load_deepspeed_json, precision_of
from umt_ds.config.explain import Origin
from umt_ds.config.key_paths import flatten
from umt_ds.config.run import RunConfig
from umt_ds.config.show import as_tree, numbers_of
from umt_ds.engine.best import read_best
from umt_ds.engine.checkpoint_files import read_tensors, verify_files, verify_state
from umt_ds.engine.deepspeed import Engine
from umt_ds.engine.manifest import (
    CHECKPOINTS,
    CheckpointManifest,
    StateKind,
    checkpoint_folders,
    folder_name,
    read_checkpoint_manifest,
    resolve_checkpoint,
    strangers,
)
from umt_ds.engine.protocol import Progress
from umt_ds.errors import CheckpointError, ConfigError, DamagedCheckpointError, quoted

log = logging.getLogger("umt_ds")


@dataclass(frozen=True)
class Resume:
    """How a run starts: from the checkpoint in `folder` (state and all), or fresh where it is None."""

    folder: Path | None
    manifest: CheckpointManifest | None
    sentence: str  # what the log says about it

    @property
    def progress(self) -> Progress:
        return _progress_in(self.manifest) if self.manifest else Progress()


def find_resume(
    run: Path,
    config: RunConfig,
    *,
    fingerprints: Mapping[str, str],
    earlier: Mapping[str, Mapping[str, str]],
    classes: Sequence[str],
    allow_config_change: bool,
) -> Resume:
    """From its own newest whole checkpoint, or that of `init.resume_from`, or fresh. earlier: of each name in
    `fingerprints` others that it had, and what to say of them.

    Raises CheckpointError where none is whole, or it is one of another experiment and `allow_config_change` is not set;
    MachineError where the disk does not give it.
    """
    own = checkpoint_folders(run)
    read_best(run)  # a damaged one is told now, not after the first evaluation
    if others := strangers(run):
        log.warning(
            "ignored in %s, as a checkpoint is a folder with a name such as %s: %s",
            run / CHECKPOINTS,
            folder_name(12),
            ", ".join(others),
        )
    source = config.init.resume_from
    if own:
        folder, manifest = _newest_whole(own)
        sentence = f"resuming this run at step {manifest.step}"
    elif source is not None:
        folder, manifest = _newest_whole(checkpoint_folders(source) or [resolve_checkpoint(source)])
        sentence = f"continuing {source} at step {manifest.step} (init.resume_from)"
    else:
        return Resume(None, None, "starting at step 0")
    _progress_in(manifest)
    _compare_config(
        manifest,
        config,
        fingerprints=fingerprints,
        earlier=earlier,
        classes=classes,
        allow_change=allow_config_change,
    )
    return Resume(folder, manifest, f"{sentence}, from {folder}")


def _newest_whole(folders: list[Path]) -> tuple[Path, CheckpointManifest]:
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


def _compare_config(
    manifest: CheckpointManifest,
    config: RunConfig,
    *,
    fingerprints: Mapping[str, str],
    earlier: Mapping[str, Mapping[str, str]],
    classes: Sequence[str],
    allow_change: bool,
) -> None:
    """Only a change of *numbers* (or of what they refer to) needs leave; any change is logged."""
    mine = {**numbers_with_precision(config), **{f"content of {k}": v for k, v in fingerprints.items()}}
    config_then = _config_in(manifest)  # with the defaults of settings that came later: no change
    then = {**numbers_of(config_then), "precision": manifest.precision}
    theirs = {**then, **{f"content of {k}": v for k, v in manifest.fingerprints.items()}}
    changed = [k for k in sorted(mine.keys() | theirs.keys()) if mine.get(k) != theirs.get(k)]
    known = {f"content of {name}": said for name, said in earlier.items()}
    ahead = _only_ahead(config_then, config, manifest.step)
    told = {
        key: "the steps so far are the same" if key.startswith(ahead) else known.get(key, {}).get(str(theirs.get(key)))
        for key in changed
    }
    lines = [
        f"{key}: {theirs.get(key)} → {mine.get(key)}" + (f" ({told[key]})" if told[key] else "") for key in changed
    ]
    if (other := first_difference(manifest.classes, classes)) is not None:
        lines.append(f"class {other[0]} of the head: {quoted(other[1])} → {quoted(other[2])}")
    if lines and not allow_change:
        raise CheckpointError(
            f"the checkpoint at step {manifest.step} belongs to another experiment: " + "; ".join(lines),
            hint="undo the change, or choose another run_dir, or accept it with --allow-config-change",
        )
    for line in lines:
        log.warning("changed since the checkpoint: %s", line)
    now, before = flatten(as_tree(config)), flatten(as_tree(config_then))
    for key in sorted(now.keys() | before.keys()):
        if now.get(key) != before.get(key) and key not in changed:
            log.info("changed since the checkpoint (running only): %s: %s → %s", key, before.get(key), now.get(key))


def _only_ahead(then: RunConfig, now: RunConfig, step: int) -> tuple[str, ...]:
    """Beginnings of keys whose values, if they differ, say other things of steps to come alone."""
    before, after = ({at: one for at, one in run.data.changes.items() if at < step} for run in (then, now))
    mixture = ("data.segments",) if before == after else ()
    return (*(("schedule.",) if now.schedule.is_same_until(then.schedule, step) else ()), *mixture)


def numbers_with_precision(config: RunConfig) -> dict[str, object]:
    """What makes this the experiment it is; the precision is said in the DeepSpeed JSON."""
    return {**numbers_of(config), "precision": precision_of(load_deepspeed_json(config.engine))}


def load_state(engine: Engine, folder: Path, manifest: CheckpointManifest) -> None:
    """Put moments, average, step counter and loss scale of a checkpoint into an engine whose module has its weights."""
    progress = _progress_in(manifest)
    engine.reset_moments(steps=progress.step - progress.skipped)
    for kind in engine.state_kinds:
        _load_kind(engine, folder, kind, manifest)
    engine.write_loss_scale(manifest.loss_scale)


def _load_kind(engine: Engine, folder: Path, kind: StateKind, manifest: CheckpointManifest) -> None:
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

"""Do two runs hold the same weights, moments and averages after the same step? Torch-free: hashes are compared."""

from __future__ import annotations

from pathlib import Path

from umt_ds.engine.manifest import (
    CheckpointManifest,
    StateKind,
    checkpoint_folders,
    read_checkpoint_manifest,
    step_of,
)
from umt_ds.errors import CheckpointError, some

_NAMES: dict[StateKind, str] = {
    "weight": "weights",
    "exp_avg": "first moments",
    "exp_avg_sq": "second moments",
    "ema": "averaged weights",
}


def compare_checkpoints(a: Path, b: Path, *, names: tuple[str, str] = ("A", "B")) -> str:
    """A sentence on the newest step of which both run folders hold a checkpoint: what of it is equal bit for bit.

    Raises MachineError where a disk does not say what it holds.
    """
    folders = [{step_of(folder): folder for folder in checkpoint_folders(run)} for run in (a, b)]
    common = folders[0].keys() & folders[1].keys()
    if not common:
        return "weights, moments and averages are not compared: there is no step of which both have a checkpoint"
    step = max(common)
    try:
        one, other = (read_checkpoint_manifest(found[step]) for found in folders)
    except CheckpointError as error:
        return f"weights, moments and averages are not compared: {error.what}"
    if one.world != other.world:
        return (
            f"weights, moments and averages of step {step} are not compared: {one.world} rank(s) wrote those of "
            f"{names[0]} and {other.world} those of {names[1]}, which cuts them into other files"
        )
    return _verdict(step, one, other)


def _verdict(step: int, one: CheckpointManifest, other: CheckpointManifest) -> str:
    kinds = dict.fromkeys((*one.kinds, *other.kinds))
    equal = [_NAMES[kind] for kind in kinds if _hashes(one, kind) == _hashes(other, kind)]
    unequal = [name for name in map(_NAMES.__getitem__, kinds) if name not in equal]
    verdicts = [f"{some(equal)} equal bit for bit"] if equal else []
    verdicts += [f"{some(unequal)} not"] if unequal else []
    return f"checkpoints of step {step}: {'; '.join(verdicts)}"


def _hashes(manifest: CheckpointManifest, kind: StateKind) -> dict[str, object]:
    return {name: manifest.files[name]["sha256"] for name in manifest.files_of(kind)}

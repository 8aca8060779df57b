"""Weights from wherever they lie: a weight file, the folder of a model, or a run or checkpoint folder of ours."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from umt_ds.config.check import check
from umt_ds.config.explain import Origin
from umt_ds.config.tasks.base import ClipShape, TaskSettings
from umt_ds.engine.checkpoint_files import read_checkpoint_weights
from umt_ds.engine.manifest import (
    CHECKPOINTS,
    MANIFEST,
    checkpoint_folders,
    read_checkpoint_manifest,
    resolve_checkpoint,
)
from umt_ds.engine.protocol import InitialWeights, Task
from umt_ds.errors import ConfigError, WeightsError
from umt_ds.tasks.encoders import told_positions
from umt_ds.weights.deepspeed_folder import deepspeed_folder
from umt_ds.weights.exported import is_model_folder, read_model_folder
from umt_ds.weights.file import WeightFile
from umt_ds.weights.folder import LOOKED_FOR, holds_weights, listing
from umt_ds.weights.load import read_weight_source
from umt_ds.weights.numbers import require_weights


def read_weights(path: Path, *, averaged: bool = False) -> dict[str, Tensor]:
    """Tensors by name. Takes and raises what `read_source` does."""
    return read_source(path, averaged=averaged).state


def read_source(path: Path, *, averaged: bool = False) -> WeightFile:
    """Tensors by name, and how they were written; averaged: the moving average that a run of ours keeps of its weights.

    Raises WeightsError or CheckpointError on anything missing, altered or untrusted.
    """
    if _is_run(path):
        state = read_checkpoint_weights(path, averaged=averaged)
        require_weights(state, where=str(path))
        return WeightFile(state, "a run of ours")
    if averaged:
        raise WeightsError(
            f"averaged weights are asked for, and {path} is no run or checkpoint of ours, which alone have them",
            hint="leave out init.ema and evaluation.NAME.ema, or name a run that was trained with optim.ema_decay",
        )
    if os.path.isdir(path) and not holds_weights(path) and deepspeed_folder(path) is None:
        raise WeightsError(
            f"{path} is neither a run nor a model: {listing(path)}",
            hint=f"a run has {CHECKPOINTS}/, a model {LOOKED_FOR}; or name a weight file",
        )
    return read_weight_source(path)


def _is_run(path: Path) -> bool:
    """A run or checkpoint folder of ours; one that holds a model too is a run where it has a checkpoint."""
    if not os.path.isdir(path):
        return False
    has_checkpoints = checkpoint_folders(path) if holds_weights(path) else os.path.exists(path / CHECKPOINTS)
    return bool(has_checkpoints) or os.path.exists(path / MANIFEST)


def read_initial(path: Path, *, averaged: bool = False) -> InitialWeights:
    """Weights to begin with, and what their run said of them. Raises as `read_weights`."""
    state = read_weights(path, averaged=averaged)
    if is_model_folder(path):
        model = read_model_folder(path)
        return InitialWeights(state, str(path), model.classes, _positions_in(model.tree), model.fingerprints)
    if not _is_run(path):
        return InitialWeights(state, str(path))
    manifest = read_checkpoint_manifest(resolve_checkpoint(path))
    pretrained_on = _positions_in(manifest.config)
    return InitialWeights(state, str(path), tuple(manifest.classes), pretrained_on, manifest.fingerprints)


def start_from(task: Task, weights: InitialWeights, settings: TaskSettings) -> str:
    """The weights into the module of a task of these settings; what was loaded, and what becomes of the positions of
    clips of another shape. Raises WeightsError for what does not fit it, and as `refuse_other_words`."""
    refuse_other_words(weights.fingerprints, task.fingerprints, where=weights.where)
    return "; ".join(filter(None, [task.load_weights(weights), told_positions(weights.pretrained_on, settings)]))


def refuse_other_words(found: Mapping[str, str], own: Mapping[str, str], *, where: str) -> None:
    """Raises WeightsError where the run that trained some weights split text by another vocabulary than the task does:
    a number would stand for another word, and nothing else would tell. found, own: fingerprints of that run and of the
    task."""
    theirs, ours = found.get("vocabulary"), own.get("vocabulary")
    if theirs is not None and ours is not None and theirs != ours:
        raise WeightsError(
            f"{where} was trained with another vocabulary ({theirs}) than that of task.text ({ours}): its numbers "
            "stand for other words",
            hint="set task.text.vocabulary, or task.text.weights where that is null, to what its run used (its "
            "config.yaml says it)",
        )


def _positions_in(settings: dict[str, Any]) -> ClipShape | None:
    """The clip whose positions the encoder of a run learned with; None of a run whose settings another version wrote,
    so that they cannot be read here."""
    try:
        return check(settings, {"": Origin("its settings")}, keep_unset=True).task.positions_of
    except ConfigError:
        return None


def state_fingerprint(state: Mapping[str, Tensor]) -> str:
    """A hash of names, shapes and values: the same weights from another path are the same weights."""
    content = hashlib.blake2b(digest_size=16)
    for name in sorted(state):
        tensor = state[name].detach().float().contiguous()
        content.update(f"{name} {tuple(tensor.shape)}".encode())
        content.update(tensor.numpy().tobytes())
    return content.hexdigest()

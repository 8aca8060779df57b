"""The tensor files of a checkpoint: those that its manifest lists, and no others. No pickle: safetensors alone."""

from __future__ import annotations

import hashlib
import logging
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from umt_ds.distributed.collectives import is_first_rank
from umt_ds.engine.manifest import (
    MANIFEST,
    STATE_KINDS,
    CheckpointManifest,
    StateKind,
    read_checkpoint_manifest,
    resolve_checkpoint,
)
from umt_ds.engine.readback import is_file, names_in, unreadable
from umt_ds.errors import CheckpointError, DamagedCheckpointError, MachineError

log = logging.getLogger("umt_ds")
_ELSEWHERE = "no run of ours writes this: move the checkpoint away, and take another one"


def verify_files(folder: Path, manifest: CheckpointManifest) -> None:
    """Sizes and sha256 of all tensor files. Raises DamagedCheckpointError naming the first that is wrong, MachineError
    where the disk does not give one; what the manifest does not list is said in the log, and nobody reads it."""
    for name, stated in manifest.files.items():
        path = folder / name
        if not is_file(path):
            raise DamagedCheckpointError(f"{folder.name}: file {name} is missing")
        try:
            size, digest = path.stat().st_size, None
            if size == stated["bytes"]:
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise unreadable(path, error) from error
        if digest is None:
            raise DamagedCheckpointError(f"{folder.name}: {name} has {size} bytes instead of {stated['bytes']}")
        if digest != stated["sha256"]:
            raise DamagedCheckpointError(f"{folder.name}: {name} was altered (sha256 differs)")
    others = [name for name in names_in(folder) if name != MANIFEST and name not in manifest.files]
    if others and is_first_rank():
        log.warning("%s holds files that are not in its manifest; they are not read: %s", folder, ", ".join(others))


def verify_state(folder: Path, manifest: CheckpointManifest) -> None:
    """Do the weights, both moments and the moving average, where it has one, tell of the same parameters? Raises
    CheckpointError where one lacks a tensor or has it in another shape. Reads the heads of the files only."""
    if more := [kind for kind in STATE_KINDS if kind not in manifest.kinds and manifest.files_of(kind)]:
        raise CheckpointError(f"{folder.name}: it holds {more[0]}, which its run did not keep", hint=_ELSEWHERE)
    shapes = {kind: _shapes(folder, manifest, kind) for kind in manifest.kinds}
    for kind in manifest.kinds:
        odd = sorted(
            name
            for name in shapes["weight"].keys() | shapes[kind].keys()
            if shapes["weight"].get(name) != shapes[kind].get(name)
        )
        if odd:
            raise CheckpointError(
                f"{folder.name}: its weights and its {kind} are not of the same tensors: {', '.join(odd[:5])}",
                hint=_ELSEWHERE,
            )


def read_tensors(
    folder: Path, kind: StateKind, manifest: CheckpointManifest | None = None
) -> Iterator[tuple[str, Tensor]]:
    """All tensors of one kind in a checkpoint by name, finite fp32 on the CPU; manifest: where it was read already.

    Raises DamagedCheckpointError on a file that is no safetensors file, CheckpointError on tensors that no checkpoint
    holds, MachineError where the disk does not give one.
    """
    manifest = manifest or read_checkpoint_manifest(folder)
    for name, tensor in _each(folder, manifest, kind, lambda file, name: file.get_tensor(name)):
        if not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{folder.name}: the {kind} of {name} is not finite (NaN or infinite)", hint=_ELSEWHERE
            )
        yield name, tensor


def read_checkpoint_weights(path: Path, *, averaged: bool = False) -> dict[str, Tensor]:
    """The weights of a checkpoint folder, or of the newest checkpoint of a run folder, by name; their hashes are
    checked. averaged: their moving average (`optim.ema_decay`).

    Raises as `read_tensors`, and CheckpointError where `path` holds no checkpoint, or one without an average.
    """
    folder = resolve_checkpoint(path)
    manifest = read_checkpoint_manifest(folder)
    if averaged:
        require_average(folder, manifest)
    verify_files(folder, manifest)
    return dict(read_tensors(folder, "ema" if averaged else "weight", manifest))


def require_average(folder: Path, manifest: CheckpointManifest) -> None:
    """Raises CheckpointError where a checkpoint holds no moving average of the weights."""
    if "ema" not in manifest.kinds:
        raise CheckpointError(
            f"{folder} holds no averaged weights: its run kept none (optim.ema_decay)",
            hint="take the trained weights: leave out init.ema and evaluation.NAME.ema",
        )


def _shapes(folder: Path, manifest: CheckpointManifest, kind: StateKind) -> dict[str, list[int]]:
    return dict(_each(folder, manifest, kind, lambda file, name: file.get_slice(name).get_shape()))


def _each(
    folder: Path, manifest: CheckpointManifest, kind: StateKind, take: Callable[[Any, str], Any]
) -> Iterator[tuple[str, Any]]:
    """Each tensor's name, once, and what is taken of it from its file."""
    seen: set[str] = set()
    for path in (folder / name for name in manifest.files_of(kind)):
        with _opened(path) as file:
            for name in file.keys():  # noqa: SIM118 (safe_open is not a mapping)
                if name in seen:
                    raise CheckpointError(f"{folder.name}: the {kind} of {name} is in two files", hint=_ELSEWHERE)
                if (found := file.get_slice(name).get_dtype()) != "F32":
                    raise CheckpointError(f"{folder.name}: the {kind} of {name} is {found}, not F32", hint=_ELSEWHERE)
                seen.add(name)
                yield name, take(file, name)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError as error:  # it was there when it was verified, by rank 0
        raise MachineError(
            f"{path} is not there on {platform.node()}", hint="every node must see the run folder: a shared disk"
        ) from error
    except SafetensorError as error:
        raise DamagedCheckpointError(f"{path} is damaged: {error}", hint="use the checkpoint before it") from error
    except OSError as error:
        raise unreadable(path, error) from error

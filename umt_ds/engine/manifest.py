"""What a checkpoint says about itself, and which folders are checkpoints. Torch-free: launchers read it too.

A checkpoint is *whole*, or *damaged* (DamagedCheckpointError: its bytes are not those that were written, and the one
before it may be taken), or it cannot be read by this version or this machine: then nothing goes on without a person.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import MISSING, asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from umt_ds.engine.readback import is_file, is_folder, names_in, parse_json, read_back
from umt_ds.errors import CheckpointError, DamagedCheckpointError

CHECKPOINTS = "checkpoints"
MANIFEST = "manifest.json"
LATEST = "LATEST"
FORMAT = 1

StateKind = Literal["weight", "exp_avg", "exp_avg_sq", "ema"]
STATE_KINDS: tuple[StateKind, ...] = ("weight", "exp_avg", "exp_avg_sq", "ema")

_TENSOR_FILE = re.compile(rf"(?:{'|'.join(STATE_KINDS)})-[0-9]{{5,}}\.safetensors")
_FOLDER = re.compile(r"step-(?:[0-9]{8}|[1-9][0-9]{8,})")
_OTHER_VERSION = "update umt_ds, or read it with the version that wrote it; to go on without it, move it away"


@dataclass(frozen=True)
class CheckpointManifest:
    """Everything but the tensors. `files` holds size and sha256 of each tensor file."""

    step: int
    progress: dict[str, int]
    config: dict[str, Any]  # the resolved run configuration
    numbers_hash: str
    running_hash: str
    fingerprints: dict[str, str]  # data sets, teacher
    files: dict[str, dict[str, Any]]
    world: int
    zero_stage: int
    precision: str
    loss_scale: dict[str, float] | None = None
    inexact: list[str] = field(default_factory=list)  # sources that were ever streamed: their clips cannot be repeated
    versions: dict[str, str] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)  # names of the rows of a classifier's head, in their order
    written: str = ""  # UTC, ISO 8601
    format: int = FORMAT

    def to_json(self) -> str:
        """With a seal, a hash of all the rest: an altered manifest is noticed like an altered tensor."""
        record = asdict(self)
        return json.dumps({**record, "seal": _seal(record)}, indent=1)

    @property
    def kinds(self) -> tuple[StateKind, ...]:
        """The kinds of state that a run with its configuration has."""
        return state_kinds(averaged=self.ema_decay is not None)

    @property
    def ema_decay(self) -> float | None:
        """Of the moving average of the weights; None where its run kept none, or its version knew of none."""
        optim = self.config.get("optim")
        decay = optim.get("ema_decay") if isinstance(optim, dict) else None
        return decay if isinstance(decay, float) else None

    def files_of(self, kind: StateKind) -> list[str]:
        """The files that hold one kind of state."""
        return sorted(name for name in self.files if name.startswith(f"{kind}-"))


def state_kinds(*, averaged: bool) -> tuple[StateKind, ...]:
    """The kinds of state that a training has; averaged: with a moving average of the weights (`optim.ema_decay`)."""
    return STATE_KINDS if averaged else STATE_KINDS[:-1]


def tensor_file(kind: StateKind, rank: int) -> str:
    """The file in which a rank writes its share of one kind of state."""
    return f"{kind}-{rank:05d}.safetensors"


def is_file_of_ours(name: str) -> bool:
    """Is it the name of a file as a checkpoint has them?"""
    return name == MANIFEST or _TENSOR_FILE.fullmatch(name) is not None


# ---------------------------------------------------------------- reading


def read_checkpoint_manifest(folder: Path) -> CheckpointManifest:
    """What `folder` says about itself. Raises DamagedCheckpointError where that is missing or was altered, another
    CheckpointError where this version does not read it, MachineError where the disk does not give it."""
    path = folder / MANIFEST
    try:
        record = parse_json(read_back(path))
    except FileNotFoundError:
        raise DamagedCheckpointError(
            f"{folder} is not a checkpoint: it has no {MANIFEST}", hint="name a run folder or one of its checkpoints"
        ) from None
    except ValueError as error:  # no text, or no JSON
        raise DamagedCheckpointError(f"{path} is damaged: {error}", hint="use the checkpoint before it") from error
    if not isinstance(record, dict):
        raise DamagedCheckpointError(f"{path} is damaged: it holds no manifest", hint="use the checkpoint before it")
    _refuse_other_format(record, path)
    _refuse_altered(record, path)
    _refuse_other_fields(record, path)
    manifest = CheckpointManifest(**record)
    if is_folder_name(folder.name) and step_of(folder) != manifest.step:
        raise CheckpointError(
            f"{folder} holds step {manifest.step}, which is not what its name says",
            hint=f"rename it to {folder_name(manifest.step)}, or move it away",
        )
    return manifest


def _refuse_other_format(record: dict[str, Any], path: Path) -> None:
    """First: another format may have other fields and another seal. What has neither is nobody's we know."""
    found = record.get("format")
    if (type(found) is int and found == FORMAT) or record.keys() & {"format", "seal"} == {"seal"}:
        return
    age = "a newer" if type(found) is int and found > FORMAT else "another"
    raise CheckpointError(
        f"{path} was written by {age} version of umt_ds: it has format {found!a:.40}; this version reads {FORMAT}",
        hint=_OTHER_VERSION,
    )


def _refuse_altered(record: dict[str, Any], path: Path) -> None:
    """Take the seal out of the record, and hold it against the rest."""
    seal = record.pop("seal", None)
    try:
        sealed = seal == _seal(record)
    except RecursionError:  # nested as deeply as no manifest is
        sealed = False
    if not sealed:
        raise DamagedCheckpointError(f"{path} was altered (its seal differs)", hint="use the checkpoint before it")


def _seal(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _refuse_other_fields(record: dict[str, Any], path: Path) -> None:
    """The bytes are those that were written, so what is odd about them is another version's."""
    known = {one.name: one for one in fields(CheckpointManifest)}
    needed = {name for name, one in known.items() if one.default is one.default_factory is MISSING}
    odd = [f"unknown field {name!a}" for name in sorted(record.keys() - known.keys())]
    odd += [f"no field {name}" for name in sorted(needed - record.keys())]
    odd += [
        f"{name} is {record[name]!a:.200}" for name in record.keys() & known.keys() if not _FITS[name](record[name])
    ]
    if not odd and record["progress"].get("step") != record["step"]:
        odd = [f"step {record['step']}, but progress {record['progress']}"]
    if odd:
        raise CheckpointError(f"this version does not read {path}: {'; '.join(odd)}", hint=_OTHER_VERSION)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**64


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _maps_to(fits: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, dict) and all(map(fits, value.values()))


def _lists_files(value: object) -> bool:
    """Plain names of ours: no file outside the folder can be meant."""
    return isinstance(value, dict) and all(
        _TENSOR_FILE.fullmatch(name)
        and isinstance(stated, dict)
        and stated.keys() == {"bytes", "sha256"}
        and _is_count(stated["bytes"])
        and _is_text(stated["sha256"])
        for name, stated in value.items()
    )


_FITS: dict[str, Callable[[object], bool]] = {
    "step": _is_count,
    "progress": _maps_to(_is_count),
    "config": lambda value: isinstance(value, dict),
    "numbers_hash": _is_text,
    "running_hash": _is_text,
    "fingerprints": _maps_to(_is_text),
    "files": _lists_files,
    "world": _is_count,
    "zero_stage": _is_count,
    "precision": _is_text,
    "loss_scale": lambda value: value is None or _maps_to(_is_finite)(value),
    "inexact": lambda value: isinstance(value, list) and all(map(_is_text, value)),
    "versions": _maps_to(_is_text),
    "written": _is_text,
    "classes": lambda value: isinstance(value, list) and all(map(_is_text, value)),
    "format": lambda value: type(value) is int,
}


# ---------------------------------------------------------------- folders


def folder_name(step: int) -> str:
    """The name of the checkpoint of a step."""
    return f"step-{step:08d}"


def is_folder_name(name: str) -> bool:
    """Is it the name of the checkpoint of some step, as `folder_name` gives it?"""
    return _FOLDER.fullmatch(name) is not None


def step_of(folder: Path) -> int:
    """The step in the name of a checkpoint folder."""
    return int(folder.name[5:])


def checkpoint_folders(run: Path) -> list[Path]:
    """The checkpoints of a run, newest first. A folder with a final name is whole by construction.

    Raises MachineError where the disk does not say: what cannot be seen is not taken for a run without checkpoints.
    """
    inside = run / CHECKPOINTS
    folders = [inside / name for name in names_in(inside) if is_folder_name(name) and is_folder(inside / name)]
    return sorted(folders, key=step_of, reverse=True)


def strangers(run: Path) -> list[str]:
    """What beside the checkpoints of a run could be taken for one, but is named otherwise."""
    whole = {folder.name for folder in checkpoint_folders(run)}
    return [
        name
        for name in names_in(run / CHECKPOINTS)
        if name.startswith("step-") and name not in whole and not re.search(r"\.(partial|aside-\w+)$", name)
    ]


def sources_not_reproducible(run: Path) -> list[str]:
    """The sources whose clips cannot be shown again, as the newest whole checkpoint of `run` says; none without one."""
    for folder in checkpoint_folders(run):
        with suppress(CheckpointError):
            return read_checkpoint_manifest(folder).inexact
    return []


def resolve_checkpoint(path: Path) -> Path:
    """The checkpoint folder that a run folder or checkpoint folder (under any name) means: the newest of a run."""
    if is_file(path / MANIFEST) and not is_folder(path / CHECKPOINTS):
        return path
    folders = checkpoint_folders(path)
    if not folders:
        raise CheckpointError(f"{path} holds no checkpoint", hint="name a run folder or one of its checkpoints")
    return folders[0]


def versions() -> dict[str, str]:
    """Versions of what decides the bits of a run."""
    packages = ("umt_ds", "torch", "deepspeed", "numpy", "simplejpeg")
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except ModuleNotFoundError:
            found[package] = "not installed"
    return {"python": platform.python_version(), **found}

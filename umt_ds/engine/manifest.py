"""What a checkpoint says about itself. Torch-free: launchers read it too."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from umt_ds.errors import CheckpointError

CHECKPOINTS = "checkpoints"
MANIFEST = "manifest.json"
LATEST = "LATEST"
FORMAT = 1


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
    written: str = ""  # UTC, ISO 8601
    format: int = FORMAT

    def to_json(self) -> str:
        """With a seal, a hash of all the rest: an altered manifest is noticed like an altered tensor."""
        record = asdict(self)
        return json.dumps({**record, "seal": _seal(record)}, indent=1)


def _seal(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def read_checkpoint_manifest(folder: Path) -> CheckpointManifest:
    """Raises CheckpointError where `folder` is not a whole checkpoint of a format this version reads."""
    path = folder / MANIFEST
    try:
        record = json.loads(path.read_text())
        if record["format"] != FORMAT:  # first: another format may have other fields
            raise CheckpointError(f"{path} has format {record['format']}; this version reads {FORMAT}")
        seal = record.pop("seal")
        manifest = CheckpointManifest(**record)
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder} is not a checkpoint: it has no {MANIFEST}", hint="name a run folder or one of its checkpoints"
        ) from None
    except (OSError, ValueError, TypeError, KeyError) as error:  # no JSON, no text, or none of ours
        raise CheckpointError(f"{path} is damaged: {error}", hint="use the checkpoint before it") from error
    if seal != _seal(record):
        raise CheckpointError(f"{path} was altered (its seal differs)", hint="use the checkpoint before it")
    return manifest


def checkpoint_folders(run: Path) -> list[Path]:
    """The checkpoints of a run, newest first. A folder with a final name is whole by construction."""
    folders = (run / CHECKPOINTS).glob("step-*")
    return sorted((f for f in folders if f.name[5:].isdigit()), key=step_of, reverse=True)


def step_of(folder: Path) -> int:
    """The step in the name of a checkpoint folder."""
    return int(folder.name[5:])


def inexact_sources(run: Path) -> list[str]:
    """The sources whose clips cannot be shown again, as the newest whole checkpoint of `run` says; none without one."""
    for folder in checkpoint_folders(run):
        with suppress(CheckpointError):
            return read_checkpoint_manifest(folder).inexact
    return []


def resolve_checkpoint(path: Path) -> Path:
    """The checkpoint folder that a run folder or checkpoint folder means: the newest of a run."""
    if (path / MANIFEST).is_file() and path.name.startswith("step-"):
        return path
    folders = checkpoint_folders(path)
    if not folders:
        raise CheckpointError(f"{path} holds no checkpoint", hint="name a run folder or one of its checkpoints")
    return folders[0]

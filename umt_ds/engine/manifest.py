"""What a checkpoint says about itself. Torch-free: launchers read it too."""

from __future__ import annotations

import json
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
    versions: dict[str, str] = field(default_factory=dict)
    written: str = ""  # UTC, ISO 8601
    format: int = FORMAT

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)


def read_checkpoint_manifest(folder: Path) -> CheckpointManifest:
    """Raises CheckpointError where `folder` is not a whole checkpoint of a format this version reads."""
    path = folder / MANIFEST
    try:
        record = json.loads(path.read_text())
        manifest = CheckpointManifest(**record)
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder} is not a checkpoint: it has no {MANIFEST}", hint="name a run folder or one of its checkpoints"
        ) from None
    except (OSError, json.JSONDecodeError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}", hint="use the checkpoint before it") from error
    if manifest.format != FORMAT:
        raise CheckpointError(f"{path} has format {manifest.format}; this version reads {FORMAT}")
    return manifest


def checkpoint_folders(run: Path) -> list[Path]:
    """The checkpoints of a run, newest first. A folder with a final name is whole by construction."""
    folders = (run / CHECKPOINTS).glob("step-*")
    return sorted((f for f in folders if f.name[5:].isdigit()), key=lambda f: int(f.name[5:]), reverse=True)


def resolve_checkpoint(path: Path) -> Path:
    """The checkpoint folder that a run folder or checkpoint folder means: the newest of a run."""
    if (path / MANIFEST).is_file() and path.name.startswith("step-"):
        return path
    folders = checkpoint_folders(path)
    if not folders:
        raise CheckpointError(f"{path} holds no checkpoint", hint="name a run folder or one of its checkpoints")
    return folders[0]

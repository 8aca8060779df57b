"""A model's folder as `umt import` writes it: the weights as safetensors, and a JSON file that says what they are."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from umt_ds.errors import WeightsError
from umt_ds.weights.sniff import read_json
from umt_ds.whole_file import appearing, write_whole

WEIGHTS = "model.safetensors"
ABOUT = "umt_weights.json"
_READ = 1 << 24  # bytes at a time


def sha256_of(path: Path) -> str:
    """Of a file's content."""
    content = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_READ):
            content.update(part)
    return content.hexdigest()


def write_imported_folder(folder: Path, state: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """The weights, and `about` with the hash of their file beside them, which is written last.

    Raises WeightsError where the folder holds something already; OSError.
    """
    from safetensors.torch import save_file

    require_new(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with appearing(folder / WEIGHTS) as partial:
        save_file(_apart(state), partial, metadata={"format": "pt"})
    told = {**about, "files": {WEIGHTS: {"sha256": sha256_of(folder / WEIGHTS)}}}
    write_whole(folder / ABOUT, json.dumps(told, indent=2, ensure_ascii=False) + "\n")


def require_new(folder: Path) -> None:
    """Raises WeightsError where a folder holds something already."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise WeightsError(f"{folder} is there already", hint="name a new folder, or move this one away")


def check_imported_folder(folder: Path) -> None:
    """Raises WeightsError where the weights are not those that were written; nothing where no such file says it."""
    if not os.path.isfile(folder / ABOUT):
        return
    files = read_json(folder / ABOUT).get("files")
    listed = files.get(WEIGHTS) if isinstance(files, dict) else None
    written = listed.get("sha256") if isinstance(listed, dict) else None
    if written is None or not os.path.isfile(folder / WEIGHTS):
        raise WeightsError(f"{folder / ABOUT} does not belong to the weights beside it", hint="import them again")
    if (found := sha256_of(folder / WEIGHTS)) != written:
        raise WeightsError(
            f"{folder / WEIGHTS} was altered: its sha256 is {found[:16]}…, not {written[:16]}… as {ABOUT} says",
            hint="import the file again, or copy the folder again",
        )


def _apart(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor with numbers of its own, as safetensors wants it: tied ones are written twice."""
    seen: set[int] = set()
    apart = {}
    for name, value in state.items():
        whole = value.contiguous()
        place = whole.untyped_storage().data_ptr()
        shared = place in seen or whole.untyped_storage().nbytes() != whole.numel() * whole.element_size()
        apart[name] = whole.clone(memory_format=torch.contiguous_format) if shared else whole
        seen.add(place)
    return apart

"""A folder of `save_pretrained`: which file in it holds the weights, and what its index says of several."""

from __future__ import annotations

import os
from pathlib import Path

from torch import Tensor

from umt_ds.errors import WeightsError
from umt_ds.weights.file import read_file
from umt_ds.weights.names import some
from umt_ds.weights.sniff import form_of, read_json

# in the order in which transformers looks; then open_clip's
WEIGHT_FILES = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
    "open_clip_model.safetensors", "open_clip_pytorch_model.bin",
)  # fmt: skip
LOOKED_FOR = f"one of {', '.join(WEIGHT_FILES)}"
_WHOLE = "index and files are of one save: copy the whole folder again"


def folder_of(weights: Path) -> Path:
    """The folder of a model that is named by itself, by its weight file, or by the index of several."""
    return weights if os.path.isdir(weights) or not os.path.isfile(weights) else weights.parent


def holds_weights(folder: Path) -> bool:
    """Whether a folder is that of a model."""
    return any(os.path.isfile(folder / name) for name in WEIGHT_FILES)


def weight_file_in(folder: Path) -> Path:
    """The weight file, or the index of several, of a model's folder.

    Raises WeightsError that says what was looked for and what is there instead.
    """
    for name in WEIGHT_FILES:
        if os.path.isfile(folder / name):
            return folder / name
    raise WeightsError(
        f"{folder} holds no weights: {listing(folder)}",
        hint=f"a model's folder has {LOOKED_FOR}; or name the weight file itself",
    )


def listing(folder: Path) -> str:
    """What lies in a folder, in a few words."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    return f"there are {some(names)}" if names else "it is empty"


def read_index(path: Path) -> dict[str, Tensor]:
    """All tensors that an index lists, from the files it names beside it, and nothing else.

    Raises WeightsError that names files that are not there, tensors that are not where the index says, and tensors
    that it does not list.
    """
    files = _files(path)
    if gone := [name for name in files if not os.path.isfile(path.parent / name)]:
        raise WeightsError(f"{path} names files that are not there: {some(gone)}", hint=_WHOLE)
    state: dict[str, Tensor] = {}
    for name, listed in files.items():
        part = path.parent / name
        if (form := form_of(part)) == "index":
            raise WeightsError(f"{path} names {part}, which is an index again", hint=_WHOLE)
        tensors = read_file(part, form)
        if missing := sorted(listed - tensors.keys()):
            raise WeightsError(f"{part} lacks tensors that {path.name} lists: {some(missing)}", hint=_WHOLE)
        if strange := sorted(tensors.keys() - listed):
            raise WeightsError(
                f"{part} holds tensors that {path.name} does not list there: {some(strange)}", hint=_WHOLE
            )
        state |= tensors
    return state


def _files(index: Path) -> dict[str, set[str]]:
    """File name → the tensors in it, in order of names."""
    listed = read_json(index)["weight_map"]
    if not isinstance(listed, dict) or not listed:
        raise WeightsError(f"weight_map in {index} names no tensors", hint=_WHOLE)
    files: dict[str, set[str]] = {}
    for tensor, name in listed.items():
        if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\0" in name:
            raise WeightsError(
                f"{index} places {tensor} in {name!r}, which is not the name of a file beside it", hint=_WHOLE
            )
        files.setdefault(name, set()).add(tensor)
    return dict(sorted(files.items()))

"""One weight file to tensors by name, without running anything that it contains."""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from umt_ds.errors import WeightsError
from umt_ds.weights.names import some
from umt_ds.weights.numbers import require_weights
from umt_ds.weights.sniff import SAVE_WEIGHTS, Form, damaged

# the authors' trainer, DeepSpeed, Lightning and others
_WRAPPERS = ("model", "module", "state_dict", "model_state_dict")
# Types of what published files have beside their weights: options (stage 2 of the authors), best scores, paths.
_OPTIONS = re.compile(r"(\w+\.)*EasyDict")
_PLAIN = re.compile(r"numpy\.(_?core\.multiarray\.scalar|dtype)|pathlib\.(Pure)?(Posix|Windows)Path")


class _Options:
    """Stands for a mapping of a type that is unknown here: its content goes into a mapping that torch knows."""

    def __new__(cls, *_: object) -> OrderedDict[object, object]:  # type: ignore[misc]
        return OrderedDict()


class _Plain:
    """Stands for an object that is not needed: takes whatever the file puts into it, and forgets it."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


def read_file(path: Path, form: Form) -> dict[str, Tensor]:
    """The tensors of a file that `sniff.form_of` calls safetensors or torch, on the CPU.

    Raises WeightsError for damage, for more than tensors, and for tensors that are no finite real numbers.
    """
    state = _flat(_read_safetensors(path) if form == "safetensors" else _read_torch(path), path)
    require_weights(state, where=str(path), max_bytes=path.stat().st_size)
    return state


def _read_safetensors(path: Path) -> object:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:  # the library's own type, KeyError for a type of number that torch lacks, and others
        raise damaged(path, error) from error


def _read_torch(path: Path) -> object:
    """A file of torch.save, with weights_only; argparse.Namespace (a plain bag of options that the authors saved beside
    their weights) is the one type let through that torch would not, and a few others are left out."""
    try:
        _check_parts(path)
        # an open file, not a path: torch goes by the suffix of a path
        with (
            torch.serialization.safe_globals([argparse.Namespace, *_bystanders(path)]),
            path.open("rb") as file,
            warnings.catch_warnings(action="ignore"),  # of odd pickles: they are read or refused
        ):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(f"{path} {_why_refused(error)}", hint=SAVE_WEIGHTS) from error
    except WeightsError:
        raise
    except Exception as error:  # of a damaged file torch raises nearly anything
        raise damaged(path, error) from error


def _bystanders(path: Path) -> list[tuple[type, str]]:
    """The stand-ins that a file needs, each with the name that it replaces."""
    with path.open("rb") as file:
        try:
            asked = torch.serialization.get_unsafe_globals_in_checkpoint(file)
        except ValueError:  # a file of torch before 1.6 does not say beforehand
            return []
    options = [(_Options, name) for name in asked if _OPTIONS.fullmatch(name)]
    return [*options, *((_Plain, name) for name in asked if _PLAIN.fullmatch(name))]


def _check_parts(path: Path) -> None:
    """Raises WeightsError for altered bytes: torch.save writes a checksum of each part (unless it is told not to: then
    all are 0), torch.load ignores it."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        claimed = sum(part.file_size for part in parts)
        if claimed > path.stat().st_size:
            more = f"it claims {claimed:,} bytes of content, more than it has"
            raise damaged(path, f"{more}; whoever zips it anew must not compress it")
        if any(part.CRC for part in parts) and (altered := archive.testzip()) is not None:
            raise damaged(path, f"the bytes of its part {altered} were altered")


def _why_refused(error: pickle.UnpicklingError) -> str:
    """What a pickle asks for besides tensors. torch's own words are left out: they propose to run it."""
    if named := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return f"holds more than tensors, which could run code: it asks for {named[1]}"
    if "Unsupported operand" in str(error):
        return "cannot be read without running it: it was saved with a pickle_protocol other than torch's own, 2"
    return "holds more than tensors, which could run code, or is damaged"


def _flat(content: object, path: Path) -> dict[str, Tensor]:
    """The flat dict of tensors inside what a file held."""
    for _ in _WRAPPERS:  # no deeper than there are kinds: a pickle can contain itself
        content = _unwrapped(content)
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path} holds no state dict but {type(content).__name__}", hint="save model.state_dict()")
    other = [str(key) for key, value in content.items() if not isinstance(key, str) or not isinstance(value, Tensor)]
    if other:
        raise WeightsError(
            f"{path} holds entries that are no named tensors: {some(other)}",
            hint=f"save the weights flat, or under one of {', '.join(_WRAPPERS)}",
        )
    return {key: value.detach() for key, value in content.items()}


def _unwrapped(content: object) -> object:
    """What the first wrapper in `content` holds, or `content` where there is none."""
    if not isinstance(content, Mapping):
        return content
    inner = (content.get(wrapper) for wrapper in _WRAPPERS)
    return next((found for found in inner if isinstance(found, Mapping)), content)

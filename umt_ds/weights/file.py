"""One weight file to tensors by name, without running anything that it contains."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from umt_ds.errors import WeightsError, quoted
from umt_ds.weights.names import some
from umt_ds.weights.numbers import require_weights
from umt_ds.weights.pickle_values import OtherTensor, RefusedPickleError, Standin, StoredTensor, described
from umt_ds.weights.pickled_modules import is_module, module_state
from umt_ds.weights.sniff import SAVE_WEIGHTS, Form, damaged
from umt_ds.weights.torch_file import TorchFile, open_torch_file

# the authors' trainer, DeepSpeed, Lightning and others
_WRAPPERS = ("model", "module", "state_dict", "model_state_dict")


@dataclass(frozen=True)
class WeightFile:
    """state: its tensors by name, on the CPU. written: how. wrappers: the entries, from the outermost in, under which
    they lie. beside: the other entries of those, which are not read."""

    state: dict[str, Tensor]
    written: str
    wrappers: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()


def read_file(path: Path, form: Form) -> dict[str, Tensor]:
    """The tensors of a file. Raises as `read_weight_file`."""
    return read_weight_file(path, form).state


def read_weight_file(path: Path, form: Form) -> WeightFile:
    """A file that `sniff.form_of` calls safetensors or torch.

    Raises WeightsError for damage, for more than data, and for tensors that are no finite real numbers.
    """
    found = _read_safetensors(path) if form == "safetensors" else _read_torch(path)
    require_weights(found.state, where=str(path), max_bytes=path.stat().st_size)
    return found


def _read_safetensors(path: Path) -> WeightFile:
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except Exception as error:  # the library's own type, KeyError for a type of number that torch lacks, and others
        raise damaged(path, error) from error
    if not state:
        raise WeightsError(f"{path} holds no tensors", hint="save model.state_dict()")
    return WeightFile(state, "safetensors")


def _read_torch(path: Path) -> WeightFile:
    with reading(path), open_torch_file(path) as file:
        return _weights_in(file, path)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What a broken or hostile file of torch raises inside is one WeightsError about `path`."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of odd pickles, which are read or refused
            yield
    except RefusedPickleError as error:
        told = f"{path} holds more than tensors, which could run code: it asks for {quoted(str(error), 120)[1:-1]}"
        raise WeightsError(told, hint=SAVE_WEIGHTS) from error
    except (WeightsError, MemoryError):
        raise
    except Exception as error:  # of a damaged file zipfile, pickletools and torch raise nearly anything
        raise damaged(path, error) from error


def _weights_in(file: TorchFile, path: Path) -> WeightFile:
    """The flat dict of tensors inside what a file holds."""
    content, wrappers, beside = _mapping(file.content), [], []
    for _ in _WRAPPERS:  # no deeper than there are kinds: a pickle can contain itself
        if content is None or (wrapper := _wrapper_in(content)) is None:
            break
        wrappers.append(wrapper)
        beside += [str(name) for name in content if name != wrapper]
        content = _mapping(content[wrapper])
    if not content:
        raise WeightsError(f"{path} holds no state dict but {described(file.content)}", hint="save model.state_dict()")
    written = "TorchScript" if file.is_script else "a file of torch.save"
    return WeightFile(plain_tensors(content, file, path), written, tuple(wrappers), tuple(beside))


def _wrapper_in(content: Mapping[object, object]) -> str | None:
    return next((name for name in _WRAPPERS if _mapping(content.get(name)) is not None), None)


def _mapping(value: object) -> Mapping[object, object] | None:
    """The entries of a mapping, of an object that is one, or of a module; None where there are none."""
    if isinstance(value, Standin):
        if is_module(value):
            return {name: tensor for name, tensor in module_state(value).items()}
        return value.items or None
    return value if isinstance(value, Mapping) else None


def plain_tensors(content: object, file: TorchFile, path: Path) -> dict[str, Tensor]:
    """The tensors of a mapping. Raises WeightsError for entries that are no named tensors, or without plain numbers."""
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds no state dict but {described(content)}", hint="save model.state_dict()")
    stored = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, StoredTensor)}
    others = {str(key): value for key, value in content.items() if key not in stored}
    strange = [(name, value) for name, value in others.items() if not isinstance(value, OtherTensor)]
    if plain := [f"{name} ({described(value)})" for name, value in strange]:
        raise WeightsError(
            f"{path} holds entries that are no named tensors: {some(plain)}",
            hint=f"save the weights flat, or under one of {', '.join(_WRAPPERS)}",
        )
    if reasons := [f"{name} {value.reason}" for name, value in others.items() if isinstance(value, OtherTensor)]:
        told = f"{path} holds {len(reasons)} tensors that are no weights: {some(reasons)}"
        raise WeightsError(told, hint=SAVE_WEIGHTS)
    return {name: file.tensor(value) for name, value in stored.items()}

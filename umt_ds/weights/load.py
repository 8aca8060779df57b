"""Read a weight file without running anything it contains, and load it without losing anything unseen."""

from __future__ import annotations

import argparse
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from umt_ds.errors import WeightsError

_WRAPPERS = ("model", "module", "state_dict")  # authors' trainer, DeepSpeed, Lightning and others


@dataclass(frozen=True)
class LoadReport:
    """What `load_strict` did. loaded: keys copied; fresh: ignored keys of the module, left as they were;
    unused: ignored keys of the file."""

    loaded: int
    fresh: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.loaded} tensors loaded, {len(self.fresh)} left at their start, {len(self.unused)} unused"


def read_state(path: Path | str) -> dict[str, Tensor]:
    """The tensors of a weight file by name, on the CPU.

    Takes safetensors and torch files, flat or wrapped in `model`, `module` or `state_dict`. Nothing in a file
    is executed: torch files are read with weights_only, and argparse.Namespace (a plain bag of options that
    the authors saved beside the weights) is the one extra type let through. TorchScript is refused, since
    loading it runs code of the file. Raises WeightsError with what to do.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"no weight file {path}", hint="check the path; nothing is downloaded at run time")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    return _unwrap(content, path)


def _read_safetensors(path: Path) -> object:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def _read_torch(path: Path) -> object:
    try:
        _refuse_torchscript(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is no weight file, or holds more than tensors, which could run code: {str(error)[:300]}",
            hint="if you trust it, convert it once: state = torch.load(path, weights_only=False); "
            "safetensors.torch.save_file(state['model'], 'weights.safetensors')",
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from error  # torch raises any of these for a damaged file


def _unreadable(path: Path, error: Exception) -> WeightsError:
    return WeightsError(f"{path} is damaged or cannot be read: {str(error)[:300]}", hint="copy or download it again")


def _refuse_torchscript(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise WeightsError(
                f"{path} is a TorchScript archive (as OpenAI's CLIP files are): loading it would run code in it",
                hint='if you trust it, convert it once: python -c "import torch; '
                f"torch.save(torch.jit.load('{path}', 'cpu').visual.state_dict(), 'clip_visual.pth')\"",
            )


def _unwrap(content: object, path: Path) -> dict[str, Tensor]:
    """The flat dict of tensors inside what a file held."""
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path} holds no state dict but {type(content).__name__}", hint="save model.state_dict()")
    other = [str(key) for key, value in content.items() if not isinstance(value, Tensor)]
    if other:
        raise WeightsError(
            f"{path} holds values that are no tensors: {_some(other)}",
            hint=f"save the weights flat, or under one of {', '.join(_WRAPPERS)}",
        )
    return {str(key): value for key, value in content.items()}


def load_strict(
    module: nn.Module, state: Mapping[str, Tensor], *, where: str, ignore: Sequence[str] = ()
) -> LoadReport:
    """Copy `state` into `module`: every key of one must be in the other, with the same shape.

    where: names the file in messages. ignore: key prefixes left alone on both sides (a head that starts new).
    Raises one WeightsError that names up to five keys of each kind of misfit, before anything is copied.
    """
    skipped = tuple(ignore)
    own = module.state_dict()
    wanted = {key for key in own if not key.startswith(skipped)}
    given = {key: value for key, value in state.items() if not key.startswith(skipped)}
    misfits = {
        "missing in the file": sorted(wanted - given.keys()),
        "unknown to the model": sorted(given.keys() - wanted),
        "of another shape": [
            f"{key} {tuple(given[key].shape)}, not {tuple(own[key].shape)}"
            for key in sorted(wanted & given.keys())
            if given[key].shape != own[key].shape
        ],
    }
    if any(misfits.values()):
        raise WeightsError(
            f"the weights of {where} do not fit: "
            + "; ".join(f"{len(keys)} {what}: {_some(keys)}" for what, keys in misfits.items() if keys),
            hint="check that the file belongs to this model and size",
        )
    module.load_state_dict(given, strict=False)
    return LoadReport(loaded=len(given), fresh=tuple(own.keys() - wanted), unused=tuple(state.keys() - given.keys()))


def _some(keys: Sequence[str]) -> str:
    """Up to five keys, and how many more there are."""
    more = f", … and {len(keys) - 5} more" if len(keys) > 5 else ""
    return ", ".join(keys[:5]) + more

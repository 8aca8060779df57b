"""Read a weight file without running anything it contains, and load it without losing anything unseen."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from umt_ds.errors import WeightsError
from umt_ds.weights.deepspeed_folder import deepspeed_folder, is_share, read_deepspeed_folder
from umt_ds.weights.file import WeightFile, read_weight_file
from umt_ds.weights.folder import holds_weights, read_index, weight_file_in
from umt_ds.weights.imported_folder import check_imported_folder
from umt_ds.weights.names import some
from umt_ds.weights.sniff import form_of

_ONE_OF_SEVERAL = re.compile(r"-\d{5}-of-(?!00001)\d{5}\.")


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
    """The tensors of a weight file by name, on the CPU. Takes and raises what `read_weight_source` does."""
    return read_weight_source(path).state


def read_weight_source(path: Path | str) -> WeightFile:
    """A weight file, or the folder of a model: its tensors by name, on the CPU, and how they were written.

    Takes safetensors, files of torch.save and TorchScript, told apart by their content, flat or wrapped in `model`,
    `module` or `state_dict`, or a whole pickled model; the folder of a model, as `save_pretrained` writes it; and the
    index of several files. Nothing in a file is executed. Raises WeightsError that says what the file is and what to
    do, also where weights are not finite numbers.
    """
    path = Path(path)
    if os.path.isdir(path):
        check_imported_folder(path)
        if not holds_weights(path) and (step := deepspeed_folder(path)) is not None:
            return read_deepspeed_folder(step)
        path = weight_file_in(path)
    form = form_of(path)
    if form == "index":
        return WeightFile(read_index(path), "several files and their index")
    if is_share(path.name):
        raise WeightsError(
            f"{path} is the share of one rank in a DeepSpeed checkpoint", hint=f"name its folder: {path.parent}"
        )
    if _ONE_OF_SEVERAL.search(path.name):
        raise WeightsError(
            f"{path} is one of several files that belong together", hint="name their folder, or the index beside them"
        )
    return read_weight_file(path, form)


@contextmanager
def about(where: Path | str) -> Iterator[None]:
    """Any WeightsError inside names `where`, the file: those who translate or fit tensors do not know it."""
    try:
        yield
    except WeightsError as error:
        if str(where) in error.what:
            raise
        raise WeightsError(f"{where}: {error.what}", hint=error.hint) from error


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
            + "; ".join(f"{len(keys)} {what}: {some(keys)}" for what, keys in misfits.items() if keys),
            hint="check that the file belongs to this model and size",
        )
    module.load_state_dict(given, strict=False)
    return LoadReport(loaded=len(given), fresh=tuple(own.keys() - wanted), unused=tuple(state.keys() - given.keys()))

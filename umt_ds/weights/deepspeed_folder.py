"""A checkpoint folder of DeepSpeed: its float32 weights, joined from what each rank wrote, without running a pickle.

Stages 0 to 2 write the module once (`mp_rank_00_model_states.pt`), in the precision of training. Stages 1 and 2 write
the float32 weights of each group of parameters flat, a part for each rank; stage 3 writes those of each parameter in
as many parts as there are ranks. Source: `deepspeed/utils/zero_to_fp32.py`, which does the same by running the pickles.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor

from umt_ds.errors import WeightsError
from umt_ds.weights.file import WeightFile, plain_tensors, reading
from umt_ds.weights.names import some
from umt_ds.weights.numbers import require_weights
from umt_ds.weights.pickle_values import StoredTensor
from umt_ds.weights.torch_file import TorchFile, open_torch_file

_MODULE = re.compile(r"(zero_pp_rank_\d+_)?mp_rank_(\d+)_model_states\.pt")
_SHARE = re.compile(r"(bf16_)?zero_pp_rank_(\d+)_mp_rank_\d+_optim_states\.pt")
_WHOLE = "copy the whole folder again, or run the script zero_to_fp32.py that DeepSpeed wrote beside it"


def deepspeed_folder(folder: Path) -> Path | None:
    """The folder of a step that holds DeepSpeed's files: `folder`, or the one that `latest` in it names; else None."""
    if _holds_module(folder):
        return folder
    try:
        tag = (folder / "latest").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    inside = folder / tag
    return inside if tag and "/" not in tag and tag not in (".", "..") and _holds_module(inside) else None


def is_share(name: str) -> bool:
    """Whether a file of this name is a rank's share of a checkpoint, and useless without the others."""
    return _SHARE.fullmatch(name) is not None or (
        name.startswith("zero_pp_rank_") and _MODULE.fullmatch(name) is not None
    )


def read_deepspeed_folder(folder: Path) -> WeightFile:
    """The weights of a DeepSpeed checkpoint: in float32 where its ranks' shares are there, else as they trained.

    Raises WeightsError for shares that are missing or do not fit, and for a model that was itself cut among ranks.
    """
    names = sorted(os.listdir(folder))
    modules = [name for name in names if _MODULE.fullmatch(name)]
    if parts := [name for name in modules if (found := _MODULE.fullmatch(name)) and int(found[2]) > 0]:
        raise WeightsError(
            f"{folder} holds a model cut into parts by tensor or pipeline parallelism: {some(parts)}", hint=_WHOLE
        )
    shares = sorted((name for name in names if _SHARE.fullmatch(name)), key=_rank)
    with ExitStack() as stack, reading(folder):
        module = stack.enter_context(open_torch_file(folder / modules[0]))
        if not shares:
            return _without_shares(module, folder / modules[0])
        opened = [stack.enter_context(open_torch_file(folder / name)) for name in shares]
        state = _joined(module, opened, folder)
    require_weights(state, where=str(folder))
    return WeightFile(state, f"a DeepSpeed checkpoint, float32 joined from {len(shares)} ranks")


def _holds_module(folder: Path) -> bool:
    try:
        return any(_MODULE.fullmatch(name) for name in os.listdir(folder))
    except OSError:
        return False


def _rank(name: str) -> int:
    found = _SHARE.fullmatch(name)
    return int(found[2]) if found else 0


def _entry(holder: object, name: str) -> object:
    """An entry of a mapping. Raises ValueError where there is none."""
    if not isinstance(holder, Mapping) or name not in holder:
        raise ValueError(f"a file of a rank has no {name}")
    return holder[name]


def _without_shares(module: TorchFile, path: Path) -> WeightFile:
    """Stage 0 keeps no shares; those of other stages may have been left behind."""
    if path.name.startswith("zero_pp_rank_"):
        raise WeightsError(f"{path.parent} lacks the files *_optim_states.pt, which hold its weights", hint=_WHOLE)
    content = _entry(module.content, "module")
    assert isinstance(module.content, Mapping), "it has an entry"
    beside = tuple(str(name) for name in module.content if name != "module")
    state = plain_tensors(content, module, path)
    require_weights(state, where=str(path), max_bytes=path.stat().st_size)
    return WeightFile(state, "a DeepSpeed checkpoint, in the precision of training", ("module",), beside)


def _joined(module: TorchFile, shares: list[TorchFile], folder: Path) -> dict[str, Tensor]:
    told = [_entry(share.content, "optimizer_state_dict") for share in shares]
    stage, world = _entry(told[0], "zero_stage"), _entry(told[0], "partition_count")
    world = max(world) if isinstance(world, list) else world
    if world != len(shares):
        raise WeightsError(f"{folder} holds the shares of {len(shares)} ranks; {world} wrote it", hint=_WHOLE)
    key = "fp32_flat_groups" if isinstance(stage, int) and stage > 2 else "single_partition_of_fp32_groups"
    groups = [[_flat(part, share) for part in _list(_entry(one, key))] for one, share in zip(told, shares, strict=True)]
    shapes = [_shapes(group) for group in _list(_entry(module.content, "param_shapes"))]
    state = dict(
        _whole_parameters(groups, shapes) if key == "fp32_flat_groups" else _cut_groups(groups, shapes, told[0])
    )
    saved = _entry(module.content, "module")
    assert isinstance(module.content, Mapping), "it has entries"
    beside = {*_list(module.content.get("buffer_names")), *(module.content.get("frozen_param_shapes") or ())}
    if isinstance(saved, Mapping):
        kept = {name: value for name, value in saved.items() if name in beside}
        state |= {name: value.float() for name, value in plain_tensors(kept, module, folder).items()}
    shared = module.content.get("shared_params")
    pairs = shared.items() if isinstance(shared, Mapping) else ()
    return state | {str(name): state[str(other)] for name, other in pairs if str(other) in state}


def _list(value: object) -> list[object]:
    return list(value) if isinstance(value, (list, tuple)) else []


def _flat(part: object, share: TorchFile) -> Tensor:
    if not isinstance(part, StoredTensor) or math.prod(part.size) > part.storage.count:
        raise ValueError("a group of a rank is no tensor with numbers of its own")
    return share.tensor(part).reshape(-1)


def _shapes(group: object) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a group's parameters, in the order in which they lie."""
    if not isinstance(group, Mapping):
        raise ValueError("no shapes of parameters")
    return {str(name): tuple(int(n) for n in _list(shape) if isinstance(n, int)) for name, shape in group.items()}


def _cut_groups(
    groups: list[list[Tensor]], shapes: list[dict[str, tuple[int, ...]]], told: object
) -> Iterator[tuple[str, Tensor]]:
    """Stages 1 and 2: the ranks' parts of a group, one behind the other, hold its parameters one behind the other."""
    paddings = _list(told.get("param_alignment_paddings")) if isinstance(told, Mapping) else []
    for number, group in enumerate(shapes):
        flat = torch.cat([rank[number] for rank in groups])
        between = [n for n in _list(paddings[number]) if isinstance(n, int)] if paddings else [0] * len(group)
        place = 0
        for (name, shape), padding in zip(group.items(), between, strict=True):
            count = math.prod(shape)
            yield name, flat[place : place + count].reshape(shape).float()
            place += count + padding
        if not 0 <= len(flat) - place <= 2 * len(groups):  # it is padded to equal parts
            raise ValueError(f"a group has {len(flat):,} numbers, its parameters {place:,}")


def _whole_parameters(
    groups: list[list[Tensor]], shapes: list[dict[str, tuple[int, ...]]]
) -> Iterator[tuple[str, Tensor]]:
    """Stage 3: each rank holds an equal part of each parameter, the last one padded."""
    ranks = [torch.cat(rank) for rank in groups]
    place = 0
    for name, shape in ((name, shape) for group in shapes for name, shape in group.items()):
        count = math.prod(shape)
        each = -(-count // len(ranks))
        yield name, torch.cat([rank[place : place + each] for rank in ranks])[:count].reshape(shape).float()
        place += each

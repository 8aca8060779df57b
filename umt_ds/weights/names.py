"""What wrappers and trainers add to the names of tensors, and how it is taken off again: here, for all models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from umt_ds.errors import WeightsError

# Parts of a name that DDP, torch.compile, FSDP, activation checkpointing and DeepSpeed put into it, anywhere.
_ADDED = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"})
_OUTER = "model."  # Lightning's and other trainers': the attribute that holds the model
# Buffers that count, number positions or hide them, and are no weights: no model here reads them from a file.
_BOOKKEEPING = frozenset({
    "position_ids", "token_type_ids", "relative_position_index", "attn_mask", "num_batches_tracked", "n_averaged",
    "input_resolution", "context_length", "vocab_size", "queue_ptr", "idx_queue",
})  # fmt: skip


def is_bookkeeping(name: str) -> bool:
    """Whether a tensor of this name is no weight, so that it may hold whole numbers and is left out."""
    return name.rpartition(".")[2] in _BOOKKEEPING


def bare_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` under the names that the model itself gives, without bookkeeping.

    `module.visual.conv1.weight` is `visual.conv1.weight`, and so with the prefixes of other wrappers, in any order and
    depth. Raises WeightsError where two tensors would have one name.
    """
    weights = {name: value for name, value in state.items() if not is_bookkeeping(name)}
    bare = renamed(weights, lambda name: ".".join(part for part in name.split(".") if part not in _ADDED) or name)
    while bare and all(name.startswith(_OUTER) for name in bare):
        bare = {name.removeprefix(_OUTER): value for name, value in bare.items()}
    return bare


def renamed(state: Mapping[str, Tensor], new_name: Callable[[str], str]) -> dict[str, Tensor]:
    """`state` under new names. Raises WeightsError where two tensors would have one: which is meant, nobody knows."""
    old_names: dict[str, str] = {}
    for name in state:
        new = new_name(name)
        if new in old_names:
            raise WeightsError(
                f"the file holds {old_names[new]!r} and {name!r}, which are one and the same tensor of the model",
                hint="save the weights of one model alone",
            )
        old_names[new] = name
    return {new: state[old] for new, old in old_names.items()}


def before(name: str, state: Mapping[str, Tensor]) -> str | None:
    """The prefix under which `state` has a tensor called `name`; None where it has none. Raises WeightsError where it
    has several: which is meant, nobody knows."""
    found = sorted(key.removesuffix(name) for key in state if key == name or key.endswith(f".{name}"))
    if len(found) > 1:
        raise WeightsError(
            f"the file holds {len(found)} towers, and one is asked for: {some([key + name for key in found])}",
            hint="save the weights of one model alone",
        )
    return found[0] if found else None


def under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What lies below a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def some(names: Sequence[str]) -> str:
    """Up to five names, and how many more there are; signs that would not print are spelt out."""
    more = f", … and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(name if name.isprintable() else repr(name) for name in names[:5]) + more

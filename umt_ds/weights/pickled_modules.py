"""The state dict of a whole model that was pickled, or scripted: its modules are stand-ins, and are walked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from umt_ds.weights.pickle_values import OtherTensor, Standin, StoredTensor

_SCRIPTED = "__torch__."  # what TorchScript's names of types begin with
_MOST_MODULES = 100_000  # a file can make a module its own grandchild
_PARTS = ("_parameters", "_buffers", "_modules")


def is_module(value: object) -> bool:
    """Whether a stand-in is one of an nn.Module, or of a module of TorchScript."""
    return isinstance(value, Standin) and isinstance(value.state, dict) and (
        value.name.startswith(_SCRIPTED) or all(isinstance(value.state.get(part), Mapping) for part in _PARTS)
    )  # fmt: skip


def module_state(root: Standin) -> dict[str, StoredTensor | OtherTensor]:
    """Tensors by name, as `state_dict()` of the module would give them. Raises ValueError for one that holds itself."""
    found: dict[str, StoredTensor | OtherTensor] = {}
    waiting: list[tuple[str, Standin]] = [("", root)]
    seen = 0
    while waiting:
        prefix, module = waiting.pop()
        seen += 1
        if seen > _MOST_MODULES:
            raise ValueError(f"it has more than {_MOST_MODULES:,} modules, or one that holds itself")
        for name, value in _attributes(module):
            if isinstance(value, StoredTensor | OtherTensor):
                found[prefix + name] = value
            elif isinstance(value, Standin) and is_module(value):
                waiting.append((f"{prefix}{name}.", value))
    return found


def _attributes(module: Standin) -> Iterator[tuple[str, object]]:
    """Parameters, buffers that are saved, and children."""
    state = module.state
    assert isinstance(state, dict), "is_module says so"
    if module.name.startswith(_SCRIPTED):
        yield from ((str(name), value) for name, value in state.items())
        return
    hidden = state.get("_non_persistent_buffers_set")
    for part in _PARTS:
        for name, value in state[part].items():
            if not (part == "_buffers" and isinstance(hidden, list) and name in hidden):
                yield str(name), value

"""Reads a pickle without running it: a machine of our own for its instructions, which knows data and nothing else.

`pickle.Unpickler` looks names up, calls what it found and sets attributes of it; even one that finds only harmless
names can be made to change them, or to allocate what it says it needs. Here a name stays a name (`pickle_names`), a
call makes a container, a tensor that is not read yet, or a stand-in that does nothing, and no attribute of any object
is looked up or set. The standard library's `pickletools` takes the instructions apart. All protocols are read.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import IO

import torch

from umt_ds.weights.pickle_names import as_key, called, named
from umt_ds.weights.pickle_values import (
    STORAGE_TYPES,
    Named,
    OtherTensor,
    RefusedPickleError,
    Standin,
    Storage,
    StoredTensor,
    described,
)

_CONSTANTS: dict[str, Callable[[], object]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
}
# Instructions whose argument is the value.
_VALUES = frozenset({
    "INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2", "STRING", "BINSTRING", "SHORT_BINSTRING",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE",
    "BINUNICODE8", "FLOAT", "BINFLOAT",
})  # fmt: skip
_NOTHING = frozenset({"PROTO", "FRAME"})


def unpickle(file: IO[bytes], stored: dict[str, Storage] | None = None) -> object:
    """The next pickle of a file: None, truths, numbers, texts, bytes, lists, tuples and dicts of them (sets are lists),
    and the types of `pickle_values`. stored: gets the storages that it refers to, by their key.

    Raises RefusedPickleError for one that asks for more; ValueError, TypeError, IndexError, KeyError for a broken one.
    """
    machine = _Machine({} if stored is None else stored)
    for instruction, argument, _ in pickletools.genops(file):
        if instruction.name == "STOP":
            return machine.pop()
        machine.step(instruction.name, argument)
    raise ValueError("the pickle does not end")  # pickletools says so before


class _Machine:
    def __init__(self, stored: dict[str, Storage]) -> None:
        self._stored = stored
        self._stack: list[object] = []
        self._outer: list[list[object]] = []  # what was below each mark
        self._memo: dict[int, object] = {}

    def pop(self) -> object:
        return self._stack.pop()

    def _push(self, value: object) -> None:
        self._stack.append(value)

    def step(self, name: str, argument: object) -> None:
        """One instruction."""
        if name in _VALUES:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name]())
        elif (action := _ACTIONS.get(name)) is not None:
            action(self, argument)
        elif name not in _NOTHING:
            raise RefusedPickleError(f"the instruction {name}")

    def _marked(self) -> list[object]:
        """What was put on the stack since the last mark."""
        found, self._stack = self._stack, self._outer.pop()
        return found

    # ------------------------------------------------------------ stack and memo

    def _mark(self, _: object) -> None:
        self._outer.append(self._stack)
        self._stack = []

    def _drop(self, _: object) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._marked()

    def _drop_marked(self, _: object) -> None:
        self._marked()

    def _duplicate(self, _: object) -> None:
        self._stack.append(self._stack[-1])

    def _put(self, index: object) -> None:
        assert isinstance(index, int), "pickletools reads a number"
        self._memo[index] = self._stack[-1]

    def _memoise(self, _: object) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _get(self, index: object) -> None:
        assert isinstance(index, int), "pickletools reads a number"
        self._stack.append(self._memo[index])

    # ------------------------------------------------------------ containers

    def _tuple(self, count: int) -> None:
        if len(self._stack) < count:
            raise IndexError("a tuple of more than there is")
        self._stack[-count:] = [tuple(self._stack[-count:])]

    def _append(self, _: object) -> None:
        self._extend([self.pop()])

    def _appends(self, _: object) -> None:
        self._extend(self._marked())

    def _extend(self, values: list[object]) -> None:
        match target := self._stack[-1]:
            case list():
                target.extend(values)
            case Standin():
                target.values.extend(values)
            case _:
                raise ValueError(f"items put into {described(target)}")

    def _set_item(self, _: object) -> None:
        value, key = self.pop(), self.pop()
        self._set([key, value])

    def _set_items(self, _: object) -> None:
        self._set(self._marked())

    def _set(self, pairs: list[object]) -> None:
        match target := self._stack[-1]:
            case dict():
                items = target
            case Standin():
                items = target.items
            case _:
                raise ValueError(f"entries put into {described(target)}")
        items.update((as_key(key), value) for key, value in zip(pairs[::2], pairs[1::2], strict=True))

    def _dict(self, _: object) -> None:
        pairs = self._marked()
        self._stack.append({})
        self._set(pairs)

    # ------------------------------------------------------------ names, and what is made of them

    def _global(self, names: object) -> None:
        module, _, name = str(names).partition(" ")
        self._stack.append(named(module, name))

    def _stack_global(self, _: object) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("a name that is no text")
        self._stack.append(named(module, name))

    def _reduce(self, _: object) -> None:
        args, target = self.pop(), self.pop()
        self._stack.append(called(target, args, is_class=False))

    def _new(self, _: object) -> None:
        args, target = self.pop(), self.pop()
        self._stack.append(called(target, args, is_class=True))

    def _new_with_names(self, _: object) -> None:
        _named_args, args, target = self.pop(), self.pop(), self.pop()
        self._stack.append(called(target, args, is_class=True))

    def _instance(self, names: object) -> None:
        args = tuple(self._marked())
        self._global(names)
        self._stack.append(called(self.pop(), args, is_class=True))

    def _object(self, _: object) -> None:
        target, *args = self._marked()
        self._stack.append(called(target, tuple(args), is_class=True))

    def _build(self, _: object) -> None:
        """State is kept by stand-ins; a mapping's attributes (`_metadata` of a state dict) and a tensor's are not."""
        state = self.pop()
        match target := self._stack[-1]:
            case Standin():
                target.state = state
            case dict() | StoredTensor() | OtherTensor():
                pass
            case _:
                raise RefusedPickleError(f"changing {described(target)}")

    def _persistent(self, _: object) -> None:
        found = _stored(self.pop())
        if isinstance(found, Storage):
            self._stored[found.key] = found
        self._stack.append(found)


_ACTIONS: dict[str, Callable[[_Machine, object], None]] = {
    "MARK": _Machine._mark,
    "POP": _Machine._drop,
    "POP_MARK": _Machine._drop_marked,
    "DUP": _Machine._duplicate,
    "PUT": _Machine._put,
    "BINPUT": _Machine._put,
    "LONG_BINPUT": _Machine._put,
    "MEMOIZE": _Machine._memoise,
    "GET": _Machine._get,
    "BINGET": _Machine._get,
    "LONG_BINGET": _Machine._get,
    "TUPLE1": lambda machine, _: machine._tuple(1),
    "TUPLE2": lambda machine, _: machine._tuple(2),
    "TUPLE3": lambda machine, _: machine._tuple(3),
    "TUPLE": lambda machine, _: machine._push(tuple(machine._marked())),
    "LIST": lambda machine, _: machine._push(machine._marked()),
    "FROZENSET": lambda machine, _: machine._push(machine._marked()),
    "DICT": _Machine._dict,
    "APPEND": _Machine._append,
    "APPENDS": _Machine._appends,
    "ADDITEMS": _Machine._appends,
    "SETITEM": _Machine._set_item,
    "SETITEMS": _Machine._set_items,
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._reduce,
    "NEWOBJ": _Machine._new,
    "NEWOBJ_EX": _Machine._new_with_names,
    "INST": _Machine._instance,
    "OBJ": _Machine._object,
    "BUILD": _Machine._build,
    "BINPERSID": _Machine._persistent,
}


def _stored(identity: object) -> object:
    """What lies outside the pickle: ('storage', type, key, device, count[, view]), or in old files ('module', object,
    …), which is the object."""
    if not isinstance(identity, tuple) or len(identity) < 2:
        raise ValueError("a reference to nothing that torch.save writes")
    kind = identity[0].decode("latin-1") if isinstance(identity[0], bytes) else identity[0]
    if kind == "module":
        return identity[1]
    if kind != "storage" or len(identity) not in (5, 6):
        raise ValueError("a reference to nothing that torch.save writes")
    _, kept_as, key, _device, count, view = (*identity, None)[:6]
    if not isinstance(key, (str, int)) or not isinstance(count, int) or not _is_count(count):
        raise ValueError("a storage without a name or size")
    storage = Storage(str(key), _dtype_of(kept_as), count)
    return storage if view is None else _view(storage, view)


def _view(storage: Storage, view: object) -> Storage:
    """Files of torch before 0.4 have storages that are a part of another."""
    if not isinstance(view, tuple) or len(view) != 3 or not all(_is_count(number) for number in view[1:]):
        raise ValueError("a storage that is no part of another")
    return Storage(storage.key, storage.dtype, storage.count, start=view[1])


def _dtype_of(kept_as: object) -> torch.dtype | None:
    name = kept_as.name.rpartition(".")[2] if isinstance(kept_as, Named) else ""
    if name not in STORAGE_TYPES:
        raise ValueError(f"a storage of {described(kept_as)}")
    return STORAGE_TYPES[name]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and 0 <= value <= 1 << 62

"""Which names a pickle in a weight file may use, and what is made of them. Nothing here imports or calls what is named.

A class that is unknown becomes a stand-in. A name of Python's standard library is refused unless it is plain data, and
so is a call to any function that is not in the table below: neither would do anything here, but a file that asks for it
is no weight file.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

import torch

from umt_ds.weights.pickle_values import Named, OtherTensor, RefusedPickleError, Standin, Storage, StoredTensor

_STANDARD = sys.stdlib_module_names | {"__builtin__", "copy_reg", "_pathlib"}
# Of the standard library: classes that only hold data, and types that are named without being called.
_PLAIN = re.compile(
    r"argparse\.Namespace|types\.SimpleNamespace|collections\.(OrderedDict|defaultdict|Counter|deque)|datetime\.\w+"
    r"|decimal\.Decimal|fractions\.Fraction|uuid\.(UUID|SafeUUID)|pathlib\.(_local\.)?\w*Path|typing\.\w+"
    r"|builtins\.(object|int|float|bool|str|bytes|bytearray|complex|list|tuple|dict|set|frozenset|slice|range|NoneType)"
    r"|_codecs\.encode|copyreg\.(_reconstructor|__newobj__)"
)
_OLD = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # modules of Python 2
_CLASS = re.compile(r"_*[A-Z]\w*")  # how classes are written
_MOST_CALLS_INSIDE = 3  # torch wraps the rebuilding of a tensor in that of its type
_MOST_DIMENSIONS = 64  # torch's own limit
_MOST_NUMBER = 2**62  # beyond it sizes and offsets overflow


def named(module: str, name: str) -> object:
    """What a pickle gets where it names something: a number type of torch, or an inert `Named`.

    Raises RefusedPickleError for what is in the standard library and no plain data.
    """
    module = _OLD.get(module, module)
    full = f"{module}.{name}"
    if module.split(".", maxsplit=1)[0] in _STANDARD and not _PLAIN.fullmatch(full):
        raise RefusedPickleError(full)
    if module == "torch" and isinstance(found := vars(torch).get(name), torch.dtype):
        return found
    return Named(full)


def called(target: object, args: object, *, is_class: bool, depth: int = 0) -> object:
    """What a pickle gets where it calls `target`. is_class: it makes an object in the way that only classes allow.

    Raises RefusedPickleError for what is no known function and no class; TypeError or ValueError for wrong arguments.
    """
    if not isinstance(target, Named):
        raise RefusedPickleError(f"calling something without a name ({type(target).__name__})")
    if not isinstance(args, tuple):
        raise ValueError(f"arguments of {target.name} are no tuple")
    if target.name in _WRAPPED and depth < _MOST_CALLS_INSIDE:
        inner, given, is_class = _WRAPPED[target.name](*args)
        return called(inner, given, is_class=is_class, depth=depth + 1)
    if (make := _MADE.get(target.name)) is not None:
        return make(*args)
    if is_class or target.name in _HOLDERS or _CLASS.fullmatch(target.name.rpartition(".")[2]):
        return Standin(target.name, args)
    raise RefusedPickleError(f"calling {target.name}")


# ---------------------------------------------------------------- containers


def _mapping(content: object = None, *_: object) -> dict[object, object]:
    """An OrderedDict is made empty, or of pairs (Python 2)."""
    if isinstance(content, dict):
        return dict(content)
    if isinstance(content, list):
        return {as_key(key): value for key, value in content}
    return {}  # defaultdict says what it makes of a missing key, which is no content


def _sequence(content: object = ()) -> list[object]:
    if not isinstance(content, (list, tuple)):
        raise ValueError(f"a sequence is made of {type(content).__name__}")
    return list(content)


def _no_bytes(*content: object) -> bytes:
    """Protocols 0 to 2 write empty bytes so; a count, or a list, would be a call that allocates."""
    if content:
        raise ValueError("bytes made of something")
    return b""


def _sizes(content: object = ()) -> tuple[object, ...]:
    return tuple(_sequence(content))


def _encoded(text: object, encoding: object = "latin1") -> bytes:
    """Bytes, as protocol 2 writes them."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError("bytes in an unknown encoding")
    return text.encode("latin-1")


def as_key(value: object) -> object:
    """`value` as the key of a mapping: what hashes in an instant stays as it is, the rest becomes an object of its
    own (tuples in tuples can be made to take for ever)."""
    if value is None or isinstance(value, (str, int, float, bytes, Named, Standin, torch.dtype)):
        return value
    if isinstance(value, tuple) and all(isinstance(one, (str, int, float)) for one in value):
        return value
    return Standin("key", (value,))


# ---------------------------------------------------------------- tensors


def _tensor(storage: object, offset: object, size: object, stride: object, *rest: object) -> StoredTensor | OtherTensor:
    """`torch._utils._rebuild_tensor` and `_rebuild_tensor_v2`; rest: requires_grad, hooks, bits."""
    if not isinstance(storage, Storage):
        raise ValueError(f"a tensor over {type(storage).__name__}, which is no storage")
    bits = rest[2] if len(rest) > 2 else None
    return _strided(storage, storage.dtype or torch.uint8, offset, size, stride, bits=bits)


def _typed_tensor(
    storage: object, offset: object, size: object, stride: object, _grad: object, _hooks: object, dtype: object,
    bits: object = None,
) -> StoredTensor | OtherTensor:  # fmt: skip
    """`torch._utils._rebuild_tensor_v3`: the storage is bytes."""
    if not isinstance(storage, Storage) or not isinstance(dtype, torch.dtype):
        raise ValueError("a tensor without storage or type of numbers")
    return _strided(storage, dtype, offset, size, stride, bits=bits)


def _strided(
    storage: Storage, dtype: torch.dtype, offset: object, size: object, stride: object, *, bits: object
) -> StoredTensor | OtherTensor:
    if isinstance(bits, dict) and any(value is True for value in bits.values()):
        return OtherTensor("is a view that negates its numbers")
    (start,), shape, steps = _numbers((offset,)), _numbers(size), _numbers(stride)
    if len(shape) != len(steps):
        raise ValueError(f"a tensor of {len(shape)} dimensions with {len(steps)} strides")
    return StoredTensor(storage, dtype, start, shape, steps)


def _numbers(values: object) -> tuple[int, ...]:
    """Sizes, strides or an offset. Raises ValueError for what is no whole number from 0 on."""
    found = tuple(one for one in _sequence(values) if isinstance(one, int) and 0 <= one <= _MOST_NUMBER)
    if len(found) != len(_sequence(values)) or len(found) > _MOST_DIMENSIONS:
        raise ValueError("a tensor whose sizes, strides or offset cannot be")
    return found


def _inside(data: object, *_: object) -> object:
    """A parameter is its tensor."""
    return data


def _other(reason: str) -> Callable[..., OtherTensor]:
    return lambda *_: OtherTensor(reason)


_SPARSE = _other("is sparse or nested")
_ELSEWHERE = _other("was saved from a device whose tensors have a form of their own")

# name → what is made of its arguments
_MADE: dict[str, Callable[..., object]] = {
    "collections.OrderedDict": _mapping,
    "collections.defaultdict": _mapping,
    "collections.Counter": _mapping,
    "builtins.dict": _mapping,
    "builtins.list": _sequence,
    "builtins.set": _sequence,
    "builtins.frozenset": _sequence,
    "builtins.tuple": _sizes,
    "builtins.bytes": _no_bytes,
    "torch.Size": _sizes,
    "_codecs.encode": _encoded,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_parameter": _inside,
    "torch._utils._rebuild_parameter_with_state": _inside,
    "torch.nn.parameter.Parameter": _inside,
    "torch._utils._rebuild_qtensor": _other("is quantised"),
    "torch._utils._rebuild_sparse_tensor": _SPARSE,
    "torch._utils._rebuild_sparse_csr_tensor": _SPARSE,
    "torch._utils._rebuild_nested_tensor": _SPARSE,
    "torch._utils._rebuild_meta_tensor_no_storage": _other("has no values (it is on the meta device)"),
    "torch._utils._rebuild_wrapper_subclass": _ELSEWHERE,
    "torch._utils._rebuild_device_tensor_from_numpy": _ELSEWHERE,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _inside,
    # TorchScript's containers
    "torch.jit._pickle.build_intlist": _inside,
    "torch.jit._pickle.build_doublelist": _inside,
    "torch.jit._pickle.build_boollist": _inside,
    "torch.jit._pickle.build_tensorlist": _inside,
    "torch.jit._pickle.restore_type_tag": _inside,
    "torch.jit._pickle.build_tensor_from_id": _other("is a constant of the program beside it"),
}
# Functions and lower-case classes that make an object which only holds data.
_HOLDERS = frozenset({
    "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct", "numpy._core.numeric._frombuffer", "numpy.core.numeric._frombuffer",
    "numpy.dtype", "numpy.ndarray", "torch.device", "torch.serialization._get_layout", "collections.deque",
    "builtins.object", "builtins.complex", "builtins.bytearray", "builtins.slice", "builtins.range",
    *(f"datetime.{name}" for name in ("date", "time", "datetime", "timedelta", "timezone")),
})  # fmt: skip
# A call that wraps another: its arguments → (what is called, with which arguments, whether that is a class).
_WRAPPED: dict[str, Callable[..., tuple[object, object, bool]]] = {
    "torch._tensor._rebuild_from_type_v2": lambda make, _type, args, *_: (make, args, False),
    "torch._tensor._rebuild_from_type": lambda make, _type, args, *_: (make, args, False),
    "copyreg._reconstructor": lambda of, *_: (of, (), True),
    "copyreg.__newobj__": lambda of, *args: (of, args, True),
}

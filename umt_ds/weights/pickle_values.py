"""What a pickle in a weight file may become: plain values, tensors that are not read yet, and inert stand-ins."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

# Names of storages as torch pickles them → what their numbers are. None: bytes, the tensor says what they mean.
STORAGE_TYPES: dict[str, torch.dtype | None] = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128, "UntypedStorage": None,
    "QInt8Storage": torch.int8, "QUInt8Storage": torch.uint8, "QInt32Storage": torch.int32,
    "QUInt4x2Storage": torch.uint8, "QUInt2x4Storage": torch.uint8,
}  # fmt: skip


class RefusedPickleError(Exception):
    """A pickle asks for more than data. Its text is what it asks for: a name, or a few words."""


@dataclass(frozen=True, eq=False, slots=True)
class Named:
    """A class or function that a pickle names. It is never looked up."""

    name: str


@dataclass(eq=False, slots=True)
class Standin:
    """An object of a class that is unknown here: it keeps what the file puts into it, and does nothing with it."""

    name: str
    args: tuple[object, ...] = ()
    state: object = None
    items: dict[object, object] = field(default_factory=dict)
    values: list[object] = field(default_factory=list)


@dataclass(frozen=True, eq=False, slots=True)
class Storage:
    """Numbers somewhere in the file, under `key`: `count` of them, or of bytes where dtype is None. start: the first
    of them that counts (old files have storages inside storages)."""

    key: str
    dtype: torch.dtype | None
    count: int
    start: int = 0


@dataclass(frozen=True, eq=False, slots=True)
class StoredTensor:
    """A strided tensor over a storage that has not been read yet; `offset` and `stride` are in numbers."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True, eq=False, slots=True)
class OtherTensor:
    """A tensor without plain numbers. reason: why it cannot be a weight, as a clause that follows its name."""

    reason: str


def described(value: object) -> str:
    """What a value is, in a word or two. Never its content: a file may nest it without end."""
    match value:
        case Standin() | Named():
            return value.name
        case StoredTensor() | OtherTensor():
            return "a tensor"
        case _:
            return type(value).__name__

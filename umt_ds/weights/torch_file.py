"""Files of torch.save and torch.jit.save: their pickle is read by `unpickle`, their tensors from the bytes beside it.

A zip archive has the parts `NAME/data.pkl` (the pickle) and `NAME/data/KEY` (a storage each); torch before 1.6 wrote
three pickles, the storages' keys, and the storages one behind the other. Code that TorchScript keeps beside them is
never looked at. A storage is read when a tensor is taken out of the file: an optimizer's state is left where it lies.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

import torch
from torch import Tensor

from umt_ds.weights.pickle_values import Storage, StoredTensor
from umt_ds.weights.unpickle import unpickle

_PICKLE = "/data.pkl"
_MOST_PICKLE = 64 << 20  # bytes; names and sizes of a hundred thousand tensors are a quarter of it


class Storages(Protocol):
    """Where the numbers lie."""

    def read(self, key: str, size: int) -> bytearray:
        """The first `size` bytes of a storage. Raises ValueError where there are not so many."""


class TorchFile:
    """What is in a file, and its tensors on request."""

    def __init__(self, content: object, storages: Storages, *, is_script: bool, swap: bool = False) -> None:
        self.content = content
        self.is_script = is_script
        self._storages = storages
        self._swap = swap
        self._bytes: dict[str, Tensor] = {}  # read already; tied tensors share them

    def tensor(self, stored: StoredTensor) -> Tensor:
        """The tensor, over numbers of the file. Raises ValueError where it reaches beyond its storage."""
        storage, width = stored.storage, stored.dtype.itemsize
        held = storage.count * (width if storage.dtype is not None else 1)  # bytes
        first = storage.start + stored.offset
        reach = sum((size - 1) * step for size, step in zip(stored.size, stored.stride, strict=True)) + 1
        end = first + reach if math.prod(stored.size) else first
        if end * width > held:
            raise ValueError(f"a tensor of {stored.size} that reaches beyond its storage of {storage.count:,}")
        if math.prod(stored.size) * width >= 1 << 62:
            raise ValueError(f"a tensor that claims {math.prod(stored.size):,} numbers")
        flat = self._flat(storage.key, held)[: held // width * width].view(stored.dtype)
        if self._swap and width > 1:
            flat = _swapped(flat)
        return flat.as_strided(stored.size, stored.stride, first) if flat.numel() else flat.new_empty(stored.size)

    def _flat(self, key: str, size: int) -> Tensor:
        found = self._bytes.get(key)
        if found is None or len(found) < size:
            content = self._storages.read(key, size)
            found = torch.frombuffer(content, dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)
            self._bytes[key] = found
        return found


def _swapped(flat: Tensor) -> Tensor:
    """Numbers that a big-endian machine wrote."""
    width = flat.dtype.itemsize
    return flat.view(torch.uint8).view(-1, width).flip(1).reshape(-1).view(flat.dtype)


@contextmanager
def open_torch_file(path: Path) -> Iterator[TorchFile]:
    """A file that `sniff.form_of` calls torch. Raises RefusedPickleError for one that wants more than data, and nearly
    anything for a broken one."""
    with path.open("rb") as file:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                yield _from_zip(archive, size=path.stat().st_size)
        else:
            file.seek(0)
            yield _from_pickles(file, size=path.stat().st_size)


# ---------------------------------------------------------------- a zip archive


class _ZipStorages:
    def __init__(self, archive: zipfile.ZipFile, folder: str, *, has_checksums: bool) -> None:
        self._archive, self._folder, self._has_checksums = archive, folder, has_checksums

    def read(self, key: str, size: int) -> bytearray:
        content = self.part(f"data/{key}")
        if len(content) < size:
            raise ValueError(f"the storage data/{key} has {len(content):,} bytes, not {size:,}")
        return content

    def part(self, name: str) -> bytearray:
        """A part, held against its checksum. Raises KeyError where there is none."""
        info = self._archive.getinfo(f"{self._folder}/{name}")
        if not self._has_checksums and hasattr(info, "CRC"):
            del info.CRC  # zipfile then does not ask for it
        content = bytearray(info.file_size)
        with self._archive.open(info) as part:
            if part.readinto(content) < len(content) or part.read(1):  # type: ignore[attr-defined]
                raise ValueError(f"the part {name} is not as long as it says")
        return content


def _from_zip(archive: zipfile.ZipFile, *, size: int) -> TorchFile:
    """Raises ValueError for an archive that claims more than it has, and for altered parts.

    torch.save writes a checksum of each part, unless it is told not to: then all are 0.
    """
    parts = archive.infolist()
    names = [part.filename for part in parts]
    if len(set(names)) < len(names):
        raise ValueError("two parts of it have one name")
    pickles = [name for name in names if name.endswith(_PICKLE)]
    if len(pickles) != 1:
        raise ValueError(f"it has {len(pickles)} pickles beside its tensors, not one")
    folder = pickles[0].removesuffix(_PICKLE)
    claimed = sum(part.file_size for part in parts if part.filename.startswith((f"{folder}/data/", pickles[0])))
    if claimed > size:  # TorchScript compresses its program, and nothing else
        more = f"it claims {claimed:,} bytes of tensors, more than it has"
        raise ValueError(f"{more}; whoever zips it anew must not compress it")
    storages = _ZipStorages(archive, folder, has_checksums=any(part.CRC for part in parts))
    content = storages.part(_PICKLE[1:])
    if len(content) > _MOST_PICKLE:
        raise ValueError(f"its list of tensors is {len(content):,} bytes long")
    swap = f"{folder}/byteorder" in names and storages.part("byteorder") == b"big"
    is_script = f"{folder}/constants.pkl" in names
    return TorchFile(unpickle(io.BytesIO(content)), storages, is_script=is_script, swap=swap)


# ---------------------------------------------------------------- torch before 1.6


class _StorageRow:
    """Storages one behind the other, each after the count of its numbers."""

    def __init__(self, file: IO[bytes], places: dict[str, tuple[int, int]]) -> None:
        self._file, self._places = file, places

    def read(self, key: str, size: int) -> bytearray:
        place, held = self._places[key]
        if held < size:
            raise ValueError(f"the storage {key} has {held:,} bytes, not {size:,}")
        self._file.seek(place)
        content = bytearray(held)
        if self._file.readinto(content) < held:  # type: ignore[attr-defined]
            raise ValueError("the file ends within a storage")
        return content


def _from_pickles(file: IO[bytes], *, size: int) -> TorchFile:
    head = io.BytesIO(file.read(_MOST_PICKLE))  # in memory: a pickle there cannot ask for more than there is
    _magic, _protocol, system = unpickle(head), unpickle(head), unpickle(head)
    stored: dict[str, Storage] = {}
    content, keys = unpickle(head, stored), unpickle(head)
    file.seek(head.tell())
    if not isinstance(keys, list):
        raise ValueError("no list of storages")
    swap = isinstance(system, dict) and system.get("little_endian") is False
    places: dict[str, tuple[int, int]] = {}
    for key in map(str, keys):
        (count,) = struct.unpack(">q" if swap else "<q", file.read(8))
        held = count * (stored[key].dtype or torch.uint8).itemsize
        if count < 0 or file.tell() + held > size:
            raise ValueError("the file ends within a storage")
        places[key] = file.tell(), held
        file.seek(held, io.SEEK_CUR)
    return TorchFile(content, _StorageRow(file, places), is_script=False, swap=swap)

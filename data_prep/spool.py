"""The members of a sample in a file, from the worker that makes them to the writer of their shard.

A sample can be hours of frames, and the samples after it wait until it is written. So a worker puts each member into a
file of the temporary folder when it is made, and tells the writer where it lies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from umt_ds.distributed.leftovers import own_folder
from umt_ds.refused import refused_by_machine

Members = Mapping[str, bytes]  # content by suffix
_PIECE = 1 << 20  # bytes


@dataclass(frozen=True)
class SpooledMembers(Mapping[str, bytes]):
    """Members by suffix, of which each is read when it is asked for; a few small ones are at hand."""

    file: Path
    places: Mapping[str, tuple[int, int]]  # suffix → offset and size in the file
    at_hand: Members = field(default_factory=dict)

    def __getitem__(self, suffix: str) -> bytes:
        if suffix in self.at_hand:
            return self.at_hand[suffix]
        with self.file.open("rb") as file:
            return b"".join(_pieces(file, *self.places[suffix]))

    def __iter__(self) -> Iterator[str]:
        yield from self.at_hand
        yield from self.places

    def __len__(self) -> int:
        return len(self.at_hand) + len(self.places)


def each_member(members: Members) -> Iterator[tuple[str, int, Iterable[bytes]]]:
    """Suffix, size and content of each member, in the order of a tar. Of the content little is in memory at a time; it
    is there until the next member is asked for."""
    places, at_hand = (members.places, members.at_hand) if isinstance(members, SpooledMembers) else ({}, members)
    with members.file.open("rb") if isinstance(members, SpooledMembers) else nullcontext() as file:
        for suffix in sorted(members):
            if file is None or suffix in at_hand:
                yield suffix, len(at_hand[suffix]), [at_hand[suffix]]
            else:
                yield suffix, places[suffix][1], _pieces(file, *places[suffix])


def _pieces(file: IO[bytes], offset: int, size: int) -> Iterator[bytes]:
    file.seek(offset)
    while size:
        piece = file.read(min(size, _PIECE))
        assert piece, "the file was cut off"
        size -= len(piece)
        yield piece


def member_sizes(members: Members) -> dict[str, int]:
    """The bytes of each member; nothing is read."""
    places, at_hand = (members.places, members.at_hand) if isinstance(members, SpooledMembers) else ({}, members)
    sizes = {suffix: size for suffix, (_, size) in places.items()}
    return sizes | {suffix: len(content) for suffix, content in at_hand.items()}


def bytes_on_disk(members: Members) -> int:
    """How much of the members lies in their file."""
    return sum(size for _, size in members.places.values()) if isinstance(members, SpooledMembers) else 0


def kept(members: Iterable[tuple[str, Iterable[bytes]]], file: Path | None) -> Members:
    """Members (suffix, content in pieces), put one after another into `file` as they come; without one, into memory.

    Raises what making them raises, and MachineError where the file cannot be written.
    """
    if file is None:
        return {suffix: b"".join(pieces) for suffix, pieces in members}
    places: dict[str, tuple[int, int]] = {}
    with room_for(file), file.open("wb") as out:
        for suffix, pieces in members:
            offset = out.tell()
            size = sum(out.write(piece) for piece in pieces)
            places[suffix] = offset, size
    return SpooledMembers(file, places)


def whole_file(suffix: str, file: Path) -> Members:
    """The one member that `file` holds."""
    return SpooledMembers(file, {suffix: (0, file.stat().st_size)})


def with_member(members: Members, suffix: str, content: bytes) -> Members:
    """The same members and a small one."""
    if isinstance(members, SpooledMembers):
        return replace(members, at_hand={**members.at_hand, suffix: content})
    return {suffix: content, **members}


@contextmanager
def room_for(file: Path) -> Iterator[None]:
    """Say what it means that the temporary folder is full; other errors pass. Raises MachineError."""
    try:
        yield
    except OSError as error:
        refused = refused_by_machine(error, doing=f"a clip cannot be kept in {file.parent} until its shard is written")
        if refused is None:
            raise
        raise refused from error


@contextmanager
def spool_folder() -> Iterator[Path]:
    """A folder for the members of samples under way; it is gone when the process ends, however that ends."""
    with TemporaryDirectory(prefix="samples-", dir=own_folder()) as name:
        yield Path(name)


def spool_file(folder: Path, key: str) -> Path:
    """Where the members of a sample lie; keys can be long, and have slashes."""
    return folder / hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:32]


def source_file(folder: Path, key: str) -> Path:
    """Where the bytes lie that a sample is made from, if they are no file of their own."""
    return spool_file(folder, key).with_suffix(".source")


def forget(folder: Path, key: str) -> None:
    """Remove what lies in the spool of a clip."""
    spool_file(folder, key).unlink(missing_ok=True)
    source_file(folder, key).unlink(missing_ok=True)

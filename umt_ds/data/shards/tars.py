"""What lies in a tar, whoever wrote it: its samples, and what is none. Torch-free.

The index of a folder (`index_tar`) and a stream read tars by the same rules, which are WebDataset's: a key ends at
the first dot of a file's name, and the files of a sample lie side by side. Names are cleaned (`./a.jpg` is `a.jpg`,
Windows' `a\\b.jpg` is `a/b.jpg`), suffixes are in small letters. An index refuses what cannot be addressed by a name
(`_addressable`); a stream, which has no addresses, shows it.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple, cast

import numpy as np

from umt_ds.data.shards.fetch import opened
from umt_ds.data.shards.left_out import LeftOut
from umt_ds.data.shards.records import Member, ShardIndex
from umt_ds.data.shards.sample_record import is_of_record
from umt_ds.data.shards.storage import is_local, kind_of
from umt_ds.errors import DataError

# What tarfile raises on a stranger's bytes; RecursionError: hundreds of headers that each announce the next
UNREADABLE = (tarfile.TarError, OSError, EOFError, ValueError, KeyError, IndexError, OverflowError, RecursionError)

_CHUNK = 1 << 20  # bytes
# First bytes; a tar begins with a file's name, which may be BZhang.jpg
_COMPRESSED = {rb"\x1f\x8b": "gzip", rb"BZh\d1AY&SY": "bzip2", rb"\xfd7zXZ": "xz", rb"\x28\xb5\x2f\xfd": "zstd"}
_OTHER_ARCHIVES = {rb"PK\x03\x04": "a zip", rb"7z\xbc\xaf": "a 7z", rb"Rar!\x1a": "a rar"}
# What systems and tools leave among the files of others (__MACOSX has `._x` only); none can be in a key of our own
_LEFTOVER = re.compile(r"PaxHeaders?\.\d+|@PaxHeader|@LongLink|Thumbs\.db|desktop\.ini", re.IGNORECASE)


class TarMember(NamedTuple):
    """A file that belongs to a sample."""

    key: str
    suffix: str
    info: tarfile.TarInfo


def split_member_name(name: str) -> tuple[str, str]:
    """WebDataset's rule: the key ends at the first dot of the last path part. (`a/b.000.jpg` → `a/b`, `000.jpg`)"""
    folder, _, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return (f"{folder}/{stem}" if folder else stem), suffix.lower()


def members_of(archive: tarfile.TarFile, left: LeftOut) -> Iterator[TarMember]:
    """The files that belong to samples, in tar order; the others are counted in `left`.

    Raises one of UNREADABLE for a tar that is damaged.
    """
    at = -1
    while (info := archive.next()) is not None:
        archive.members = []  # type: ignore[attr-defined]  # it would remember all of them
        if info.size < 0 or info.offset <= at:
            raise tarfile.ReadError(f"the header at byte {at} points backwards")
        at = info.offset
        if info.isdir():
            continue
        if kind := _kind_of_other(info):
            left.add_file(kind, info.name)
            continue
        key, suffix = split_member_name("/".join(_parts(info.name)))
        yield TarMember(key, suffix, info)


def _addressable(members: Iterable[TarMember], tar: Path, left: LeftOut) -> Iterator[TarMember]:
    """The same files, but those whose bytes do not lie in one piece.

    Raises DataError for a key that comes back, a name twice in a sample, or one that leaves the folder (`..`,
    absolute) or is no text.
    """
    seen: set[str] = set()
    key, suffixes = "", set[str]()
    for member in members:
        if member.info.issparse():
            left.add_file("sparse files (written by tar --sparse)", member.info.name)
            continue
        _check_name(member.info.name, tar)
        if member.key != key:
            key, suffixes = member.key, set()
            if key in seen:
                raise _comes_back(tar, key, member.suffix)
            seen.add(key)
        if member.suffix in suffixes:
            raise DataError(
                f"{tar}: sample {key!r} has two files .{member.suffix}",
                hint="write the tar again with one of them (`tar -r` keeps the old file beside the new one; capitals "
                "in a suffix make no other file)",
            )
        suffixes.add(member.suffix)
        yield member


def _kind_of_other(info: tarfile.TarInfo) -> str | None:
    """What an entry is that belongs to no sample; None: it belongs to one."""
    if info.issym() or info.islnk():
        return "links (tar -h stores what they lead to)"
    if not info.isreg():
        return "devices, pipes and other entries that are no files"
    parts = _parts(info.name)
    if not parts or parts[-1].startswith(".") or any(map(_LEFTOVER.fullmatch, parts)):
        return "hidden files"
    return None if "." in parts[-1] else "files without a suffix"


def _parts(name: str) -> list[str]:
    return [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]


def _check_name(name: str, tar: Path) -> None:
    if name.startswith(("/", "\\")) or ".." in _parts(name):
        raise DataError(
            f"{tar}: member {name!r} points outside its folder; the tar is refused",
            hint="write it again with names below a folder (tar without -P, from within the folder)",
        )
    # what tarfile makes of stray bytes; and what an index cannot hold
    if any("\ud800" <= character <= "\udfff" or character == "\0" for character in name):
        raise DataError(f"{tar}: member name {name!r} is not UTF-8", hint="write the tar again with UTF-8 names")


def _comes_back(tar: Path, key: str, suffix: str) -> DataError:
    hint = "the files of a sample lie side by side and keys are unique within a tar: write it again (tar --sort=name)"
    if "." in suffix:
        name = f"{key}.{suffix}".rpartition("/")[2]
        hint += f"; a key ends at the first dot of a name (WebDataset): write {name.replace('.', '_', 1)} for {name}"
    return DataError(f"{tar}: sample key {key!r} occurs twice", hint=hint)


@dataclass(frozen=True)
class ScannedTar:
    """What one pass over a tar gives. texts: of each sample, by suffix."""

    index: ShardIndex
    sha256: str
    texts: tuple[dict[str, bytes], ...]


def index_tar(tar: Path, left: LeftOut | None = None) -> ShardIndex:
    """Say where each member of a tar lies, as `scan_tar` does."""
    return scan_tar(tar, left).index


def scan_tar(tar: Path, left: LeftOut | None = None, *, is_text: Callable[[str], bool] = is_of_record) -> ScannedTar:
    """Read a tar once: where each member lies, what a manifest says of it, and the members whose suffix `is_text`;
    files that belong to no sample are counted in `left`.

    Raises DataError where a tar is truncated or unreadable, and as `_addressable` does.
    """
    if not (tar.is_file() if is_local(tar) else kind_of(tar) == "file"):
        what = "a link that leads nowhere" if tar.is_symlink() else "no file"
        raise DataError(f"{tar} cannot be read as a tar: it is {what}", hint="restore it, or remove it")
    try:
        with opened(tar) as raw:
            return _scanned(_Hashed(raw), tar, LeftOut() if left is None else left, is_text)
    except UNREADABLE as error:
        of_system = getattr(error, "strerror", None)
        hint = "check its permissions, and the disk or mount" if of_system else "copy or write it again, then index it"
        raise DataError(f"{tar} cannot be read as a tar: {of_system or error}", hint=hint) from error


def _scanned(file: _Hashed, tar: Path, left: LeftOut, is_text: Callable[[str], bool]) -> ScannedTar:
    keys: list[str] = []
    starts: list[int] = []
    members: list[Member] = []
    texts: list[dict[str, bytes]] = []
    for key, member, text in _scan(file, tar, left, is_text):
        if not keys or keys[-1] != key:
            keys.append(key)
            starts.append(len(members))
            texts.append({})
        members.append(member)
        if text is not None:
            texts[-1][member.suffix] = text
    sha256 = file.sha256()  # to its end
    index = index_of_members(file.tell(), keys, [*starts, len(members)], members)
    return ScannedTar(index, sha256, tuple(texts))


def index_of_members(
    tar_size: int, keys: Sequence[str], starts: Sequence[int], members: Sequence[Member]
) -> ShardIndex:
    """The index of a tar of `tar_size` bytes whose sample i has the members `starts[i] : starts[i+1]`, in tar order."""
    return ShardIndex(
        tar_size=tar_size,
        keys=np.array([k.encode() for k in keys], dtype=np.bytes_),
        starts=np.array(starts, dtype=np.int64),
        suffixes=np.array([m.suffix.encode() for m in members], dtype=np.bytes_),
        offsets=np.array([m.offset for m in members], dtype=np.int64),
        sizes=np.array([m.size for m in members], dtype=np.int64),
        crcs=np.array([m.crc for m in members], dtype=np.uint32),
    )


def _scan(
    file: _Hashed, tar: Path, left: LeftOut, is_text: Callable[[str], bool]
) -> Iterator[tuple[str, Member, bytes | None]]:
    """Key and place of each file of a sample, with its CRC; and the bytes of texts."""
    refuse_compressed(tar, file.read(16))
    file.seek(0)
    with tarfile.open(fileobj=cast(IO[bytes], file), mode="r:") as archive:
        for key, suffix, info in _addressable(members_of(archive, left), tar, left):
            file.seek(info.offset_data)
            chunks: list[bytes] | None = [] if is_text(suffix) else None
            crc = _crc(file, info, tar, chunks)
            text = None if chunks is None else b"".join(chunks)
            yield key, Member(suffix, info.offset_data, info.size, crc), text
        file.seek(archive.offset)
        if holds_more(iter(lambda: file.read(_CHUNK), b"")):
            raise _more(tar)


def _crc(file: _Hashed, info: tarfile.TarInfo, tar: Path, chunks: list[bytes] | None) -> int:
    """The CRC-32 of the next bytes of `file`, the content of `info`, which is put into `chunks`."""
    crc, left = 0, info.size
    while left:
        chunk = file.read(min(left, _CHUNK))
        if not chunk:
            raise DataError(f"{tar} is truncated inside {info.name}", hint="copy or write it again")
        crc, left = zlib.crc32(chunk, crc), left - len(chunk)
        if chunks is not None:
            chunks.append(chunk)
    return crc


class _Hashed:
    """A file to read forward; each byte is hashed, and fetched from a store, once: what a seek leaves out is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._at = self._hashed = 0
        self._sha256 = hashlib.sha256()

    def tell(self) -> int:
        return self._at

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._sha256.update(memoryview(data)[max(0, self._hashed - self._at) :])
        self._at += len(data)
        self._hashed = max(self._hashed, self._at)
        return data

    def seek(self, offset: int) -> int:
        if offset < self._at:
            self._at = self._file.seek(offset)
        while self._at < offset and self.read(min(offset - self._at, _CHUNK)):
            pass
        return self._at

    def sha256(self) -> str:
        """Of the whole file."""
        while self.read(_CHUNK):
            pass
        return self._sha256.hexdigest()


def refuse_compressed(tar: object, start: bytes) -> None:
    """Raises DataError where the first bytes are those of a compressed file, or of another kind of archive."""
    for magic, tool in _COMPRESSED.items():
        if re.match(magic, start):
            raise DataError(
                f"{tar} is compressed ({tool}): single samples cannot be read from it",
                hint=f"unpack it first ({tool} -d); a stream can do so while it reads: pipe:{tool} -dc FILE",
            )
    for magic, kind in _OTHER_ARCHIVES.items():
        if re.match(magic, start):
            raise DataError(f"{tar} is {kind} archive and no tar", hint="unpack it, and write a tar of its files")


def holds_more(chunks: Iterable[bytes]) -> bool:
    """Check what follows the last member: zero bytes. Without this, a tar that is cut between two members, or whose
    next header is damaged, would pass as a whole one. Returns whether there is more behind these, as where one tar
    was put behind another.

    Raises OSError for a tar that is cut or damaged.
    """
    end, more = b"", False
    for chunk in chunks:
        beyond = chunk[max(0, 512 - len(end)) :]
        end += chunk[: 512 - len(end)]
        more = more or bool(beyond.strip(b"\0"))
    if len(end) < 512:
        raise OSError("it has no end-of-archive block: it was cut off")
    if end.strip(b"\0"):
        raise OSError("the header of a file in it is damaged")
    return more


def _more(tar: Path) -> DataError:
    return DataError(
        f"{tar} holds more behind its end, which no reader of tars would show: tars put one behind the other?",
        hint="keep them as several tars; or unpack it (tar --ignore-zeros -xf) and write it again",
    )

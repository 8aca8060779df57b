"""Parquet files that hold pictures, videos or their paths, as Hugging Face's `datasets` writes them. A door to pyarrow.

    image: struct<bytes: binary, path: string>   a picture, or a video; or a column of bytes, or one of paths
    caption: string                              a text, or a list of them
    label: int64                                 its class; the names are in the metadata of the schema

The media of a row group can be gigabytes. So texts and labels are read without them, and media a few rows at a time.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pyarrow import parquet

from umt_ds.data.shards.fetch import opened, read_part, read_through, reading
from umt_ds.data.shards.storage import is_local
from umt_ds.errors import DataError, shown

Kind = Literal["media", "bytes", "text", "texts", "number", "other"]
_LFS = b"version https://git-lfs"
# What pyarrow raises on a stranger's bytes.
DAMAGED = (pa.ArrowException, OSError, ValueError, KeyError, OverflowError, MemoryError)
_AT_ONCE = 16 << 20  # bytes of media that are read at a time, about
_MOST_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Column:
    """A column of a file: `media` holds bytes and mostly a path, `bytes` bytes alone, `texts` a list of texts."""

    name: str
    kind: Kind
    type: str  # as Arrow writes it
    feature: str = ""  # what `datasets` calls it: Image, Video, ClassLabel, …
    names: tuple[str, ...] = ()  # of the classes of a ClassLabel
    has_path: bool = False  # beside bytes

    @property
    def has_bytes(self) -> bool:
        return self.kind in ("media", "bytes")

    @property
    def bytes_path(self) -> str:
        """The leaf of the file that has the bytes."""
        return f"{self.name}.bytes" if self.kind == "media" else self.name

    @property
    def path_leaf(self) -> str | None:
        """The leaf that has the path of a file; None where the bytes have none beside them."""
        return f"{self.name}.path" if self.has_path else None

    def __str__(self) -> str:
        """For people, as part of an error."""
        return f"{self.name} ({self.feature or shown(self.type, 40)})"


@dataclass
class ParquetFile:
    """A parquet file, on a disk or in a store, without its media. Use it `with parquet_file(path)`."""

    path: Path
    reader: parquet.ParquetFile = field(repr=False)

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """What a row has. Raises DataError where two columns have one name."""
        schema = self.reader.schema_arrow
        features = _features(schema.metadata or {})
        if len(set(schema.names)) < len(schema.names):
            raise DataError(f"{self.path} has two columns of one name", hint="write it again with one of each")
        return tuple(_column(one, features.get(one.name)) for one in schema)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """The first row of each row group, and the number of rows: one more than there are groups. Raises DataError
        where the file says different things of that."""
        starts = [0]
        for group in range(self.reader.num_row_groups):
            starts.append(starts[-1] + self.reader.metadata.row_group(group).num_rows)
        if starts != sorted(starts) or starts[-1] != self.reader.metadata.num_rows:
            raise damaged(self.path, ValueError("its row groups do not have the rows that it says it has"))
        return tuple(starts)

    @property
    def groups(self) -> Iterator[range]:
        """The rows of each row group."""
        return (range(start, end) for start, end in pairwise(self.starts))

    def rows(self, group: int, leaves: Sequence[str]) -> list[dict[str, Any]]:
        """Some columns (or leaves of them, such as `image.path`) of all rows of a group; media should not be among
        them. Raises DataError where they are damaged."""
        try:
            found: list[dict[str, Any]] = self.reader.read_row_group(
                group, columns=list(leaves), use_threads=False
            ).to_pylist()
        except DAMAGED as error:
            raise damaged(self.path, error) from error
        if len(found) != self.starts[group + 1] - self.starts[group]:
            raise damaged(self.path, ValueError(f"row group {group} has {len(found):,} rows instead of its number"))
        return found

    def has_bytes(self, group: int, column: Column) -> list[bool]:
        """Of each row of a group, whether it has bytes. Where all have, or none has, the file says so."""
        num_rows = self.starts[group + 1] - self.starts[group]
        try:
            nulls = self._nulls(group, column.bytes_path)
            if nulls in (0, num_rows):
                return [nulls == 0] * num_rows
            found = [value is not None for value in _values(self.reader, group, column.bytes_path)]
        except DAMAGED as error:
            raise damaged(self.path, error) from error
        if len(found) != num_rows:
            raise damaged(self.path, ValueError(f"row group {group} has {len(found):,} rows instead of {num_rows:,}"))
        return found

    def _nulls(self, group: int, leaf: str) -> int | None:
        told = self.reader.metadata.row_group(group)
        for number in range(told.num_columns):
            chunk = told.column(number)
            if chunk.path_in_schema == leaf and chunk.statistics is not None and chunk.statistics.has_null_count:
                return int(chunk.statistics.null_count)
        return None


@contextmanager
def parquet_file(path: Path) -> Iterator[ParquetFile]:
    """A parquet file to read. Raises DataError where it is none; OSError and MachineError as `fetch.opened`."""
    with opened(path) as file:
        try:
            # not the whole of a column chunk at once, nor those of all columns
            reader = parquet.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
        except DAMAGED as error:
            raise _no_parquet(path, error) from error
        yield ParquetFile(path, reader)


class CellReader:
    """The bytes of cells. Quick where they are asked for as they lie, row group by row group: what lies between is
    passed over, and a row group is read again only for a row before the last one."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._open = ExitStack()
        self._place: tuple[str, str, int] | None = None  # file, column, row group
        self._file: ParquetFile | None = None
        self._coming: Iterator[bytes | None] = iter(())
        self._next = 0  # the row that comes next
        self._damaged: dict[tuple[str, str, int], DataError] = {}  # and whatever comes behind the row

    def close(self) -> None:
        """Let go of the file."""
        self._open.close()
        self._place = self._file = None

    def read(self, file: str, column: str, row: int) -> bytes | None:
        """The bytes of a cell; None where it has none. Raises DataError where they are damaged; OSError and
        MachineError as `fetch.opened`."""
        found = self._at(file)
        leaf = next((one.bytes_path for one in found.columns if one.name == column and one.has_bytes), None)
        if row >= found.starts[-1] or leaf is None:
            raise DataError(f"{found.path} is another than it was: it has no such row with bytes")
        group = bisect_right(found.starts, row) - 1
        place = (file, column, group)
        if place in self._damaged:
            raise self._damaged[place]
        if place != self._place or row < self._next:
            self._place, self._next = place, found.starts[group]
            self._coming = _values(found.reader, group, leaf)
        try:
            for _ in range(row - self._next):
                next(self._coming)
            self._next = row + 1
            return next(self._coming)
        except (*DAMAGED, StopIteration) as error:
            if is_local(found.path):  # a disk that fails looks like a damaged file
                reading(found.path, partial(read_through, found.path), root=self._root)
            self._damaged[place] = damaged(found.path, error)
            raise self._damaged[place] from error

    def _at(self, file: str) -> ParquetFile:
        if self._file is None or self._file.path != self._root / file:
            self.close()
            self._file = self._open.enter_context(parquet_file(self._root / file))
        return self._file


def _values(reader: parquet.ParquetFile, group: int, leaf: str) -> Iterator[bytes | None]:
    """The values of a column of bytes in one row group, of which a few are in memory at a time."""
    told = reader.metadata.row_group(group)
    sizes = {(chunk := told.column(number)).path_in_schema: chunk.total_uncompressed_size for number in
             range(told.num_columns)}  # fmt: skip
    each = max(1, sizes.get(leaf, 0) // max(1, told.num_rows))
    at_once = max(1, min(_MOST_ROWS_AT_ONCE, _AT_ONCE // each))
    for batch in reader.iter_batches(at_once, row_groups=[group], columns=[leaf], use_threads=False):
        for value in batch.column(0):
            plain = value.as_py()
            yield plain["bytes"] if isinstance(plain, dict) else plain


def damaged(path: Path, error: Exception) -> DataError:
    """The error for a file whose rows cannot be read."""
    return DataError(f"{path} is damaged: {_said(error)}", hint="download it again")


def _no_parquet(path: Path, error: Exception) -> DataError:
    if read_part(path, 0, len(_LFS)) == _LFS:
        return DataError(
            f"{path} is a pointer of Git LFS, and not the file itself",
            hint="fetch the files by `git lfs pull` there, or download the data set with `hf download`",
        )
    return DataError(f"{path} is no parquet file, or not all of one: {_said(error)}", hint="download it again")


def _said(error: Exception) -> str:
    """What pyarrow says, on one line."""
    return shown(" ".join(str(error).split()) or type(error).__name__, 200)


# ---------------------------------------------------------------- columns


def _features(metadata: Mapping[bytes, bytes]) -> Mapping[str, Any]:
    """What `datasets` wrote of the columns; nothing where another program wrote the file."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def _column(one: pa.Field, feature: object) -> Column:
    told = feature if isinstance(feature, dict) else {}
    feature_type = told.get("_type")
    names = told.get("names") if feature_type == "ClassLabel" else None
    are_names = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return Column(
        one.name,
        _kind(one.type),
        str(one.type),
        feature_type if isinstance(feature_type, str) else "",
        tuple(names) if names and are_names else (),
        has_path=pa.types.is_struct(one.type) and _is_text(_field(one.type, "path")),
    )


def _kind(type_: pa.DataType) -> Kind:
    if pa.types.is_struct(type_) and _is_bytes(_field(type_, "bytes")):
        return "media"
    if _is_bytes(type_):
        return "bytes"
    if pa.types.is_integer(type_):
        return "number"
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        return "texts" if _kind(type_.value_type) in ("text", "texts") else "other"
    return "text" if _is_text(type_) else "other"


def _field(type_: pa.DataType, name: str) -> pa.DataType:
    index = type_.get_field_index(name)
    return type_.field(index).type if index >= 0 else pa.null()


def _is_bytes(type_: pa.DataType) -> bool:
    return any(
        of(type_)
        for of in (
            pa.types.is_binary,
            pa.types.is_large_binary,
            pa.types.is_binary_view,
            pa.types.is_fixed_size_binary,
        )
    )


def _is_text(type_: pa.DataType) -> bool:
    if pa.types.is_dictionary(type_):
        return _is_text(type_.value_type)
    return any(of(type_) for of in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))

"""Tables in Arrow files, memory-mapped: the door to pyarrow. Torch-free.

A file is an Arrow IPC file (also called Feather V2), not compressed: pandas, polars and duckdb read it, and what is
mapped is read from disk when it is used and lies in memory once for all processes of a node. Its record batches are its
pages: one a shard, each with a few texts of its own (`notes`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from pyarrow import ipc

from umt_ds.errors import DataError
from umt_ds.whole_file import appearing

# what pyarrow raises on a stranger's bytes; UnicodeDecodeError is a ValueError
_DAMAGED = (pa.ArrowException, OSError, ValueError, KeyError, OverflowError, MemoryError)


class Page(NamedTuple):
    """A record batch and what was written beside it."""

    batch: pa.RecordBatch
    notes: Mapping[str, str]


class ArrowFile:
    """The pages of a finished file on a disk of this machine; or of its `data`, where that was read already.

    It may be opened before a fork. Raises DataError where the file is not one, or has another's columns.
    """

    def __init__(self, path: Path, schema: pa.Schema, *, hint: str, data: bytes | None = None) -> None:
        self._path, self._hint = path, hint
        try:
            self._reader = ipc.open_file(pa.memory_map(str(path)) if data is None else pa.BufferReader(data))
            found = self._reader.schema
            missing = [field.name for field in schema if found.get_field_index(field.name) < 0]
            wrong = [field.name for field in schema if not missing and found.field(field.name).type != field.type]
        except _DAMAGED as error:
            raise self._damaged(str(error)) from error
        if missing or wrong:
            what = f"{'it lacks' if missing else 'of another kind are'} its columns {', '.join(missing or wrong)}"
            raise DataError(f"{path} is of another version, or no such table: {what}", hint=hint)

    def __len__(self) -> int:
        """Pages."""
        return int(self._reader.num_record_batches)

    @property
    def schema(self) -> pa.Schema:
        return self._reader.schema

    def page(self, number: int, *, whole: bool = False) -> Page:
        """Page `number`, its columns as long as it says; what is in them is looked at where it is asked for as a
        `whole`. Raises DataError where it is damaged."""
        try:
            batch, notes = self._reader.get_batch_with_custom_metadata(number)
            batch.validate(full=whole)
            return Page(batch, {key.decode(): value.decode() for key, value in (notes or {}).items()})
        except _DAMAGED as error:
            raise self._damaged(f"page {number}: {error}") from error

    def _damaged(self, what: str) -> DataError:
        return DataError(f"{self._path} is damaged: {what}", hint=self._hint)


@contextmanager
def writing(path: Path, schema: pa.Schema) -> Iterator[ArrowWriter]:
    """A file on a disk, which appears whole when the block ends without an error."""
    with appearing(path) as partial, pa.OSFile(str(partial), "wb") as file, ipc.new_file(file, schema) as writer:
        yield ArrowWriter(writer, schema)


class ArrowWriter:
    """Takes the pages of a file, one after the other."""

    def __init__(self, writer: ipc.RecordBatchFileWriter, schema: pa.Schema) -> None:
        self._writer, self._schema = writer, schema

    def add(self, columns: Mapping[str, pa.Array], notes: Mapping[str, str] | None = None) -> None:
        """One page. A column of the schema that is not given is null throughout."""
        rows = len(next(iter(columns.values())))
        arrays = [columns.get(field.name, pa.nulls(rows, field.type)) for field in self._schema]
        self._writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=self._schema), custom_metadata=notes or None)

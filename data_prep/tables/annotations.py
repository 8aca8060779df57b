"""Annotation files as rows of fields: csv, tsv, parquet, Arrow, JSON, JSON lines and SQLite. A door to pyarrow."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from data_prep.tables.table import NUMBER, read_json, read_json_lines, table_objects
from umt_ds.errors import DataError, shown

_FORMS = (
    "csv, tsv, parquet, arrow (feather), json (a list of objects), jsonl (an object a line) or an SQLite database with "
    "a table annos, as UMT and VindLU write it"
)
_SQLITE = b"SQLite format 3\0"


def read_annotations(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where it stands, fields) of each row; a field without a value is not there.

    Raises DataError where the file cannot be read, or a row of it is none.
    """
    try:
        with path.open("rb") as file:
            is_sqlite = file.read(len(_SQLITE)) == _SQLITE
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    match "sqlite" if is_sqlite else path.suffix.lower():
        case "sqlite":
            return _of_sqlite(path)
        case ".parquet":
            return _of_parquet(path)
        case ".csv" | ".tsv":
            return _of_csv(path)
        case ".arrow" | ".feather":
            return _of_feather(path)
        case ".jsonl":
            return _of_objects(path, read_json_lines(path), "line")
        case ".json":
            content = read_json(path)
            if not isinstance(content, list):
                raise DataError(f"{path} is no list of objects", hint=f"known forms: {_FORMS}")
            return _of_objects(path, enumerate(content, start=1), "entry")
        case ".gz" | ".bz2" | ".xz" | ".zst" | ".zip":
            raise DataError(f"{path} is compressed", hint="unpack it, and give what was in it")
        case suffix:
            raise DataError(f"{path} is of no form that is known ({suffix or 'no suffix'})", hint=f"known: {_FORMS}")


def _of_objects(path: Path, entries: Any, what: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, entry in entries:
        if not isinstance(entry, dict):
            raise DataError(f"{path}: {what} {number} is no object but {shown(repr(entry))}")
        yield f"{path.name} {what} {number}", {name: value for name, value in entry.items() if value is not None}


def _of_sqlite(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of its table annos, in the order of `id` or of the file. `id` is no field of an item."""
    journal = path.with_name(f"{path.name}-wal")
    if journal.is_file() and journal.stat().st_size:
        raise DataError(
            f"{path} is not whole: another program has not closed it, and rows of it are in {journal.name}",
            hint=f"end that program, or write them into the file: sqlite3 {path} 'PRAGMA wal_checkpoint(TRUNCATE)'",
        )
    try:
        # immutable: SQLite would write files beside it, and the folder may be read-only
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)) as database:
            columns = [row[1] for row in database.execute("PRAGMA table_info(annos)")]
            if not columns:
                raise DataError(f"{path} has no table annos", hint=f"known forms: {_FORMS}")
            order = "id" if "id" in columns else "rowid"
            for number, values in enumerate(database.execute(f"SELECT * FROM annos ORDER BY {order}"), start=1):
                fields = {name: value for name, value in zip(columns, values, strict=True) if value is not None}
                fields.pop("id", None)
                yield f"{path.name} row {number}", fields
    except sqlite3.Error as error:
        raise DataError(f"{path} cannot be read as an SQLite database: {error}") from error


def _of_parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows without their pictures and videos, which can be gigabytes: `image` is the path that lies beside them."""
    from data_prep.tables.parquet_files import parquet_file

    with parquet_file(path) as file:
        paths = {column.name: column.path_leaf for column in file.columns if column.has_bytes}
        leaves = [leaf for column in file.columns if (leaf := paths.get(column.name, column.name))]
        for group, numbers in enumerate(file.groups):
            for number, row in zip(numbers, file.rows(group, leaves), strict=True):
                for name in paths.keys() & row.keys():
                    row[name] = (row[name] or {}).get("path")
                fields = {name: value for name, value in row.items() if value is not None}
                yield f"{path.name} row {number + 1}", fields


def _of_csv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a csv or tsv file. Names of clips can look like numbers: only cells of `_NUMBERS` are made some."""
    for line, cells in table_objects(path, delimiter="\t" if path.suffix.lower() == ".tsv" else ","):
        yield (
            f"{path.name} line {line}",
            {name: _number(cell) if name in _NUMBERS else cell for name, cell in cells.items()},
        )


def _number(cell: str) -> str | float:
    if not NUMBER.fullmatch(cell):
        return cell
    return int(cell) if cell.isdecimal() else float(cell)


def _of_feather(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa
    from pyarrow import feather

    try:
        table = feather.read_table(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    number = 0
    for batch in table.to_batches():
        for row in batch.to_pylist():
            number += 1
            yield f"{path.name} row {number}", {name: value for name, value in row.items() if value is not None}


_NUMBERS = ("label", "start", "end", "time_start", "time_end", "weight")  # columns of a csv that hold numbers

"""Captions, labels and class lists from csv and text files."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path

from umt_ds.errors import DataError

Row = dict[str, str]


def read_table(path: Path, *, needed: Sequence[str]) -> list[Row]:
    """The rows of a csv file with a header line, as text without surrounding blanks.

    Raises DataError where the file is no UTF-8 csv, lacks a column of `needed`, or a row does not fit its header.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # -sig: Excel puts a BOM in front
            reader = csv.reader(file)
            lines = [(reader.line_num, fields) for fields in reader if fields]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a UTF-8 csv file: {error}") from error
    columns = [name.strip() for name in lines[0][1]] if lines else []
    missing = [column for column in needed if column not in columns]
    if missing:
        raise DataError(
            f"{path} has no column {' and '.join(missing)}; its columns are {', '.join(columns) or 'none'}",
            hint=f"the first line must name the columns {', '.join(needed)}",
        )
    return [_row(fields, columns, path, line) for line, fields in lines[1:]]


def _row(fields: Sequence[str], columns: Sequence[str], path: Path, line: int) -> Row:
    if len(fields) != len(columns):
        raise DataError(
            f"{path} line {line} has {len(fields)} fields, its header {len(columns)}",
            hint="texts that contain commas must be quoted",
        )
    return {name: value.strip() for name, value in zip(columns, fields, strict=True)}


@dataclass(frozen=True)
class Labels:
    """The classes of a set, in the order of their numbers."""

    names: tuple[str, ...] = ()

    def number(self, name: str) -> int:
        """The number of a class. Raises DataError, with the nearest name, where there is no such class."""
        try:
            return self._numbers[name]
        except KeyError:
            near = get_close_matches(name, self.names, n=1)
            raise DataError(
                f"label {name!r} is not in the class list of {len(self.names)} classes",
                hint=f"nearest: {near[0]!r}" if near else "give the list that belongs to these labels",
            ) from None

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}


def class_list(found: Iterable[str], classes: Path | None) -> Labels:
    """The class list: the file `classes` (one name a line), else the labels found, sorted.

    Labels that are all whole numbers keep their numbers: sorting them as text would permute the classes.
    """
    if classes is not None:
        return Labels(_read_names(classes))
    names = sorted(set(found))
    if names and all(name.isdecimal() for name in names):
        return Labels(tuple(str(number) for number in range(max(map(int, names)) + 1)))
    return Labels(tuple(names))


def _read_names(path: Path) -> tuple[str, ...]:
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"class list {path} cannot be read: {error}") from error
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated or not names:
        what = f"names {repeated[0]!r} twice" if repeated else "is empty"
        raise DataError(f"class list {path} {what}", hint="one class name a line, in the order of the numbers")
    return tuple(names)

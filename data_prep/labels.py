"""Captions, labels and class lists from csv, json and text files."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

from umt_ds.errors import DataError

Row = dict[str, str]
MAX_CLASSES = 100_000
_SIDE = re.compile(r"\b(?:left|right)\b")


def read_table(path: Path, *, needed: Sequence[str]) -> list[Row]:
    """The rows of a csv file with a header line, as text without surrounding blanks.

    Raises DataError where the file is no UTF-8 csv, lacks a column of `needed`, or a row does not fit its header.
    """
    lines = lines_of(path)
    columns = _header(path, lines, needed)
    return [dict(zip(columns, _fitting(fields, columns, path, line), strict=True)) for line, fields in lines]


def rows_of(
    path: Path, *, columns: Sequence[str], optional: Sequence[str] = (), delimiter: str = ","
) -> Iterator[tuple[str, ...]]:
    """Row after row, only the fields of `columns` and `optional` in this order: for lists of many millions of rows.

    A column of `optional` that the file lacks gives empty text. Raises DataError as `read_table` does, when reached.
    """
    lines = lines_of(path, delimiter=delimiter)
    header = _header(path, lines, columns)
    places = [header.index(name) if name in header else None for name in (*columns, *optional)]
    for line, fields in lines:
        row = _fitting(fields, header, path, line)
        yield tuple("" if place is None else row[place] for place in places)


def lines_of(path: Path, *, delimiter: str = ",", quoted: bool = True) -> Iterator[tuple[int, list[str]]]:
    """Number and fields of each line that is not blank. `quoted` as csv files are; without it a quote is a letter.

    Raises DataError where the file cannot be read, is not UTF-8, or has a field that cannot be one.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # -sig: Excel puts a BOM in front
            reader = csv.reader(file, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE)
            for fields in reader:
                if fields:
                    yield reader.line_num, fields
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a UTF-8 csv file: {error}") from error


def _header(path: Path, lines: Iterator[tuple[int, list[str]]], needed: Sequence[str]) -> list[str]:
    columns = [name.strip() for name in next(lines, (1, []))[1]]
    missing = [column for column in needed if column not in columns]
    if missing:
        raise DataError(
            f"{path} has no column {' and '.join(missing)}; its columns are {', '.join(columns) or 'none'}",
            hint=f"the first line must name the columns {', '.join(needed)}",
        )
    return columns


def _fitting(fields: Sequence[str], columns: Sequence[str], path: Path, line: int) -> list[str]:
    if len(fields) != len(columns):
        raise DataError(
            f"{path} line {line} has {len(fields)} fields, its header {len(columns)}",
            hint="texts that contain commas must be quoted",
        )
    return [value.strip() for value in fields]


def read_json(path: Path, *, each: Callable[[dict[str, Any]], object] | None = None) -> Any:
    """A json file. `each` replaces every object in it as soon as it is read, innermost first: ten million dicts
    would fill the memory. Raises DataError where the file cannot be read."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            return json.load(file, object_hook=each)
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no JSON, or no UTF-8
        raise DataError(f"{path} cannot be read as a JSON file: {error}") from error


def clean(text: str) -> str:
    """Without blanks around it, and encodable: json can write half a character (a cut emoji), UTF-8 cannot."""
    stripped = text.strip()
    try:
        stripped.encode()
    except UnicodeEncodeError:
        return stripped.encode(errors="replace").decode()
    return stripped


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
    Raises DataError where the numbers are too large to be classes.
    """
    if classes is not None:
        return Labels(_read_names(classes))
    names = sorted(set(found))
    if names and all(name.isdecimal() for name in names):
        largest = max(map(int, names))
        if largest >= MAX_CLASSES:
            raise DataError(f"label {largest} is no class number", hint="classes are numbered from 0, without gaps")
        return Labels(tuple(str(number) for number in range(largest + 1)))
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


def flip_notes(names: Sequence[str]) -> tuple[str, ...]:
    """A warning for class lists where a mirrored clip belongs to another class."""
    lowered = {name.lower() for name in names}
    mirrored = [name for name in names if (other := _mirrored(name.lower())) != name.lower() and other in lowered]
    if not mirrored:
        return ()
    return (
        f"{len(mirrored)} classes are mirror images of each other, such as {mirrored[0]!r}: "
        "train without horizontal flip",
    )


def _mirrored(name: str) -> str:
    return _SIDE.sub(lambda side: "right" if side[0] == "left" else "left", name)

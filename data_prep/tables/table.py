"""Files that people and other programs write: lines of text, rows of csv files, json. All of them are read here.

One law: a file means what it says, or is refused with the line and the reason; no line is swallowed, and what is not
used is said once (`Table.notes`, `unused_note`).
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from umt_ds.errors import DataError, quoted

Column = str | tuple[str, ...]  # what a column is called, or may be called: the first that is there counts
Each = Callable[[dict[str, Any]], object]
_DELIMITERS = (",", "\t", ";", "|")
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,4})?")
LARGEST = 10**12  # whole number that a cell can be
_UTF8 = "`iconv -f {} -t UTF-8 FILE > NEW` converts it"
_FILE = re.compile(r"\S+(?P<suffix>\.\w{2,5})|\d{4,}")
_UNDECODED = re.compile("[\udc80-\udcff]")  # what errors="surrogateescape" makes of bytes that are not UTF-8
# How files begin that are no UTF-8 text
_BINARY = {
    "PK\x03\x04": "a zip or Excel file",
    "\udcd0\udccf\x11": "an old Excel file",
    "PAR1": "a Parquet file",
    "ARROW1\0": "an Arrow file",
    "SQLite format 3\0": "an SQLite database",
    "\x1f\udc8b": "compressed by gzip",
    "BZh91AY": "compressed by bzip2",
    "\udcfd7zXZ\0": "compressed by xz",
    "(\udcb5/\udcfd": "compressed by zstd",
}
_ENCODINGS = (("\udcff\udcfe\0\0", "UTF-32"), ("\udcff\udcfe", "UTF-16"), ("\udcfe\udcff", "UTF-16"))


class Row(NamedTuple):
    """The cells of a row, without blanks around them, and the line of the file on which it begins."""

    line: int
    cells: tuple[str, ...]


class ColumnsError(DataError):
    """A table lacks columns. `missing` are those asked for, `header` what the first line says."""

    def __init__(self, path: Path, header: Sequence[str], missing: Sequence[Column], columns: Sequence[Column]) -> None:
        def names(of: Sequence[Column]) -> list[str]:
            return [column if isinstance(column, str) else "/".join(column) for column in of]

        super().__init__(
            f"{path} has no column {' and '.join(names(missing))}; its columns are {', '.join(header) or 'none'}",
            hint=f"the first line must name the columns {','.join(names(columns))}",
        )
        self.header, self.missing = tuple(header), tuple(missing)


# --- lines of text


def text_lines(path: Path) -> Iterator[Row]:
    """Each line that is not blank, as one cell. Raises DataError where the file cannot be read or is not UTF-8."""
    for number, line in enumerate(_lines(path), start=1):
        if text := line.strip():
            yield Row(number, (text,))


def read_text(path: Path) -> str:
    """All of a text file. Raises DataError as `text_lines` does."""
    return "".join(_lines(path))


def _lines(path: Path) -> Iterator[str]:
    """The lines with their ends (\\n, \\r\\n or \\r), without the BOM that Excel puts in front of a file."""
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            for number, line in enumerate(file, start=1):
                if number == 1:
                    _check_is_text(path, line)
                if "\0" in line or not line.isascii():
                    _check_line(path, number, line)
                    line = line.lstrip("\ufeff")
                yield line
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _check_is_text(path: Path, first: str) -> None:
    """Raises DataError where the first line is that of another kind of file, or in another encoding."""
    if kind := next((kind for start, kind in _BINARY.items() if first.startswith(start)), None):
        raise DataError(f"{path} cannot be read as UTF-8 text: it is {kind}", hint="unpack it, or save it as csv")
    if encoding := next((name for start, name in _ENCODINGS if first.startswith(start)), None):
        raise DataError(f"{path} cannot be read as UTF-8 text: it is {encoding}", hint=_UTF8.format(encoding))


def _check_line(path: Path, number: int, line: str) -> None:
    if "\0" in line:
        raise DataError(
            f"{path} line {number} holds a NUL character",
            hint=f"the file is damaged, or UTF-16: {_UTF8.format('UTF-16LE')}",
        )
    if wrong := _UNDECODED.search(line):
        raise DataError(
            f"{path} cannot be read as UTF-8 text: line {number} has the byte 0x{ord(wrong[0]) - 0xDC00:02x} "
            f"after {line[max(0, wrong.start() - 20) : wrong.start()]!r}",
            hint=f"it may be Latin-1 (Windows-1252): {_UTF8.format('WINDOWS-1252')}",
        )


def clean(text: str) -> str:
    """Without blanks around it, and encodable: json can write half a character (a cut emoji), UTF-8 cannot."""
    stripped = text.strip()
    try:
        stripped.encode()
    except UnicodeEncodeError:
        return stripped.encode(errors="replace").decode()
    return stripped


def whole_number(cell: object) -> int | None:
    """The value of a whole number, however it is spelled: 2, 2.0, +2, 002, 2e0. None where it is no such number, or one
    beyond `LARGEST`."""
    if isinstance(cell, (int, float)) and not isinstance(cell, bool):
        cell = repr(cell)
    if not isinstance(cell, str) or not NUMBER.fullmatch(cell.strip()):
        return None
    if len(cell) < 10 and cell.isdigit():  # as nearly all are
        return int(cell)
    value = Decimal(cell.strip())  # exact, and no power of ten is written out
    return int(value) if abs(value) <= LARGEST and value == int(value) else None


# --- csv


class Table:
    """A csv file with a header line. Iterating gives Row after Row, once, with the cells of `columns` and `optional` in
    this order: for lists of many millions of rows. A column of `optional` that the file lacks gives empty cells.

    Case and blanks of column names do not matter. Where the header has the columns only if a tab, semicolon or bar
    splits them, that splits all rows. Raises DataError where the file is no UTF-8 text or repeats a column, its
    subclass ColumnsError where one is missing; and when reached, where a row does not fit the header.
    """

    def __init__(
        self, path: Path, *, columns: Sequence[Column], optional: Sequence[Column] = (), delimiter: str = ","
    ) -> None:
        self.path = path
        lines = _lines(path)
        first: list[str] = []
        for line in lines:
            first.append(line)
            if line.strip():
                break
        self._delimiter, self.header = _header(path, first, columns, delimiter)
        self._columns = (*columns, *optional)
        self._indices = [_column_index(path, self.header, column) for column in self._columns]
        self._records = _records(path, chain(first, lines), self._delimiter)
        self._repeated: list[int] = []
        self._broken: list[int] = []

    def __iter__(self) -> Iterator[Row]:
        next(self._records, None)
        first = self.header[0].casefold()
        for line, fields, num_lines in self._records:
            if len(fields) != len(self.header):
                raise self._does_not_fit(line, fields, num_lines)
            if fields[0].strip().casefold() == first and _plain(fields) == _plain(self.header):
                self._repeated.append(line)
                continue
            if num_lines > 1:
                self._check_not_rows(line, fields)
                self._broken.append(line)
            yield Row(line, tuple(["" if i is None else fields[i].strip() for i in self._indices]))

    @property
    def repeated(self) -> tuple[int, ...]:
        """The lines that are the header again, and were not taken for rows, once it is read."""
        return tuple(self._repeated)

    @property
    def unused(self) -> tuple[str, ...]:
        """The columns that nobody asked for."""
        return tuple(name or "without a name" for n, name in enumerate(self.header) if n not in self._indices)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of it, once it is read: what is not used, and what is doubtful."""
        return (*unused_note("column", self.unused, self.path), *self.doubts)

    @property
    def doubts(self) -> tuple[str, ...]:
        """What looks odd in it, once it is read."""
        notes = []
        if self._repeated:
            notes.append(f"{self.path.name} repeats its header on {_some(self._repeated)}: not taken for rows")
        if self._broken:
            notes.append(
                f"{self.path.name} has quoted texts with line breaks in the rows that begin on {_some(self._broken)}: "
                "is a quote missing there?"
            )
        return tuple(notes)

    def _check_not_rows(self, line: int, fields: Sequence[str]) -> None:
        """Raises DataError where a line within a quoted text is itself a row, with a file named as in this one."""
        index = self._indices[0] or 0
        for part in (part for field in fields for part in field.splitlines()[1:]):
            cells = next(csv.reader([part], delimiter=self._delimiter), [])
            if len(cells) == len(self.header) and _are_alike(cells[index].strip(), fields[index].strip()):
                raise DataError(
                    f"{self.path} line {line} begins a quoted text that holds a row: {quoted(part)}",
                    hint="a quote is not closed there",
                )

    def _does_not_fit(self, line: int, fields: Sequence[str], num_lines: int) -> DataError:
        begins = f"begins, over {num_lines} lines, a row that " if num_lines > 1 else ""
        return DataError(
            f"{self.path} line {line} {begins}has {len(fields)} fields, its header {len(self.header)}",
            hint="a quote is not closed there" if num_lines > 1 else "texts that contain commas must be quoted",
        )


def table_objects(path: Path, *, delimiter: str = ",") -> Iterator[tuple[int, dict[str, str]]]:
    """Line and cells by column of each row of a csv file; an empty cell is not there. What gives the most columns
    splits rows. Raises DataError as `Table` does, and where the header stands among the rows again, or not at all."""
    header = Table(path, columns=(), delimiter=delimiter).header
    if not header:
        raise DataError(f"{path} cannot be read as a csv file: it is empty", hint="its first line names the columns")
    table = Table(path, columns=_plain(header), delimiter=delimiter)
    for line, cells in table:
        yield line, {name: cell for name, cell in zip(table.header, cells, strict=True) if cell}
    if table.repeated:
        raise DataError(f"{path} repeats its header on {_some(table.repeated)}", hint="delete what is no row")


def _are_alike(name: str, other: str) -> bool:
    """Whether two cells name files in the same way: by a name with this suffix, or a number."""
    one, another = _FILE.fullmatch(name), _FILE.fullmatch(other)
    return one is not None and another is not None and one["suffix"] == another["suffix"]


def _some(lines: Sequence[int]) -> str:
    """`line 4`, `lines 4 and 9`, `lines 4, 9 and 210 others`."""
    if len(lines) == 1:
        return f"line {lines[0]}"
    last = f"{len(lines) - 2} others" if len(lines) > 3 else str(lines[-1])
    return f"lines {', '.join(map(str, lines[: 2 if len(lines) > 2 else 1]))} and {last}"


def unused_note(what: str, names: Iterable[str], path: Path) -> Iterator[str]:
    """`columns start, end of c.csv are not used`, if there are any."""
    if names := list(names):
        many = len(names) > 1
        yield f"{what}{'s' * many} {', '.join(names)} of {path.name} {'are' if many else 'is'} not used"


def _header(path: Path, first: Sequence[str], columns: Sequence[Column], delimiter: str) -> tuple[str, tuple[str, ...]]:
    """What splits the rows, and the names in the first line: what gives all `columns`, or where none is asked for, most
    names. Raises ColumnsError where none gives all `columns`."""
    headers: dict[str, tuple[str, ...]] = {}
    for split in dict.fromkeys((delimiter, *_DELIMITERS)):
        try:
            fields = next(csv.reader(first[-1:], delimiter=split, strict=True, skipinitialspace=True), [])
        except csv.Error:
            fields = list(first[-1:])
        headers[split] = tuple(name.strip() for name in fields)
        if columns and not _missing(headers[split], columns):
            return split, headers[split]
    if not columns:
        return max(headers.items(), key=lambda one: len(one[1]))
    header = headers[delimiter]
    raise ColumnsError(path, header, _missing(header, columns), columns)


def _missing(header: Sequence[str], columns: Sequence[Column]) -> list[Column]:
    there = set(_plain(header))
    return [column for column in columns if there.isdisjoint(_names(column))]


def _names(column: Column) -> tuple[str, ...]:
    return (column,) if isinstance(column, str) else column


def _plain(names: Sequence[str]) -> list[str]:
    """As they compare: `Time Start` is `time_start`."""
    return [re.sub(r"[\s-]+", "_", name.strip().casefold()) for name in names]


def _column_index(path: Path, header: Sequence[str], column: Column) -> int | None:
    plain = _plain(header)
    name = next((name for name in _names(column) if name in plain), None)
    if name is None:
        return None
    if plain.count(name) > 1:
        raise DataError(f"{path} names the column {name} twice: {', '.join(header)}", hint="rename one of them")
    return plain.index(name)


def split_lines(path: Path, *, delimiter: str) -> Iterator[Row]:
    """The cells of each line that is not blank; a quote is a letter like others. Raises DataError as `text_lines`."""
    for line, fields, _ in _records(path, _lines(path), delimiter, quoted=False):
        yield Row(line, tuple(field.strip() for field in fields))


def _records(
    path: Path, lines: Iterable[str], delimiter: str, *, quoted: bool = True
) -> Iterator[tuple[int, list[str], int]]:
    """The line where each row begins, its fields, and how many lines it has. Strict: without it an open quote would
    swallow all lines up to the next one."""
    reader = csv.reader(
        lines,
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        strict=True,
        skipinitialspace=True,
    )
    before = 0
    try:
        for fields in reader:
            if len(fields) > 1 or "".join(fields).strip():
                yield before + 1, fields, reader.line_num - before
            before = reader.line_num
    except csv.Error as error:
        reason = "a quote is not closed" if "unexpected end" in str(error) else str(error)
        raise DataError(
            f"{path} cannot be read as a csv file: {reason}, in the row that begins on line {before + 1}",
            hint='a text in quotes ends with a quote, and a quote within is written twice: "a 6"" pipe"',
        ) from error


# --- json


class _RepeatedKeyError(ValueError):
    """An object of a json file says a thing twice."""


def read_json(path: Path, *, each: Each | None = None) -> Any:
    """A json file. `each` replaces every object in it as soon as it is read, innermost first: ten million dicts
    would fill the memory. Raises DataError where the file cannot be read, or an object has a key twice."""
    text = read_text(path)
    try:
        return _parse_json(text, each)
    except (ValueError, RecursionError) as error:
        one_a_line = "Extra data" in str(error) and text.lstrip().startswith("{")
        raise DataError(
            f"{path} cannot be read as a JSON file: {error}",
            hint="if it has one object a line, call it .jsonl" if one_a_line else None,
        ) from error


def read_json_lines(path: Path, *, each: Each | None = None) -> Iterator[tuple[int, object]]:
    """Line number and content of each line of a file with one json object a line. Raises DataError as `read_json`."""
    for line, (text,) in text_lines(path):
        try:
            yield line, _parse_json(text, each)
        except (ValueError, RecursionError) as error:
            why = f"{error.msg} at letter {error.colno}" if isinstance(error, json.JSONDecodeError) else error
            raise DataError(f"{path} line {line} cannot be read as one JSON object a line: {why}") from error


def _parse_json(text: str, each: Each | None) -> Any:
    def made(pairs: list[tuple[str, Any]]) -> object:
        entry = dict(pairs)
        if len(entry) < len(pairs):
            key, _ = Counter(name for name, _ in pairs).most_common(1)[0]
            said = " and ".join(str(value)[:60] for name, value in pairs if name == key)
            raise _RepeatedKeyError(clean(f"an object says {key!r} twice: {said[:150]}"))
        return each(entry) if each else entry

    return json.loads(text, object_pairs_hook=made)

"""Files that name the classes of a set: a name a line, numbered lines, csv, json. Read rightly or refused: a list that
is taken for another kind shifts every class."""

from __future__ import annotations

import csv
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_prep.tables.table import Row, clean, read_json, text_lines, whole_number
from umt_ds.errors import DataError, quoted, shown

_HINT = "one class name a line, in the order of the numbers; or `number,name` with the numbers from 0"
_BETWEEN = r"(?:\s*(?:[,;:\t|=)]|[-=]>)\s*|\s+)"  # a number and a name
_NUMBER = r"(?P<number>-?\d{1,9}(?:\.0*)?)"  # pandas writes 0.0
_NUMBERED = (
    re.compile(rf"{_NUMBER}{_BETWEEN}(?P<name>\S.*)"),  # 0,abseiling
    re.compile(rf"(?P<name>.*[^\s,;:|=>]){_BETWEEN}{_NUMBER}"),  # abseiling 0
)
_SET_OFF = re.compile(rf"{_NUMBER}\s*(?:[,;:\t|=)]|[-=]>)")
_NO_NAME = re.compile(r"#.*|.*[{}].*|- .*|.*,")  # a comment, or a line of another kind of file
# what the first line of a table says where the others have classes
_HEADER_WORDS = {
    *("id", "idx", "index", "number", "name", "names", "label", "labels", "labelname"),
    *("class", "classes", "classname", "category", "categories"),
}


def read_class_list(path: Path) -> tuple[str, ...]:
    """The class names in the order of their numbers.

    The file has one name a line; or each line the number too, before or behind the name, with a header or without;
    or it is json: a list of names, {"name": number} or {"number": "name"}.
    Raises DataError where it cannot be told what the file means, or the numbers are not 0, 1, 2, … each once.
    """
    rows = list(text_lines(path))
    if path.suffix.lower() == ".json" or _is_json(rows):
        names = _of_json(read_json(path), path)
    else:
        names = (_numbered(path, rows) or _one_a_line(path, rows)) if rows else ()
    if not names:
        raise DataError(f"class list {path} is empty", hint=_HINT)
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise _twice(path, repeated[0], rows)
    return names


def _twice(path: Path, name: str, rows: Sequence[Row]) -> DataError:
    """The error for a name of two classes, with its lines; json may have all on one line."""
    lines = [line for line, (text,) in rows if name in _names_in(_unquoted(text))]
    if len(lines) < 2:
        return DataError(f"class list {path} names {quoted(name)} twice", hint="each class has a name of its own")
    return DataError(
        f"class list {path} line {lines[1]} names {quoted(name)}, as line {lines[0]} does",
        hint="each class has a name of its own",
    )


def _names_in(line: str) -> set[str]:
    """The names that a line may have: all of it, or what stands beside a number; without the marks of json."""
    numbered = {class_name(match["name"]) for form in _NUMBERED if (match := form.fullmatch(line))}
    return {class_name(line), class_name(line.strip(" ,[]")), *numbered}


def class_name(text: str) -> str:
    """A class as it is called everywhere: without quotes around it, and é as one character (macOS writes two)."""
    name = clean(text)
    if len(name) > 2 and name[0] == name[-1] == '"' and '"' not in name[1:-1].replace('""', ""):
        name = name[1:-1].replace('""', '"').strip()
    return unicodedata.normalize("NFC", name)


def _is_json(rows: Sequence[Row]) -> bool:
    """A name may begin with a bracket: `[Something] falling like a feather or paper`."""
    if not rows or rows[0].cells[0][0] not in "[{":
        return False
    try:
        json.loads("\n".join(text for _, (text,) in rows))
    except (ValueError, RecursionError):
        return False
    return True


def _of_json(content: object, path: Path) -> tuple[str, ...]:
    if isinstance(content, list) and all(isinstance(name, str) and name.strip() for name in content):
        return tuple(map(class_name, content))
    entries = list(content.items()) if isinstance(content, dict) else []
    for pairs in (entries, [(name, number) for number, name in entries]):
        numbered = [
            (number, class_name(name))
            for name, text in pairs
            if isinstance(name, str) and name.strip() and (number := whole_number(text)) is not None
        ]
        if len(numbered) == len(entries) > 0:
            return _by_number(numbered, path)
    raise DataError(
        f"class list {path} is JSON, but no list of classes: {shown(str(content), 80)}",
        hint='it must say ["name", …] or {"name": number, …}',
    )


def _numbered(path: Path, rows: Sequence[Row]) -> tuple[str, ...]:
    """The names of lines that all have a number, but for a header; empty where the lines are no such ones."""
    lines = [_unquoted(text) for _, (text,) in rows]
    forms = [
        {
            index: (int(float(match["number"])), class_name(match["name"]))
            for index, match in enumerate(matches)
            if match
        }
        for matches in (map(form.fullmatch, lines) for form in _NUMBERED)
    ]
    first = 1 if _is_header(lines) and not any(0 in pairs for pairs in forms) else 0
    found = [list(pairs.values()) for pairs in forms if len(pairs) == len(lines) - first and _are_of_classes(pairs)]
    if not found and len(forms[0]) == len(lines) - first and _counts_lines(lines[first:], list(forms[0].values())):
        found = [list(forms[0].values())]
    if not found:
        for pairs in forms:
            _check_not_forgotten(path, rows, pairs, first)
        return ()
    right = next((pairs for pairs in found if _are_numbers_of_classes(pairs)), found[0])
    _check_columns(path, rows[0].cells[0], [name for _, name in right])
    return _by_number(right, path)


def _are_of_classes(pairs: Mapping[int, tuple[int, str]]) -> bool:
    """Whether the numbers are those of the classes, and do not belong to their names: `digit 0`, `digit 1`."""
    names = {name for _, name in pairs.values()}
    return len(names) == len(pairs) or (len(names) > 1 and _are_numbers_of_classes(list(pairs.values())))


def _counts_lines(lines: Sequence[str], pairs: Sequence[tuple[int, str]]) -> bool:
    """Whether the number before each name is that of its class, although a name occurs twice: it is set off by a mark
    (`0,walk`), or counts from 0 or 1. `5 push-ups` and `10 push-ups` are names."""
    numbers = [number for number, _ in pairs]
    return all(map(_SET_OFF.match, lines)) or any(numbers == list(range(a, a + len(numbers))) for a in (0, 1))


def _check_not_forgotten(path: Path, rows: Sequence[Row], pairs: Mapping[int, tuple[int, str]], first: int) -> None:
    """Raises DataError where most lines have their own number and another one has none."""
    counted = sum(abs(number - index) <= 1 for index, (number, _) in pairs.items())
    if _are_of_classes(pairs) and counted >= max(2, len(rows) / 2):
        line, (text,) = next(row for index, row in enumerate(rows) if index >= first and index not in pairs)
        raise DataError(f"class list {path} line {line} has no number, unlike most others: {quoted(text)}", hint=_HINT)


def _is_header(lines: Sequence[str]) -> bool:
    return len(lines) > 1 and bool(_HEADER_WORDS & set(re.split("[^a-z]+", lines[0].lower())))


def _unquoted(line: str) -> str:
    """`0,"a, b"` as `0,a, b`."""
    for split in (",", "\t", ";") if '"' in line else ():
        try:
            fields = next(csv.reader([line], delimiter=split, strict=True, skipinitialspace=True))
        except csv.Error:
            continue
        if len(fields) == 2:
            return split.join(fields)
    return line


def _check_columns(path: Path, first: str, names: Sequence[str]) -> None:
    """Raises DataError where there is more in each line than a number and a name."""
    for split in "\t;|,":
        if len(first.split(split)) > 2 and all(split in name for name in names):
            raise DataError(f"class list {path} has more than two columns; it begins with {quoted(first)}", hint=_HINT)


def _are_numbers_of_classes(pairs: Sequence[tuple[int, str]]) -> bool:
    return sorted(number for number, _ in pairs) == list(range(len(pairs)))


def _by_number(pairs: Sequence[tuple[int, str]], path: Path) -> tuple[str, ...]:
    if not _are_numbers_of_classes(pairs):
        last = len(pairs) - 1
        raise DataError(
            f"class list {path}: the numbers of its {len(pairs)} classes are not 0 to {last}, each once: "
            f"they are {', '.join(str(number) for number, _ in sorted(pairs)[:5])}, …",
            hint="classes are numbered from 0, without gaps",
        )
    return tuple(name for _, name in sorted(pairs))


def _one_a_line(path: Path, rows: Sequence[Row]) -> tuple[str, ...]:
    for line, (text,) in rows:
        if _NO_NAME.fullmatch(text) or (len(rows) == 1 and re.search("[,;\t]", text)):
            raise DataError(f"class list {path} line {line} is no class name: {text[:80]!r}", hint=_HINT)
    names = tuple(class_name(text) for _, (text,) in rows)
    words = set(re.split("[^a-z]+", names[0].lower())) - {""} if len(names) > 1 else set()
    if words and words <= _HEADER_WORDS:
        raise DataError(
            f"class list {path} line {rows[0].line} says {names[0]!r}: is this a header, or a class?",
            hint="leave the header out; " + _HINT,
        )
    return names

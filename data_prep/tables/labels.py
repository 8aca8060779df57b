"""What the label cells of a table mean: names of classes, or their numbers; and which class has which number."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path

from data_prep.tables.class_list import class_name, read_class_list
from data_prep.tables.table import NUMBER, whole_number
from umt_ds.errors import DataError, some

MAX_CLASSES = 100_000
NO_LABEL = -1  # what most training code writes where there is none
_NO_NAME = re.compile(
    rf"{NUMBER.pattern}|nan"
    r"|[+-]?\d+(?:[_,;|'\u00a0\u202f]\d+)+|\u2212\d+"  # 1,000, several numbers, a printed minus
    rf"|(?:tensor)?[(\['\"]\s*(?:{NUMBER.pattern})\s*[)\]'\"]",  # '3', [3], tensor(3)
    re.IGNORECASE,
)  # is a number, or wants to be one: sorted as text, 10 would come before 2
_SIDE = re.compile(r"\b(?:left|right)\b")


@dataclass(frozen=True)
class Labels:
    """The classes of a set, in the order of their numbers."""

    names: tuple[str, ...] = ()

    def number(self, name: str, *, where: str = "") -> int:
        """The number of a class. Raises DataError, with the nearest name, where there is no such class.

        where: in which line of which file the name stands, for the error."""
        try:
            return self._numbers[name]
        except KeyError:
            near = get_close_matches(name, self.names, n=1)
            raise DataError(
                f"{where + ': ' if where else ''}label {name!r} is not in the class list of {len(self.names)} classes",
                hint=f"nearest: {near[0]!r}" if near else "give the list that belongs to these labels",
            ) from None

    @cached_property
    def are_numbers(self) -> bool:
        """Whether the names are numbers themselves."""
        return any(_NO_NAME.fullmatch(name) for name in self.names)

    def has(self, name: str) -> bool:
        """Whether there is a class of this name."""
        return name in self._numbers

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}


@dataclass(frozen=True)
class Numbering:
    """The classes of a set, and which of them each label cell means; None where it means that there is no label."""

    names: tuple[str, ...]
    meant: Mapping[str, int | None]

    def label(self, cell: str) -> int | None:
        """The number of the class."""
        return self.meant[cell] if cell else None

    def label_name(self, cell: str) -> str | None:
        """Its name."""
        label = self.label(cell)
        return None if label is None else self.names[label]

    @property
    def notes(self) -> tuple[str, ...]:
        """What is doubtful in it."""
        numbers = {number for cell, number in self.meant.items() if number is not None and number == whole_number(cell)}
        starts_at_1 = len(numbers) > 1 and min(numbers) == 1
        return ("no label is 0, some are 1: does the table count from 1?",) if starts_at_1 else ()


def number_labels(
    cells: Mapping[str, str], *, used: Collection[str] | None = None, classes: Path | None = None
) -> Numbering:
    """What the label cells of one column mean. All of them are names of classes, or all are whole numbers.

    Whole numbers keep their values; -1 is no label. Names are numbered as in the file `classes`, else sorted; with
    that file numbers are those of its classes. cells: where each of them stands first, such as `l.csv line 2`.
    used: the cells that become labels of clips, if not all do: only they make classes.
    Raises DataError, with the line, where a cell is neither, or no class.
    """
    cells = {cell: where for cell, where in cells.items() if cell}
    if classes is not None:
        return _given(cells, Labels(read_class_list(classes)))
    numbers = {cell: class_number(cell, where) for cell, where in cells.items() if _NO_NAME.fullmatch(cell)}
    named = [cell for cell in cells if cell not in numbers]
    if named:
        if number := next((cell for cell, number in numbers.items() if number is not None), None):
            raise _mixed(cells, number, named[0])
        names = sorted({class_name(cell) for cell in named if used is None or cell in used})
        number_of = {name: number for number, name in enumerate(names)}
        return Numbering(tuple(names), {cell: number_of.get(class_name(cell)) for cell in cells})
    of_clips = [number for cell, number in numbers.items() if used is None or cell in used]
    return Numbering(names_of_numbers(of_clips), numbers)


def class_number(cell: str, where: str) -> int | None:
    """The class that a number stands for; None for -1. Raises DataError where it is no number of a class."""
    number = whole_number(cell)
    if number is None or not NO_LABEL <= number < MAX_CLASSES:
        shown = cell if number is None else number
        raise DataError(
            f"{where}: label {shown} is no class number",
            hint="classes are whole numbers from 0; -1 or nothing means no label",
        )
    return None if number == NO_LABEL else number


def is_no_label(cell: str) -> bool:
    """Whether a cell says that there is no label."""
    return not cell or whole_number(cell) == NO_LABEL


def is_same_label(cell: str, other: str) -> bool:
    """Whether two cells mean one class: `2` and `2.0`."""
    number = whole_number(cell)
    return class_name(cell) == class_name(other) or (number is not None and number == whole_number(other))


def names_of_numbers(numbers: Iterable[int | None]) -> tuple[str, ...]:
    """The names of classes of which only the numbers are known: `0`, `1`, … up to the largest."""
    return tuple(map(str, range(max((number for number in numbers if number is not None), default=-1) + 1)))


def _given(cells: Mapping[str, str], given: Labels) -> Numbering:
    """What cells mean where the class list is given. A cell is looked up as a name first."""
    meant: dict[str, int | None] = {}
    by_number = ""
    for cell, where in cells.items():
        name = class_name(cell)
        if given.has(name) or not _NO_NAME.fullmatch(cell):
            meant[cell] = given.number(name, where=where)
        else:
            meant[cell] = _number_of(cell, where, given)
            by_number = by_number if meant[cell] is None or given.are_numbers else cell
    named = [cell for cell in cells if given.has(class_name(cell))]
    if by_number and named:
        raise _mixed(cells, by_number, named[0])
    return Numbering(given.names, meant)


def _number_of(cell: str, where: str, given: Labels) -> int | None:
    """The number of the class that a number means. Classes that are called 0, 1, … are meant by their names."""
    number = class_number(cell, where)
    if number is None:
        return None
    if given.are_numbers:
        called = [index for index, name in enumerate(given.names) if whole_number(name) == number]
        return called[0] if len(called) == 1 else given.number(cell, where=where)
    if number >= len(given.names):
        raise DataError(
            f"{where}: label {number} is beyond the {len(given.names)} classes given",
            hint="classes are numbered from 0" if number == len(given.names) else "give the list's own classes",
        )
    return number


def _mixed(cells: Mapping[str, str], number: str, name: str) -> DataError:
    return DataError(
        f"{cells[number]}: label {number!r} is a number, but {name!r} ({cells[name]}) is a name",
        hint="labels are all names, or all numbers of classes",
    )


def two_labels(disagree: Sequence[str]) -> DataError:
    """The error for rows that give a file another label than an earlier row: each is told in a clause."""
    more = f"; {len(disagree):,} rows in all, such as {some(disagree[1:], 3, each=150)}" if len(disagree) > 1 else ""
    return DataError(f"{disagree[0]}{more}", hint="of the two rows of each file, remove one")


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

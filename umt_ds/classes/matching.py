"""Whether a label means the same class in two sets: the one rule, for heads, votes and probes.

Where both sets name their classes, these are matched by name. Where one of them does not, equal numbers are taken for
the same class, and a warning says that nobody can check it. What contradicts is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from umt_ds.classes import are_names, k710_spelling
from umt_ds.errors import DataError, quoted, some


@dataclass(frozen=True)
class ClassList:
    """The names of a set's classes, by label; none where it has no list. where: the set, for messages."""

    where: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClassMatch:
    """numbers: of each label of one set the label of the same class in another; None: labels are matched by number.
    warning: what nobody could check; None where there is nothing to say."""

    numbers: tuple[int, ...] | None
    warning: str | None = None

    @property
    def way(self) -> str:
        """For the protocol of a score."""
        return "by number" if self.numbers is None else "by name"

    def number_of(self, label: int) -> int:
        return label if self.numbers is None else self.numbers[label]


def match_classes(field: str, *, known: ClassList, asked: ClassList) -> ClassMatch:
    """What the labels of the set `asked` are in the set `known`. Raises DataError where that lacks a class that `asked`
    lists: no clip of it could be named rightly."""
    numbers = numbers_in(known.names, asked.names)
    if numbers is None:
        unnamed, named = (asked, known) if are_names(known.names) else (known, asked)
        return ClassMatch(None, matched_by_number([unnamed.where], named.where) if are_names(named.names) else None)
    lacking = [quoted(name) for name, number in zip(asked.names, numbers, strict=True) if number is None]
    if lacking:
        raise DataError(
            f"{asked.where}: {len(lacking)} of its {len(numbers)} classes ({field}) are not in the class list of "
            f"{known.where}: {some(lacking)}",
            hint="name sets of the same classes",
        )
    return ClassMatch(tuple(number for number in numbers if number is not None))


def numbers_in(known: Sequence[str], asked: Sequence[str]) -> tuple[int | None, ...] | None:
    """Of each class of the list `asked`, its number in the list `known`, matched by name: None for one that is not
    there. None for all where one of the lists has no names, and numbers are all that there is to match.

    >>> numbers_in(["run", "sit", "eat"], ["run", "eat", "fly"])
    (0, 2, None)
    >>> numbers_in(["run", "sit"], ["0", "1"])
    """
    if not (are_names(known) and are_names(asked)):
        return None
    spelt = [k710_spelling(name) for name in known]
    number_of = {name: number for number, name in reversed([*enumerate(spelt)])}
    return tuple(
        # at its own place first: old sets may list a name twice
        number if number < len(spelt) and spelt[number] == name else number_of.get(name)
        for number, name in enumerate(map(k710_spelling, asked))
    )


def matched_by_number(unnamed: Sequence[str], named: str) -> str:
    """The warning where some sets do not name their classes, and what they are held against has names."""
    return (
        f"{len(unnamed)} set(s) do not name their classes, so labels are matched by number, and nobody can check that "
        f"label 0 means the same in them and in {named}: {some(unnamed, each=200)}"
    )

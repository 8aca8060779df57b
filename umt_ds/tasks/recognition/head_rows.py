"""Which rows of a trained head make a head for other classes: by the names of the classes, else by published order.

Source: METHOD.md, "Recognition: model".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from umt_ds.classes import ClassList, classes, k710_spelling
from umt_ds.errors import some
from umt_ds.tasks.recognition.classes import HeadClasses

NEW = -1  # in place of a row: there is none for this class

# Heads of so many rows were published, and no file says what its rows mean.
_PUBLISHED: dict[int, ClassList] = {400: "k400", 600: "k600", 700: "k700", 710: "k710"}


@dataclass(frozen=True)
class HeadRows:
    """rows: for each row of the new head one of the trained head, or `NEW`. told: how they were found. doubt: why that
    may be wrong, if anybody has to know."""

    rows: tuple[int, ...]
    told: str
    doubt: str | None = None


def choose_rows(trained: HeadClasses, head: HeadClasses) -> HeadRows:
    """The rows of a `trained` head that make a `head` for other classes.

    By name where both are named. A head of as many rows as Kinetics has classes (400, 600, 700, 710) is taken for a
    published one if nobody named its rows, and what is asked for are classes of Kinetics. Else a head of as many rows
    is kept as it is. What fits nothing begins anew.
    """
    asked, published = _names_asked(trained, head), _PUBLISHED.get(trained.count)
    if trained.are_named and asked:
        return _by_name(trained.names, asked)
    if asked and published is not None and (trained.count != head.count or _are_of_kinetics(asked)):
        return _as_published(published, asked)
    if trained.count == head.count:
        return _as_they_are(trained, head)
    why = f"which of its {trained.count} rows are the {head.count} classes here, nobody says"
    return HeadRows((NEW,) * head.count, why, doubt=f"the head begins anew: {why}")


def place_rows(trained: Tensor, fresh: Tensor, rows: Sequence[int]) -> Tensor:
    """A copy of `fresh` with the trained rows in their places: [C',…] and [C,…] → [C,…]. rows: as in `HeadRows`."""
    placed = fresh.detach().clone()
    taken = [(here, there) for here, there in enumerate(rows) if there != NEW]
    if taken:
        here, there = (list(numbers) for numbers in zip(*taken, strict=True))
        placed[here] = trained[there].to(placed)
    return placed


def _names_asked(trained: HeadClasses, head: HeadClasses) -> tuple[str, ...]:
    """What the rows of the new head are called. Where nobody says it, and a head of Kinetics-710 is cut down to one of
    400, 600 or 700 rows: the classes of that set, in the order of published heads."""
    if head.are_named:
        return head.names
    is_cut = trained.count == 710 and head.count in _PUBLISHED and head.count != 710
    return classes(_PUBLISHED[head.count]) if is_cut else ()


def _as_published(published: ClassList, asked: Sequence[str]) -> HeadRows:
    found = _by_name(classes(published), asked)
    if set(found.rows) == {NEW}:
        return found
    doubt = (
        f"nobody named the {len(classes(published))} rows of its head: they are taken to be in the order of published "
        f"heads of Kinetics (umt_ds/classes/{published}.txt)"
    )
    told = f"its rows are taken to be in the order of published heads; {found.told}"
    return HeadRows(found.rows, told, doubt)


def _by_name(there: Sequence[str], asked: Sequence[str]) -> HeadRows:
    number_of = {k710_spelling(name): number for number, name in enumerate(there)}
    number_of |= {name: number for number, name in enumerate(there)}
    rows = tuple(number_of.get(name, number_of.get(k710_spelling(name), NEW)) for name in asked)
    missing = [name for name, row in zip(asked, rows, strict=True) if row == NEW]
    if len(missing) == len(asked):
        why = f"none of the classes of its {len(there)} rows is one of the {len(asked)} here"
        return HeadRows(rows, why, doubt=f"the head begins anew: {why}")
    if rows == tuple(range(len(there))):
        return HeadRows(rows, f"all {len(rows)} rows, of the same classes")
    told = f"{len(rows) - len(missing)} of its {len(there)} rows, put in their places by the names of the classes"
    if not missing:
        return HeadRows(rows, told)
    new = f"{len(missing)} of the classes have no row there and begin anew: {some(missing)}"
    return HeadRows(rows, f"{told}; {new}", doubt=f"head: {new}")


def _as_they_are(trained: HeadClasses, head: HeadClasses) -> HeadRows:
    """As many rows, and nobody knows whether they stand for the same classes."""
    unnamed = [where for one, where in ((trained, "there"), (head, "here")) if not one.are_named]
    doubt = (
        f"the {head.count} rows of the head are kept as they are: classes have no names {' and '.join(unnamed)}, so "
        "nobody can check that they are in the same order"
    )
    return HeadRows(tuple(range(head.count)), f"all {head.count} rows as they are", doubt)


def _are_of_kinetics(names: Iterable[str]) -> bool:
    return {k710_spelling(name) for name in names} <= set(classes("k710"))

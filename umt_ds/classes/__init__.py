"""The class lists of Kinetics-400, -600, -700 and -710 in the order of published heads. README.md says where from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Literal

from umt_ds.errors import DataError

ClassList = Literal["k400", "k600", "k700", "k710"]


@cache
def classes(name: ClassList) -> tuple[str, ...]:
    """The classes of a list, in the order in which published UMT heads number them.

    k400, k600 and k700 are spelled as in the official csv files, k710 as in the newest set that has the class.
    """
    return tuple(files(__name__).joinpath(f"{name}.txt").read_text(encoding="utf-8").splitlines())


def k710_number(name: str, *, where: str = "") -> int:
    """The K710 number of a class, in any of the spellings of the three sets. Raises DataError where there is none;
    that error says `where` the name stands."""
    spelt = k710_spelling(name)
    if (number := _k710().get(spelt)) is not None:
        return number
    near = get_close_matches(spelt, _k710(), n=1)
    raise DataError(
        f"{where + ': ' if where else ''}label {name!r} is not in the class list of {len(_k710())} classes",
        hint=f"nearest: {near[0]!r}" if near else "give the list that belongs to these labels",
    )


def k710_numbers(names: Iterable[str]) -> list[int]:
    """The rows of a K710 head that make a head for `names`, in their order: `head710[k710_numbers(classes("k600"))]`.

    The first 400 rows are the head for `classes("k400")`. Raises DataError as `k710_number` does.
    """
    return [k710_number(name) for name in names]


def k710_spelling(name: str) -> str:
    """The K710 name of a class that a Kinetics set spells otherwise; of others their name."""
    return _spellings().get(name, name)


def are_names(listed: Sequence[str]) -> bool:
    """Whether a class list says what the classes are: not where it is empty, or says 0, 1, … (as `umt-data` writes it
    where labels came as numbers)."""
    return list(listed) != [str(number) for number in range(len(listed))]


def is_same_class(one: str, other: str) -> bool:
    """Whether two names are one class: equal, or two spellings of the Kinetics sets."""
    return k710_spelling(one) == k710_spelling(other)


def first_difference(names: Sequence[str], other: Sequence[str]) -> tuple[int, str, str] | None:
    """The first number that two class lists give to different classes, with both names; beyond the shorter of them
    nothing is compared."""
    pairs = enumerate(zip(names, other, strict=False))
    return next(((number, *pair) for number, pair in pairs if not is_same_class(*pair)), None)


@cache
def _k710() -> Mapping[str, int]:
    return {name: number for number, name in enumerate(classes("k710"))}


@cache
def _spellings() -> dict[str, str]:
    """The K710 names of classes that a set calls otherwise."""
    text = files(__name__).joinpath("k710_spellings.json").read_text(encoding="utf-8")
    return dict(json.loads(text))

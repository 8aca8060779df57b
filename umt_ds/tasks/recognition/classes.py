"""How many classes a run tells apart, and what they are called: its settings and the class lists of its sets say."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from umt_ds.classes import are_names, first_difference, k710_spelling
from umt_ds.classes.matching import ClassList, matched_by_number, numbers_in
from umt_ds.config.run import RunConfig
from umt_ds.config.tasks.recognition import RecognitionConfig
from umt_ds.data.shards.manifest import load_manifest
from umt_ds.data.shards.storage import as_path
from umt_ds.data.shards.stream import Tars
from umt_ds.distributed.collectives import is_first_rank
from umt_ds.errors import ConfigError, UmtError, quoted, some
from umt_ds.tasks.sources import shards_of

log = logging.getLogger("umt_ds")


@dataclass(frozen=True)
class HeadClasses:
    """count: rows of the head. names: of all rows, in their order; none where nobody names them. unchecked: the sets of
    which nobody can check what their labels mean, since they do not name their classes."""

    count: int
    names: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()

    @property
    def are_named(self) -> bool:
        """Whether the names say what a class is: a set that was made of bare numbers calls its classes 0, 1, …"""
        return are_names(self.names)


def head_classes(run: RunConfig, known: Sequence[str] = ()) -> HeadClasses:
    """The classes of a run's head.

    They are those of the first source that names its classes, and all others must name the same. known: of the
    checkpoint that is judged, which come first: its training sets may be elsewhere. Where no source can be read, the
    first evaluation set with names says them.

    Raises ConfigError where the lists differ, have but one class, or are not as many as task.classes, or where nothing
    says how many there are; DataError where that is because no source can be read.
    """
    asked = _settings(run).classes
    lists = [ClassList("the checkpoint", tuple(known))] if known else _lists_of(run)
    for one in lists:
        _refuse_twice(one)
    first = next((one for one in lists if are_names(one.names)), None)
    head, head_is = (_of_numbers(lists, asked), "the head") if first is None else (_of_names(first, asked), first.where)
    if head.count == 1:
        where = some((one.where for one in lists), each=200)
        raise ConfigError(
            f"{where}: its class list has one class, and there is nothing to tell apart",
            hint="a set of two classes or more; task.label=FIELD, where another field holds the class",
        )
    for one in lists:
        check_class_list(one.names, head, where=one.where, head_is=head_is)
    return replace(head, unchecked=tuple(one.where for one in lists if not are_names(one.names)))


def _refuse_twice(listed: ClassList) -> None:
    """Raises ConfigError where one name has two numbers: which row of a head it is, nobody could say."""
    first: dict[str, int] = {}
    for number, name in enumerate(listed.names):
        if name in first:
            raise ConfigError(
                f"{listed.where}: classes {first[name]} and {number} of its class list are both {quoted(name)}",
                hint="make the set with a class list that names each class once (umt-data … --classes FILE)",
            )
        first[name] = number


def _of_names(first: ClassList, asked: int | None) -> HeadClasses:
    """The head for a list of names. asked: task.classes. Raises ConfigError where that is another number."""
    count = len(first.names)
    if asked not in (None, count):
        raise ConfigError(
            f"task.classes is {asked}, and the class list of {first.where} has {count} classes",
            hint=f"task.classes={count}, if that is the set that is meant",
        )
    return HeadClasses(count, first.names)


def _of_numbers(lists: Sequence[ClassList], asked: int | None) -> HeadClasses:
    """The head where no list has names: as many rows as task.classes says, or as the largest number asks for."""
    longest = max((one.names for one in lists), key=len, default=())
    count = asked or len(longest)
    if not count:
        where = lists[0].where if lists else "no set"
        raise ConfigError(
            f"task.classes: nobody says how many classes there are: {where} has no class list",
            hint="task.classes=400 sets it",
        )
    return HeadClasses(count, longest if len(longest) == count else ())


def warn_of_unchecked(head: HeadClasses) -> None:
    """Says, on the first rank, which sets do not name their classes."""
    if head.unchecked and is_first_rank():
        log.warning("%s", matched_by_number(head.unchecked, "the weights"))


def class_list_in(shards: Path | Tars, field: str) -> tuple[str, ...]:
    """The class list of the set that lies there, for a label field; none where it has none, as streamed tars.

    Raises DataError for what is no set.
    """
    return () if isinstance(shards, Tars) else load_manifest(shards).class_lists.get(field, ())


def check_class_list(names: Sequence[str], head: HeadClasses, *, where: str, head_is: str = "the head") -> None:
    """Raises ConfigError where the class list of a set is not that of a head: the first difference is named.

    where: begins the message, as in "evaluation.val.shards: /data/val". head_is: whose list the other one is. The
    spellings of the Kinetics sets are one class. Where one of them has numbers instead of names, as many as the head
    has rows is all that can be checked; a set without a list passes.
    """
    if not names:
        return
    numbers = numbers_in(head.names, names)
    if numbers is None:
        if len(names) > head.count:
            raise ConfigError(
                f"{where}: its class list has {len(names)} classes, and {head_is} has {head.count}",
                hint=f"a set with labels from 0 to {head.count - 1}",
            )
        return
    if numbers == tuple(range(head.count)):
        return
    raise ConfigError(
        f"{where}: {_difference(names, head.names, head_is)}",
        hint="a set whose labels count in the order of that list: umt-data … --classes FILE, its names, one a line",
    )


def _difference(names: Sequence[str], head: Sequence[str], head_is: str) -> str:
    """Where two lists that are not the same part."""
    counts = f"its class list has {len(names)} classes, that of {head_is} {len(head)}"
    if (first := first_difference(names, head)) is None:
        return counts
    what = f"class {first[0]} is {quoted(first[1])} in its class list, and {quoted(first[2])} in that of {head_is}"
    if sorted(map(k710_spelling, names)) == sorted(map(k710_spelling, head)):
        return f"{what}: the same {len(head)} classes in another order"
    return what if len(names) == len(head) else f"{what}; {counts}"


def _lists_of(run: RunConfig) -> list[ClassList]:
    """The class lists of the sources; where none of them can be read, of evaluation sets."""
    lists: list[ClassList] = []
    unread: UmtError | None = None
    for name, source in run.data.sources.items():
        try:
            names = class_list_in(shards_of(source), _settings(run).label)
        except UmtError as error:  # a run may be planned and judged where its training sets are not
            unread = unread or error
        else:
            lists.append(ClassList(f"data.sources.{name}: {some(source.names, each=200)}", names))
    if unread is None or lists:
        return lists
    lists = list(_lists_of_evaluations(run))
    if not lists and _settings(run).classes is None:
        raise unread
    return lists


def _lists_of_evaluations(run: RunConfig) -> Iterator[ClassList]:
    for name, settings in run.evaluation.items():
        try:
            names = class_list_in(as_path(settings.shards), _settings(run).label)
        except UmtError:  # whoever judges on it says so
            continue
        if names:
            yield ClassList(f"evaluation.{name}.shards: {settings.shards}", names)


def _settings(run: RunConfig) -> RecognitionConfig:
    assert isinstance(run.task, RecognitionConfig)
    return run.task

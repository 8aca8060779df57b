"""How many classes a run tells apart, and what they are called: its settings and the class lists of its sets say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from umt_ds.classes import k710_spelling
from umt_ds.config.run import RunConfig
from umt_ds.config.tasks.recognition import RecognitionConfig
from umt_ds.data.shards.records import Manifest, load_manifest
from umt_ds.data.shards.stream import Tars
from umt_ds.errors import ConfigError, DataError, quoted
from umt_ds.tasks.sources import first_clips, shards_of


@dataclass(frozen=True)
class HeadClasses:
    """count: rows of the head. names: of all rows, in their order; none where no set names them."""

    count: int
    names: tuple[str, ...] = ()


def head_classes(run: RunConfig) -> HeadClasses:
    """The classes of a run's head. Raises ConfigError where nothing says how many there are, and DataError where the
    sources do not agree."""
    task = run.task
    assert isinstance(task, RecognitionConfig)
    names = _names_of_sources(run, task)
    if task.classes is None and not names:
        raise ConfigError(
            "task.classes: nobody says how many classes there are: the first source has no class list",
            hint="task.classes=400 sets it",
        )
    return HeadClasses(task.classes or len(names), names)


def class_names(manifest: Manifest, field: str) -> tuple[str, ...]:
    """The class list of a set for a label field: of `label` its own; of `NAME_label`, what its options list as NAME."""
    if field == "label":
        return manifest.labels
    listed = manifest.options.get("classes")
    found = listed.get(field.removesuffix("_label")) if isinstance(listed, dict) else None
    return tuple(map(str, found)) if isinstance(found, list) else ()


def class_list_in(shards: Path | Tars, field: str) -> tuple[str, ...]:
    """The class list of the set that lies there, for a label field; none where it has none, as streamed tars.

    Raises DataError for what is no set.
    """
    return () if isinstance(shards, Tars) else class_names(load_manifest(shards), field)


def check_class_list(names: Sequence[str], head: Sequence[str], *, where: str, head_is: str = "the head") -> None:
    """Raises ConfigError where the class list of a set is not that of a head: the first difference is named.

    where: begins the message, as in "evaluation.val.shards: /data/val". head_is: whose list the other one is. The
    spellings of the Kinetics sets are one class. Where one of them has no names, nobody can check.
    """
    if not names or not head:
        return
    ours, theirs = [[k710_spelling(name) for name in one] for one in (names, head)]
    if ours == theirs:
        return
    raise ConfigError(
        f"{where}: {_difference(names, head, head_is, same_classes=sorted(ours) == sorted(theirs))}",
        hint="a set whose labels count in the order of that list: umt-data … --classes FILE, its names, one a line",
    )


def _difference(names: Sequence[str], head: Sequence[str], head_is: str, *, same_classes: bool) -> str:
    number, pair = next(
        ((number, pair) for number, pair in enumerate(zip(names, head, strict=False)) if not is_same_class(*pair)),
        (0, None),
    )
    counts = f"its class list has {len(names)} classes, that of {head_is} {len(head)}"
    if pair is None:
        return counts
    what = f"class {number} is {quoted(pair[0])} in its class list, and {quoted(pair[1])} in that of {head_is}"
    if same_classes:
        return f"{what}: the same {len(head)} classes in another order"
    return what if len(names) == len(head) else f"{what}; {counts}"


def is_same_class(one: str, other: str) -> bool:
    """Whether two names are one class: equal, or two spellings of the Kinetics sets."""
    return k710_spelling(one) == k710_spelling(other)


def _names_of_sources(run: RunConfig, task: RecognitionConfig) -> tuple[str, ...]:
    shards = shards_of(first_clips(run))
    if isinstance(shards, Tars):
        return ()
    try:
        return class_names(load_manifest(shards), task.label)
    except DataError:
        if task.classes is None:
            raise
        return ()

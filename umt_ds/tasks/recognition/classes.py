"""How many classes a run tells apart, and what they are called: its settings and the class lists of its sets say."""

from __future__ import annotations

from dataclasses import dataclass

from umt_ds.config.run import RunConfig
from umt_ds.config.tasks.recognition import RecognitionConfig
from umt_ds.data.shards.records import Manifest, load_manifest
from umt_ds.data.shards.stream import Tars
from umt_ds.errors import ConfigError, DataError
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

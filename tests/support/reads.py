"""Which settings of a run some code looks at: noted while it runs, by key path."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel

from umt_ds.config.run import RunConfig
from umt_ds.config.section import Section


def leaves_of(value: Any, path: str = "") -> Iterator[str]:
    """The key paths of all settings that a run has, defaults too."""
    if isinstance(value, dict) and value and all(isinstance(part, BaseModel) for part in value.values()):
        inside = value.items()
    elif isinstance(value, BaseModel):
        fields = type(value).model_fields
        inside = {field.alias or name: getattr(value, name) for name, field in fields.items()}.items()
    else:
        yield path
        return
    for key, part in inside:
        yield from leaves_of(part, f"{path}.{key}" if path else key)


@contextmanager
def noting_reads(run: RunConfig) -> Iterator[set[str]]:
    """The key paths of the settings that are read meanwhile. Who dumps a section reads all of it, but for the run."""
    places: dict[int, list[str]] = {}  # of a section: those that stand at their defaults are one object
    for section, path in _sections(run):
        places.setdefault(id(section), []).append(path)
    read: set[str] = set()

    def noting(section: Any, name: str) -> Any:
        fields = type(section).model_fields
        for path in places.get(id(section), ()):
            names = [name] if name in fields else fields if path and name in ("model_dump", "__iter__") else []
            read.update(f"{path}.{fields[one].alias or one}".removeprefix(".") for one in names)
        return object.__getattribute__(section, name)

    Section.__getattribute__ = noting  # type: ignore[method-assign]
    try:
        yield read
    finally:
        del Section.__getattribute__


def _sections(value: Any, path: str = "") -> Iterator[tuple[Section, str]]:
    if isinstance(value, Section):
        yield value, path
        for name, field in type(value).model_fields.items():
            yield from _sections(getattr(value, name), f"{path}.{field.alias or name}" if path else field.alias or name)
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from _sections(part, f"{path}.{name}")

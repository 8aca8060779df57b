"""Words of a command that takes runs and settings: RUN... [KEY=VALUE]..., and paths on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from umt_ds.data.shards.storage import is_url


class _Local(click.Path):
    """A path on this machine."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and is_url(value):  # Path would make a folder `s3:` of it
            self.fail(f"{value} is a URL, and has to be a path on this machine", param, ctx)
        return super().convert(value, param, ctx)


LOCAL_FILE = _Local(dir_okay=False, path_type=Path)
LOCAL_FOLDER = _Local(file_okay=False, path_type=Path)


def runs_in(words: Sequence[str], *, weights: str | None) -> list[str]:
    """The words that name runs. weights: those that take the place of a run's own. Raises click.UsageError."""
    names = [word for word in words if not _is_override(word)]
    if not all(names):
        raise click.UsageError("a RUN is empty text: is it a variable that is not set?")
    if not names:
        raise click.UsageError("Missing argument 'RUN...': which runs?")
    if weights is not None and len(names) > 1:
        raise click.UsageError("--weights takes the place of the weights of one RUN")
    return names


def overrides_in(words: Sequence[str]) -> list[str]:
    """The words that set a key."""
    return [word for word in words if _is_override(word)]


def _is_override(word: str) -> bool:
    return "=" in word and "/" not in word.partition("=")[0]

"""The options that several commands share, and what they become."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from data_prep.clip import ExecutionOptions, RunOptions, Store, StoreOptions, as_given
from umt_ds.data.shards.storage import as_path, is_local, kind_of
from umt_ds.errors import ConfigError

POSITIVE = click.IntRange(1)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


class _NewFile(click.ParamType[Path]):
    """A file to write, on disk or at a URL; on disk its folder is there."""

    name = "file"

    def convert(self, value: str | Path, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        found = as_path(value) if isinstance(value, str) else value
        if kind_of(found) == "folder":
            self.fail(f"{str(found)!r} is a folder", param, ctx)
        if is_local(found) and kind_of(found.parent) != "folder":
            self.fail(f"there is no folder {str(found.parent)!r}", param, ctx)
        return found


class _Place(click.ParamType[Path]):
    """A folder on disk or a URL that fsspec knows."""

    name = "folder"

    def __init__(self, *, exists: bool, or_file: bool = False) -> None:
        self._exists, self._or_file = exists, or_file

    def convert(self, value: str | Path, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        found = as_path(value) if isinstance(value, str) else value
        kind = kind_of(found)
        if self._or_file and kind == "file":
            return found
        if self._exists and kind != "folder":
            self.fail(f"there is no {'file or ' * self._or_file}folder {str(found)!r}", param, ctx)
        if not self._exists and kind == "file":
            self.fail(f"{str(found)!r} is a file", param, ctx)
        return found


class Number(click.FloatRange):
    """A number in a range. Click's own lets `nan` through, which is in none and passes every comparison, and `inf`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no number.", param, ctx)
        return number


NEW_FILE = _NewFile()
FOLDER = _Place(exists=True)
NEW_FOLDER = _Place(exists=False)
LIST = _Place(exists=True, or_file=True)  # an official csv, or a finished set

Command = Callable[..., None]


def cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


workers = click.option("--workers", default=cores(), type=POSITIVE, help="Processes.")
dry_run = click.option("--dry-run", is_flag=True, help="Say what would be done; write nothing.")
keys = click.option(
    "--keys",
    default="stem",
    type=click.Choice(["stem", "path"]),
    help="What samples are called by: the path without its suffix, or all of it, which no two files share.",
)
classes = click.option("--classes", type=FILE, help="Class names, one a line, in the order of their numbers.")


def run_options(command: Command) -> Command:
    """Options of how the work is done on a machine, given to `command` as one RunOptions, `run`."""

    @workers
    @click.option(
        "--timeout", default=RunOptions.timeout_s, type=Number(0.1), help="Seconds for a clip, or 1,000 frames of it."
    )
    @click.option("--memory", default=RunOptions.memory_gb, type=Number(0.5), help="GB for a process.")
    @click.option("--max-bad", default=RunOptions.max_bad, type=Number(0, 1), help="Share that may be bad.")
    @wraps(command)
    def wrapped(workers: int, timeout: float, memory: float, max_bad: float, **others: object) -> None:
        command(run=RunOptions(workers, timeout, max_bad, memory), **others)

    return wrapped


def before_options(command: Command) -> Command:
    """Options of what is left out before anything is decoded, given to `command` as one Before, `before`."""

    @click.option("--min-words", default=0, type=click.IntRange(0), help="Leave out captions of fewer words.")
    @click.option("--max-words", type=POSITIVE, help="Leave out captions of more words.")
    @click.option("--language", help="Leave out captions that are surely in another one than this, such as en.")
    @click.option("--min-seconds", default=0.0, type=Number(0), help="Leave out videos that say they are shorter.")
    @click.option("--max-seconds", type=Number(0, min_open=True), help="Leave out videos that say they are longer.")
    @click.option("--min-side", default=0, type=click.IntRange(0), help="Leave out files of a smaller short side.")
    @wraps(command)
    def wrapped(
        min_words: int,
        max_words: int | None,
        language: str | None,
        min_seconds: float,
        max_seconds: float | None,
        min_side: int,
        **others: object,
    ) -> None:
        from data_prep.sources.before import Before

        longest = Before.max_seconds if max_seconds is None else max_seconds
        command(before=Before(min_words, max_words, language, min_seconds, longest, min_side), **others)

    return wrapped


def store_options(command: Command) -> Command:
    """Options of what is stored, given to `command` as one StoreOptions, `store`."""
    default, quality_range = StoreOptions(), click.IntRange(1, 100)
    kinds = click.Choice(["frames", "npy", "mp4"])

    @click.option(
        "--store", "stored_as", default=default.store, type=kinds, help="JPEGs, one array, or H.264 as a whole."
    )
    @click.option("--frames", default=default.frames, type=POSITIVE, help="Per clip, evenly spread.")
    @click.option("--fps", type=Number(0, min_open=True), help="Frames a second, instead of --frames.")
    @click.option(
        "--views",
        multiple=True,
        help="Instead of --frames: exactly those that evaluation shows, by recognition:8x4 (4 clips of 8 frames), "
        "ssv2:8x2, retrieval:12, or all; repeat.",
    )
    @click.option("--short-side", default=default.short_side, type=POSITIVE, help="Pixels; smaller ones stay so.")
    @click.option("--quality", default=default.quality, type=quality_range, help="Of the JPEGs.")
    @click.option("--per-shard", default=default.per_shard, type=POSITIVE, help="Clips per shard.")
    @wraps(command)
    def wrapped(
        stored_as: Store,
        frames: int,
        fps: float | None,
        views: tuple[str, ...],
        short_side: int,
        quality: int,
        per_shard: int,
        **others: object,
    ) -> None:
        asked = _views_alone(views) if views else None
        command(store=StoreOptions(frames, short_side, quality, per_shard, stored_as, fps, asked), **others)

    return wrapped


def _views_alone(views: Sequence[str]) -> str:
    """What --views asks for. Raises ConfigError for what is no rule, or beside another choice of frames."""

    from umt_ds.data.order.views import views_text

    if others := given("frames", "fps"):
        raise ConfigError(
            f"--views says which frames are stored, and {' and '.join(others)} says others",
            hint="give one of them: a set for evaluation --views, one for training --frames or --fps",
        )
    return views_text(views)


def given(*names: str) -> list[str]:
    """The options among `names` that stand in the command line, as they were given."""
    context = click.get_current_context()
    here = [name for name in names if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    return [one for name in here for one in as_given(name, context.params[name])]


def say_unused(options: Sequence[str], *, without: str | None = None) -> None:
    """Say on stderr which options, as they were given, have no effect: here, or `without` another one."""
    if options:
        click.echo(f"without effect {f'without {without}' if without else 'here'}: {', '.join(options)}", err=True)


def where_options(command: Command) -> Command:
    """Options of where the work is done, given to `command` as one ExecutionOptions, `where`."""
    engines = click.Choice(["local", "slurm", "ray"])

    @click.option("--engine", default="local", type=engines, help="This machine, a Slurm job array, or Ray.")
    @click.option(
        "--tasks",
        default=ExecutionOptions.tasks,
        type=POSITIVE,
        help="Slurm: tasks of the array, --workers cores each.",
    )
    @click.option("--sbatch", multiple=True, help="Slurm: an option for sbatch, such as --partition=cpu; repeat.")
    @click.option(
        "--logs", type=click.Path(file_okay=False, path_type=Path), help="Slurm: folder for scripts and logs."
    )
    @click.option("--wait", is_flag=True, help="Slurm: stay until the last job has ended.")
    @click.option("--ray-address", help="Ray: a running cluster, such as auto; otherwise one is started here.")
    @wraps(command)
    def wrapped(
        engine: str,
        tasks: int,
        sbatch: tuple[str, ...],
        logs: Path | None,
        wait: bool,
        ray_address: str | None,
        **others: object,
    ) -> None:
        command(where=ExecutionOptions(engine, tasks, sbatch, logs, wait, ray_address), **others)

    return wrapped

"""What `umt predict` is given: videos, lines of text, names of classes. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

from umt_ds.classes import ClassList, classes
from umt_ds.data.shards.folders import files_below
from umt_ds.data.shards.manifest import MANIFEST
from umt_ds.data.shards.sample_record import plain_text
from umt_ds.data.shards.suffixes import media_of
from umt_ds.errors import ConfigError, DecodeError, some

KINETICS: tuple[ClassList, ...] = get_args(ClassList)


def find_videos(paths: Sequence[Path]) -> list[Path]:
    """The files that are named, and the video files below folders, by name. Raises ConfigError for what is not there,
    and for a folder without a video."""
    return [video for path in paths for video in _videos_at(path)]


def _videos_at(path: Path) -> list[Path]:
    if not path.exists():
        raise ConfigError(
            f"{path}: there is no such file or folder", hint="the first word is the RUN, then come videos"
        )
    if not path.is_dir():
        return [path]
    if (path / MANIFEST).exists():
        raise ConfigError(
            f"{path} is a set of shards", hint="umt eval RUN --shards SET --save-predictions says what is in its clips"
        )
    try:
        below = list(files_below(path))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", hint="check its permissions") from error
    videos = sorted(path / one.folder / name for one in below for name in one.files if _is_video(name))
    if not videos:
        raise ConfigError(f"{path}: no file below it is called as videos are", hint="name the files themselves")
    return videos


def _is_video(name: str) -> bool:
    return media_of([name.rpartition(".")[2]]) == "video"


def text_lines(file: Path) -> tuple[str, ...]:
    """What a UTF-8 file says: its lines but for empty ones, or the texts of a list in a `.json`. Raises ConfigError for
    a file that cannot be read so, or says nothing."""
    try:
        text = file.read_text(encoding="utf-8-sig")
        found = tuple(_texts(json.loads(text))) if file.suffix.lower() == ".json" else tuple(_lines(text))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
    except (DecodeError, ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        hint = "UTF-8 text with one on each line, or a .json file with a list of texts"
        raise ConfigError(f"{file} is no list of texts: {error}", hint=hint) from error
    if not found:
        raise ConfigError(f"{file} says nothing", hint="one on each line")
    return found


def _lines(text: str) -> Iterator[str]:
    yield from filter(None, map(plain_text, text.split("\n")))


def _texts(listed: object) -> Iterator[str]:
    if not isinstance(listed, list | dict):  # published lists of answers are objects that number them
        raise ValueError("it holds no list")
    for number, one in enumerate(listed):
        if not isinstance(one, str):
            raise ValueError(f"entry {number} is no text")
        text = plain_text(one)
        if not text:
            raise ValueError(f"entry {number} is an empty text")
        yield text


def class_names(named: str | Sequence[str] | None, *, known: Sequence[str], are_named: bool) -> tuple[str, ...]:
    """The names of the rows of a head: those that its checkpoint knows, or, where these are none, of a file, one of
    the Kinetics lists, or as they are given. Raises ConfigError where both say them, or there are not as many."""
    if named is None:
        return tuple(known)
    if are_named:
        raise ConfigError(
            f"the checkpoint names its {len(known)} classes ({some(known, 3)})", hint="leave --classes away"
        )
    names = _named(named) if isinstance(named, str) else tuple(named)
    if known and len(names) != len(known):
        said = f" {named}" if isinstance(named, str) else ""
        raise ConfigError(f"--classes{said}: {len(names)} names, and the model has {len(known)} classes")
    return names


def _named(named: str) -> tuple[str, ...]:
    """The names of a Kinetics list, or in a file."""
    kinetics = next((one for one in KINETICS if one == named), None)
    return text_lines(Path(named)) if kinetics is None else classes(kinetics)

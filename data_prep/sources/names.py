"""How the row of a list finds its file: one file is one file, however a table spells its name."""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

from umt_ds.data.shards.storage import is_local, is_url
from umt_ds.data.shards.suffixes import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from umt_ds.environment import at_home

if TYPE_CHECKING:
    from data_prep.sources.scan import FoundFiles

_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_PLAIN = re.compile(r"\w[\w.-]*(?:/\w[\w.-]*)*", re.ASCII)  # can be spelled so only


class Missing(NamedTuple):
    """Why a name has no file."""

    reason: str


_OUTSIDE = Missing("outside: it does not lie below the folder that was given")


class FileFinder:
    """Finds the files of `found`, which lie below `root`, by the names that tables give them.

    A name is the path below the folder, or an absolute one or URL of something below it (through links too), with
    any or no suffix, in any spelling (`./a//b.mp4`, backslashes, quotes around it, é as one character or two).
    `anywhere`: leading folders may be lacking; costs memory for an index, so not for lists of many millions of rows.
    what: of which kind the files are; missing: the reason where there is none, for people.
    """

    def __init__(
        self, found: FoundFiles, root: Path, *, what: str = "video", missing: str = "", anywhere: bool = True
    ) -> None:
        self._found, self._root, self._what, self._anywhere = found, root, what, anywhere
        self._missing = Missing(missing or f"missing: no such {what}")  # one for millions of rows

    def file_of(self, *names: str) -> str | Missing:
        """The file that a row means, by the first of its names that finds one."""
        for name in names:
            paths = self.files_of(name)
            if len(paths) == 1:
                return paths[0]
            if paths:
                shown = " and ".join(sorted(paths)[:3]) + (" and others" if len(paths) > 3 else "")
                return Missing(f"{len(paths)} {self._what}s have this name: {shown}")
        if not any(map(str.strip, names)):
            return Missing(f"names no {self._what}")
        for name in names:
            if why := self._found.why_unusable(name):
                return Missing(why)
        is_outside = all(_is_path(name) and self._below(name) is None for name in names)
        return _OUTSIDE if is_outside else self._missing

    def files_of(self, name: str) -> list[str]:
        """All files that a name could mean."""
        if paths := self._found.at(name):  # as nearly all rows of a list of millions name theirs
            return paths
        if not self._anywhere and _PLAIN.fullmatch(name) and not name.startswith(self._from_here):
            return []
        return next((paths for spelling in self._spellings(name) if (paths := self._look_up(spelling))), [])

    def _spellings(self, name: str) -> Iterator[str]:
        """Paths below the folder that a name may mean, the likeliest first."""
        if not _is_path(name):
            return
        yield name
        for spelling in (name, name.replace("\\", "/")) if "\\" in name else (name,):
            below = self._below(spelling)
            if below is not None and below != name:
                yield below
            if below is not None:
                yield from (below.removeprefix(start) for start in self._from_here if below.startswith(start))

    def _look_up(self, name: str) -> list[str]:
        if not name:
            return []
        paths = self._found.at(name)
        if not paths and not name.isascii():
            paths = self._by_composed.get(_stem(name), [])
        if not paths and self._anywhere:
            stem = _stem(name)
            there = self._by_bare_name.get(stem.rpartition("/")[2], ())
            paths = [path for path in there if f"/{_stem(path)}".endswith(f"/{stem}")]
        return paths

    @cached_property
    def _by_composed(self) -> dict[str, list[str]]:
        """Paths with letters that can be written in several ways."""
        paths: dict[str, list[str]] = defaultdict(list)
        for path in self._found.paths:
            if not path.isascii():
                paths[_stem(path)].append(path)
        return dict(paths)

    @cached_property
    def _by_bare_name(self) -> dict[str, list[str]]:
        paths: dict[str, list[str]] = defaultdict(list)
        for path in self._found.paths:
            paths[_stem(path).rpartition("/")[2]].append(path)
        return dict(paths)

    # --- the part of a name below the folder

    def _below(self, name: str) -> str | None:
        """The path below the folder, without what does not matter; None where it leads elsewhere."""
        if _PLAIN.fullmatch(name):
            return name
        text = _unquoted(name.strip())
        if text.startswith("file:/"):
            text = "/" + unquote(text.removeprefix("file:").removeprefix("//localhost")).lstrip("/")
        if is_url(text):
            start = f"{str(self._root).rstrip('/')}/"
            return _tidy(text.removeprefix(start)) if text.startswith(start) else None
        if is_local(self._root):
            with suppress(ValueError):  # nobody's home: then it is the name of a file
                text = at_home(text)
        if text.startswith("/"):
            return self._in_root(text) if is_local(self._root) else None
        return None if _DRIVE.match(text) else _tidy(text)

    def _in_root(self, path: str) -> str | None:
        """The part of an absolute path below the folder, whatever links lead there."""
        if (below := self._textually(path)) is not None:
            return below
        folder, _, name = path.rpartition("/")
        if (inside := self._real_folders.get(_real(folder))) is not None:
            return f"{inside}/{name}".lstrip("/")
        return self._linked_files.get(os.path.realpath(path)) if self._linked_files else None

    def _textually(self, path: str) -> str | None:
        path = posixpath.normpath(path)
        starts = (f"{root.rstrip('/')}/" for root in self._roots)
        return next((path.removeprefix(start) for start in starts if path.startswith(start)), None)

    @cached_property
    def _from_here(self) -> tuple[str, ...]:
        """How the names of files begin where the command is given; empty where the folder is not below that."""
        starts = [os.path.relpath(root) for root in self._roots] if is_local(self._root) else []
        return tuple(f"{start}/" for start in starts if not start.startswith("."))

    @cached_property
    def _roots(self) -> tuple[str, ...]:
        return os.path.abspath(self._root), os.path.realpath(self._root)

    @cached_property
    def _real_folders(self) -> dict[str, str]:
        """The folders of the files by where they really lie."""
        folders = {path.rpartition("/")[0] for path in self._found.paths}
        return {os.path.realpath(self._root / folder): folder for folder in sorted(folders, reverse=True)}

    @cached_property
    def _linked_files(self) -> dict[str, str]:
        """The files that are links, by what they lead to."""
        links = [path for path in self._found.paths if os.path.islink(self._root / path)]
        return {os.path.realpath(self._root / path): path for path in sorted(links, reverse=True)}


@lru_cache(4096)
def _real(folder: str) -> str:
    return os.path.realpath(folder)


def _tidy(name: str) -> str | None:
    """`./a//b/../c.mp4` as `a/c.mp4`; None where it leaves the folder."""
    path = posixpath.normpath(name).lstrip("/") if name else ""
    return None if path == ".." or path.startswith("../") else path


def _is_path(name: str) -> bool:
    """Whether a file can be called so: json can write half characters and NUL."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in name


def _unquoted(name: str) -> str:
    is_quoted = len(name) > 2 and name[0] == name[-1] and name[0] in "\"'"
    return name[1:-1].strip() if is_quoted else name


def without_suffix(name: str) -> str:
    """`a.mp4` → `a`, but `v1.5_a` as it is: a dot need not begin a suffix."""
    stem, _, suffix = name.rpartition(".")
    return stem if suffix.lower() in VIDEO_SUFFIXES or suffix.lower() in IMAGE_SUFFIXES else name


def _stem(name: str) -> str:
    """As names compare."""
    return unicodedata.normalize("NFC", without_suffix(name))

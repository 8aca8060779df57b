"""What lies below a folder: its videos, pictures and folders of frames, as every source looks for them.

How the row of a list finds its file among them is in `names.py`.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal

from data_prep.clip import Refusal
from data_prep.decode import NUMBERED_PICTURE
from data_prep.sources.names import without_suffix
from umt_ds.data.shards.folders import Below, files_below
from umt_ds.data.shards.records import sample_key
from umt_ds.data.shards.storage import is_local
from umt_ds.data.shards.store_answers import hint_of
from umt_ds.data.shards.suffixes import IMAGE_SUFFIXES, USUAL_IMAGES, USUAL_VIDEOS, VIDEO_SUFFIXES
from umt_ds.errors import DataError, shown, some

Kind = Literal["video", "image", "frames"]  # frames: a folder of numbered pictures, one video
Keys = Literal["stem", "path"]  # the key of a sample: the path of its file without the suffix, or all of it
_PLURAL: Mapping[Kind, str] = {"video": "videos", "image": "images", "frames": "frames"}
_HINT: Mapping[Kind, str] = {
    "video": f"videos are files that end in {', '.join(VIDEO_SUFFIXES)}",
    "image": f"images are files that end in {', '.join(IMAGE_SUFFIXES)}",
    "frames": "frames are pictures with numbers, such as img_00001.jpg, in a folder for each video",
}
_ARCHIVES = {".tar", ".zip", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".rar", ".7z"}
_HALF_DOWNLOADS = {".part", ".partial", ".crdownload", ".aria2", ".ytdl", ".tmp"}
_KIND_OF: Mapping[str, Kind] = {
    **{f".{suffix}": "video" for suffix in VIDEO_SUFFIXES},
    **{f".{suffix}": "image" for suffix in IMAGE_SUFFIXES},
}


@dataclass(frozen=True)
class FoundFiles:
    """What lies below a folder: paths with forward slashes, sorted; unusable files; the others by suffix."""

    folder: Path
    kinds: tuple[Kind, ...]  # what was looked for
    videos: tuple[str, ...]
    images: tuple[str, ...]
    frame_folders: tuple[str, ...]
    unusable: tuple[Refusal, ...]
    ignored: Counter[str]
    keys: Keys = "stem"

    @property
    def paths(self) -> tuple[str, ...]:
        """All that was looked for."""
        return (*self.videos, *self.images, *self.frame_folders)

    @cached_property
    def _lists(self) -> tuple[tuple[str, ...], ...]:
        return tuple(filter(None, (self.videos, self.images, self.frame_folders)))

    @property
    def _wanted(self) -> str:
        return " or ".join(_PLURAL[kind] for kind in self.kinds)

    @property
    def notes(self) -> tuple[str, ...]:
        notes = []
        if self.ignored:
            suffixes = some(f"{suffix} {count}" for suffix, count in self.ignored.most_common())
            notes.append(f"ignored {self.ignored.total()} files that are not {self._wanted} ({suffixes})")
        if self.unusable:
            reasons = Counter(refusal.reason for refusal in self.unusable)
            kinds = some(f"{reason} {count}" for reason, count in reasons.most_common())
            example = shown(self.unusable[0].source)
            notes.append(f"{len(self.unusable)} files or folders cannot be used ({kinds}), such as {example}")
        return tuple(notes)

    def unnamed(self, named: int) -> tuple[str, ...]:
        """A note on what no row of a list names, given how many files are named."""
        rest = len(self.videos) + len(self.images) + len(self.frame_folders) - named
        return (f"ignored {rest} {self._wanted} that no row names",) if rest else ()

    def why_unusable(self, name: str) -> str | None:
        """Why the file of a row cannot be used, though it is there; None where it is not, or can be."""
        if not self.unusable and not self.ignored:
            return None
        name = name.removeprefix("./")
        if self._reasons and (reason := self._reasons.get(without_suffix(name))):
            return reason
        for folder in map(str, PurePosixPath(name).parents) if self._closed else ():
            if reason := self._closed.get(folder):
                return f"{folder}: {reason}"
        file = name.rpartition("/")[2]
        is_hidden = _is_hidden(file)
        suffix = f".{file.rpartition('.')[2].lower()}" if "." in file else ""
        if not is_hidden and (not suffix or _KIND_OF.get(suffix) in self.kinds):
            return None
        if not is_local(self.folder) or not _is_text(name) or "\0" in name or not os.path.isfile(self.folder / name):
            return None
        if is_hidden:
            return "is hidden: its name begins with a dot"
        return f"is none of the {self._wanted} by its suffix ({suffix})"

    @cached_property
    def _reasons(self) -> dict[str, str]:
        return {without_suffix(refusal.source): refusal.reason for refusal in self.unusable}

    @cached_property
    def _closed(self) -> dict[str, str]:
        return {refusal.source: refusal.reason for refusal in self.unusable}

    def key(self, path: str) -> str:
        """The sample key of a path. With all of the path no two files can have one; a folder's name has no suffix."""
        is_all = self.keys == "path" or _holds(self.frame_folders, path)
        return sample_key(f"{path}.left-out" if is_all else path)

    def at(self, name: str) -> list[str]:
        """The file at this path below the folder; if there is none, those that have another suffix, or one at all.

        Needs no memory but the sorted paths, for lists of many millions of rows.
        """
        for paths in self._lists:
            if _holds(paths, name):
                return [name]
        stem = without_suffix(name)
        start = f"{stem}."
        with_suffix = [path for paths in (self.videos, self.images) if paths for path in _beginning(paths, start)]
        others = [path for path in with_suffix if without_suffix(path) == stem]
        return others or ([stem] if _holds(self.frame_folders, stem) else [])


def about_keys(keys: Keys) -> dict[str, object]:
    """What a manifest says of the keys; nothing of the usual ones, so that sets keep the manifests they had."""
    return {} if keys == "stem" else {"keys": keys}


def no_file_of(rows: Path, count: int, folder: Path, *, looked_for: str, why: str = "") -> DataError:
    """The error for a list of `count` rows of which not one has a file below `folder`. `why`: of the one looked for."""
    if not count:
        return DataError(f"{rows} has no rows")
    return DataError(
        f"none of the {count:,} rows of {rows} has a file below {folder}",
        hint=f"one that was looked for: {looked_for}" + (f" ({why})" if why else ""),
    )


def _holds(paths: Sequence[str], path: str) -> bool:
    index = bisect_left(paths, path)
    return index < len(paths) and paths[index] == path


def _beginning(paths: Sequence[str], start: str) -> Iterator[str]:
    for index in range(bisect_left(paths, start), len(paths)):
        if not paths[index].startswith(start):
            return
        yield paths[index]


def scan_videos(folder: Path) -> FoundFiles:
    """The videos below `folder`. Raises DataError where there are none."""
    return scan(folder, "video")


def scan(folder: Path, *kinds: Kind, keys: Keys = "stem") -> FoundFiles:
    """Look through `folder` and all below it, through symbolic links too, for one or several kinds of media.

    keys: what the samples will be called by. By their stems, an `a.tif` beside an `a.jpg` is ignored.

    What cannot be read (links that lead nowhere, folders without permission, pipes) is `unusable`.
    Raises DataError where there is none of them at all, or `folder` cannot be read.
    """
    paths: dict[Kind, list[str]] = {"video": [], "image": [], "frames": []}
    unusable: list[Refusal] = []
    ignored: Counter[str] = Counter()

    def keep(kind: Kind, path: str) -> None:
        if _is_text(path):
            paths[kind].append(path)
        else:
            unusable.append(Refusal(path, "file name is not UTF-8: rename the file"))

    for below in looked_through(folder):
        files, others = below.files, dict(below.others)
        if "frames" in kinds and below.folder:
            files = [name for name in files if not NUMBERED_PICTURE.fullmatch(name)]
            others = {name: what for name, what in others.items() if not NUMBERED_PICTURE.fullmatch(name)}
            if len(files) + len(others) < len(below.files) + len(below.others):
                keep("frames", below.folder)
            elif not below.num_folders and not others and all(map(_is_hidden, files)):
                others[""] = "folder is empty: no frames"
        for name in files:
            suffix = os.path.splitext(name)[1].lower()
            kind = _KIND_OF.get(suffix)
            if _is_hidden(name):
                ignored["hidden"] += 1
            elif kind in kinds:
                keep(kind, _path(below.folder, name))
            else:
                ignored[suffix or "no suffix"] += 1
        for name, what in others.items():
            if _is_hidden(name):
                ignored["hidden"] += 1
            else:
                unusable.append(Refusal(_path(below.folder, name), what))
    if not any(paths.values()) and not unusable:
        raise _nothing_found(folder, kinds, ignored)
    videos, images = (tuple(sorted(paths[kind])) for kind in ("video", "image"))
    if keys == "stem":
        videos, images = _without_doubles(videos, ignored), _without_doubles(images, ignored)
    frame_folders = tuple(sorted(paths["frames"]))
    unusable.sort(key=lambda refusal: refusal.source)
    return FoundFiles(folder, kinds, videos, images, frame_folders, tuple(unusable), ignored, keys)


def _nothing_found(folder: Path, kinds: Sequence[Kind], ignored: Counter[str]) -> DataError:
    suffixes = sorted(ignored, key=lambda suffix: (-ignored[suffix], suffix))  # a disk lists files in any order
    seen = some((f"{suffix} {ignored[suffix]:,}" for suffix in suffixes), 8)
    return DataError(
        f"no {' or '.join(kinds)} below {folder} ({f'only {seen}' if seen else 'it is empty'})",
        hint="; ".join((*_what_they_are(kinds, suffixes), *(_HINT[kind] for kind in kinds))),
    )


def _what_they_are(kinds: Sequence[Kind], suffixes: Sequence[str]) -> Iterator[str]:
    """What to do with files that are there and are none of the kinds that were looked for, by their suffixes."""
    others = {kind for suffix in suffixes if (kind := _KIND_OF.get(suffix)) and kind not in kinds}
    if "image" in others:
        yield "pictures: `umt-data folder --kind image` takes each as a sample, `--kind frames` folders of them"
    if "video" in others:
        yield "videos: `umt-data folder` takes them without --kind"
    if archives := sorted(_ARCHIVES.intersection(suffixes)):
        yield f"{', '.join(archives)}: unpack them, or give tars that hold samples to `umt-data index`"
    if halves := sorted(_HALF_DOWNLOADS.intersection(suffixes)):
        yield f"{', '.join(halves)}: downloads that are not whole; end them first"
    known = {*_KIND_OF, *_ARCHIVES, *_HALF_DOWNLOADS, "hidden"}
    if unknown := [suffix for suffix in suffixes if suffix not in known]:
        yield f"files with {some(unknown, 3)}: if they are what you mean, give their names the suffix of what they hold"


def _without_doubles(paths: Sequence[str], ignored: Counter[str]) -> tuple[str, ...]:
    """Without the `a.tif` beside an `a.jpg`: they would have one key, and the usual one has always been taken."""
    doubles = {
        path
        for path in paths
        if not _is_usual(path)
        for other in _beginning(paths, f"{without_suffix(path)}.")
        if _is_usual(other) and without_suffix(other) == without_suffix(path)
    }
    ignored.update(f"{os.path.splitext(path)[1].lower()} beside a usual one" for path in doubles)
    return tuple(path for path in paths if path not in doubles)


def _is_usual(path: str) -> bool:
    suffix = path.rpartition(".")[2].lower()
    return suffix in USUAL_IMAGES or suffix in USUAL_VIDEOS


def looked_through(folder: Path) -> Iterator[Below]:
    """Each folder below `folder`, with what lies in it. Raises DataError where `folder` itself cannot be read."""
    try:
        yield from files_below(folder)
    except OSError as error:
        what = hint_of(error) or "check its permissions, and the disk or mount"
        raise DataError(f"{folder} cannot be read: {error.strerror or error}", hint=what) from error


def _path(folder: str, name: str) -> str:
    return f"{folder}/{name}".strip("/")


def _is_hidden(name: str) -> bool:
    """macOS leaves a `._x.mp4` of resource data beside x.mp4."""
    return name.startswith(".")


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True

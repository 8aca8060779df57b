"""Any folder of videos (pictures, folders of frames), with captions and labels from csv files if there are any.

`scan` is how every source looks at a folder, and `Found.find` how the row of a list finds its file.
"""

from __future__ import annotations

import os
import sys
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from data_prep.clip import Clip, Listing, Refusal
from data_prep.decode import NUMBERED_PICTURE
from data_prep.labels import Labels, class_list, rows_of
from umt_ds.data.places import files_below
from umt_ds.data.records import IMAGE_SUFFIXES, VIDEO_SUFFIXES, sample_key
from umt_ds.errors import DataError, some

Kind = Literal["video", "image", "frames"]  # frames: a folder of numbered pictures, one video
_PLURAL: Mapping[Kind, str] = {"video": "videos", "image": "images", "frames": "frames"}
_HINT: Mapping[Kind, str] = {
    "video": f"videos are files that end in {', '.join(VIDEO_SUFFIXES)}",
    "image": f"images are files that end in {', '.join(IMAGE_SUFFIXES)}",
    "frames": "frames are pictures with numbers, such as img_00001.jpg, in a folder for each video",
}
_KIND_OF: Mapping[str, Kind] = {
    **{f".{suffix}": "video" for suffix in VIDEO_SUFFIXES},
    **{f".{suffix}": "image" for suffix in IMAGE_SUFFIXES},
}


def list_folder(
    videos: Path,
    *,
    captions: Path | None = None,
    labels: Path | None = None,
    classes: Path | None = None,
    kind: Kind = "video",
) -> Listing:
    """Every video (or else `kind`) below `videos`. The csv files have the columns file,caption[,label] and file,label.

    `file` is the path below `videos`, or the bare file name where only one video has it. Several rows for a
    file give it several captions. Rows without a video are left out and reported.
    Raises DataError where there is no video, a csv file is malformed, or a file has two labels.
    """
    found = scan(videos, kind)
    rows, left_out = _assign(_read_notes(captions, labels), found)
    names = class_list((row.label for row in rows.values() if row.label), classes)
    clips = tuple(_clip(found, path, rows.get(path, _Notes()), names) for path in found.paths)
    with_caption = sum(bool(clip.captions) for clip in clips)
    told = (f"{with_caption} of {len(clips)} clips have a caption",) if captions else ()
    return Listing(
        root=videos,
        clips=clips,
        media="image" if kind == "image" else "video",
        left_out=(*found.unusable, *left_out),
        labels=names.names,
        about={"source": "folder"},
        notes=(*found.notes, *told),
    )


@dataclass(frozen=True)
class Found:
    """What lies below a folder: paths with forward slashes, sorted; unusable files; the others by suffix."""

    kinds: tuple[Kind, ...]  # what was looked for
    videos: tuple[str, ...]
    images: tuple[str, ...]
    frame_folders: tuple[str, ...]
    unusable: tuple[Refusal, ...]
    ignored: Counter[str]

    @property
    def paths(self) -> tuple[str, ...]:
        """All that was looked for."""
        return (*self.videos, *self.images, *self.frame_folders)

    @property
    def _wanted(self) -> str:
        return " or ".join(_PLURAL[kind] for kind in self.kinds)

    @property
    def notes(self) -> tuple[str, ...]:
        if not self.ignored:
            return ()
        suffixes = some(f"{suffix} {count}" for suffix, count in self.ignored.most_common())
        return (f"ignored {self.ignored.total()} files that are not {self._wanted} ({suffixes})",)

    def unnamed(self, named: int) -> tuple[str, ...]:
        """A note on what no row of a list names, given how many files are named."""
        rest = len(self.videos) + len(self.images) + len(self.frame_folders) - named
        return (f"ignored {rest} {self._wanted} that no row names",) if rest else ()

    def key(self, path: str) -> str:
        """The sample key of a path. A folder's name has no suffix that could be left out."""
        return sample_key(f"{path}.frames" if _holds(self.frame_folders, path) else path)

    def at(self, name: str) -> list[str]:
        """The file at this path below the folder; if there is none, those that have another suffix, or one at all.

        Needs no memory but the sorted paths, for lists of many millions of rows.
        """
        for paths in (self.videos, self.images, self.frame_folders):
            if _holds(paths, name):
                return [name]
        stem = without_suffix(name)
        with_suffix = [path for paths in (self.videos, self.images) for path in _beginning(paths, f"{stem}.")]
        others = [path for path in with_suffix if without_suffix(path) == stem]
        return others or ([stem] if _holds(self.frame_folders, stem) else [])

    def find(self, name: str) -> list[str]:
        """As `at`; if there is none, the files anywhere below whose path ends in `name`, whatever their suffix."""
        name = name.removeprefix("./")
        stem = without_suffix(name)
        return self.at(name) or [
            path
            for path in self._by_bare_name.get(stem.rpartition("/")[2], ())
            if f"/{without_suffix(path)}".endswith(f"/{stem}")
        ]

    @cached_property
    def _by_bare_name(self) -> dict[str, list[str]]:
        paths: dict[str, list[str]] = defaultdict(list)
        for path in self.paths:
            paths[without_suffix(path.rpartition("/")[2])].append(path)
        return dict(paths)


def no_file_of(rows: Path, count: int, folder: Path, *, looked_for: str) -> DataError:
    """The error for a list of `count` rows of which not one has a file below `folder`."""
    if not count:
        return DataError(f"{rows} has no rows")
    return DataError(
        f"none of the {count:,} rows of {rows} has a file below {folder}", hint=f"one that was looked for: {looked_for}"
    )


def without_suffix(name: str) -> str:
    """`a.mp4` → `a`, but `v1.5_a` as it is: a dot need not begin a suffix."""
    stem, _, suffix = name.rpartition(".")
    return stem if suffix.lower() in VIDEO_SUFFIXES or suffix.lower() in IMAGE_SUFFIXES else name


def _holds(paths: Sequence[str], path: str) -> bool:
    place = bisect_left(paths, path)
    return place < len(paths) and paths[place] == path


def _beginning(paths: Sequence[str], start: str) -> Iterator[str]:
    for place in range(bisect_left(paths, start), len(paths)):
        if not paths[place].startswith(start):
            return
        yield paths[place]


def scan_videos(folder: Path) -> Found:
    """The videos below `folder`. Raises DataError where there are none."""
    return scan(folder, "video")


def scan(folder: Path, *kinds: Kind) -> Found:
    """Look through `folder` and all below it, through symbolic links too, for one or several kinds of media.

    Raises DataError where there is none of them at all.
    """
    paths: dict[Kind, list[str]] = {"video": [], "image": [], "frames": []}
    unusable: list[Refusal] = []
    ignored: Counter[str] = Counter()

    def keep(kind: Kind, path: str) -> None:
        if _is_text(path):
            paths[kind].append(path)
        else:
            unusable.append(Refusal(path, "file name is not UTF-8: rename the file"))

    for below, names in files_below(folder):
        files = (
            [name for name in names if not NUMBERED_PICTURE.fullmatch(name)] if "frames" in kinds and below else names
        )
        if len(files) < len(names):
            keep("frames", below)
        for name in files:
            suffix = os.path.splitext(name)[1].lower()
            kind = _KIND_OF.get(suffix)
            if name.startswith("."):  # macOS leaves a ._x.mp4 of resource data beside x.mp4
                ignored["hidden"] += 1
            elif kind in kinds:
                keep(kind, f"{below}/{name}" if below else name)
            else:
                ignored[suffix or "no suffix"] += 1
    if not any(paths.values()) and not unusable:
        others = ", ".join(f"{suffix} {count}" for suffix, count in ignored.most_common(5))
        raise DataError(
            f"no {' or '.join(kinds)} below {folder} ({f'only {others}' if others else 'it is empty'})",
            hint="; ".join(_HINT[kind] for kind in kinds),
        )
    videos, images, frame_folders = (tuple(sorted(of_kind)) for of_kind in paths.values())
    return Found(kinds, videos, images, frame_folders, tuple(unusable), ignored)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(slots=True)
class _Notes:
    """What csv rows say of one file."""

    captions: list[str] = field(default_factory=list)
    label: str = ""


def _read_notes(captions: Path | None, labels: Path | None) -> dict[str, _Notes]:
    """By the name in the `file` column."""
    notes: dict[str, _Notes] = defaultdict(_Notes)
    if captions:
        for file, caption, label in rows_of(captions, columns=("file", "caption"), optional=("label",)):
            _add_label(notes[file], file, label, captions)
            if caption:
                notes[file].captions.append(caption)
    if labels:
        for file, label in rows_of(labels, columns=("file", "label")):
            _add_label(notes[file], file, label, labels)
    return notes


def _add_label(note: _Notes, file: str, label: str, csv: Path) -> None:
    if label and note.label not in ("", label):
        raise DataError(f"{csv}: {file} has two labels, {note.label!r} and {label!r}")
    note.label = note.label or sys.intern(label)


def _assign(notes: Mapping[str, _Notes], found: Found) -> tuple[dict[str, _Notes], list[Refusal]]:
    """The notes by path, and the rows for which there is none."""
    assigned: dict[str, _Notes] = {}
    left_out: list[Refusal] = []
    for name, note in notes.items():
        paths = found.find(name)
        if len(paths) == 1:
            assigned[paths[0]] = note
        else:
            reason = f"{len(paths)} videos have this name" if paths else "missing: no such video"
            left_out.append(Refusal(name, f"{reason} (row of the csv file)"))
    return assigned, left_out


def _clip(found: Found, path: str, notes: _Notes, labels: Labels) -> Clip:
    return Clip(
        key=found.key(path),
        source=path,
        captions=tuple(notes.captions),
        label=labels.number(notes.label) if notes.label else None,
        label_name=notes.label or None,
    )

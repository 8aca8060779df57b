"""Any folder of videos, with captions and labels from csv files if there are any."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.clip import Clip, Listing, Refusal
from data_prep.labels import Labels, class_list, read_table
from umt_ds.data.records import VIDEO_SUFFIXES, sample_key
from umt_ds.errors import DataError


def list_folder(
    videos: Path, *, captions: Path | None = None, labels: Path | None = None, classes: Path | None = None
) -> Listing:
    """Every video below `videos`. The csv files have the columns file,caption[,label] and file,label.

    `file` is the path below `videos`, or the bare file name where only one video has it. Several rows for a
    file give it several captions. Rows without a video are left out and reported.
    Raises DataError where there is no video, a csv file is malformed, or a file has two labels.
    """
    found = scan_videos(videos)
    notes = _read_notes(captions, labels)
    rows, left_out = _assign(notes, found.videos)
    names = class_list((row.label for row in rows.values() if row.label), classes)
    clips = tuple(_clip(path, rows.get(path, _Notes()), names) for path in found.videos)
    with_caption = sum(bool(clip.captions) for clip in clips)
    told = (f"{with_caption} of {len(clips)} clips have a caption",) if captions else ()
    return Listing(
        root=videos,
        clips=clips,
        left_out=(*found.unusable, *left_out),
        labels=names.names,
        about={"source": "folder"},
        notes=(*found.notes, *told),
    )


@dataclass(frozen=True)
class Found:
    """The files below a folder: videos (paths with forward slashes, sorted), unusable ones, the others by kind."""

    videos: tuple[str, ...]
    unusable: tuple[Refusal, ...]
    ignored: Counter[str]

    @property
    def notes(self) -> tuple[str, ...]:
        if not self.ignored:
            return ()
        kinds = ", ".join(f"{kind} {count}" for kind, count in self.ignored.most_common())
        return (f"ignored {self.ignored.total()} files that are not videos ({kinds})",)


def scan_videos(folder: Path) -> Found:
    """Look through `folder` and all below it, through symbolic links too.

    Raises DataError where there is no video at all.
    """
    videos: list[str] = []
    unusable: list[Refusal] = []
    ignored: Counter[str] = Counter()
    for path in _files_below(folder):
        relative = path.relative_to(folder).as_posix()
        suffix = path.suffix.lower()
        if path.name.startswith("."):  # macOS leaves a ._x.mp4 of resource data beside x.mp4
            ignored["hidden"] += 1
        elif suffix.lstrip(".") not in VIDEO_SUFFIXES:
            ignored[suffix or "no suffix"] += 1
        elif not _is_text(relative):
            unusable.append(Refusal(relative, "file name is not UTF-8: rename the file"))
        else:
            videos.append(relative)
    if not videos and not unusable:
        others = ", ".join(f"{kind} {count}" for kind, count in ignored.most_common(5))
        raise DataError(
            f"no video below {folder} ({f'only {others}' if others else 'it is empty'})",
            hint=f"videos are files that end in {', '.join(VIDEO_SUFFIXES)}",
        )
    return Found(tuple(sorted(videos)), tuple(unusable), ignored)


def _files_below(folder: Path) -> Iterator[Path]:
    """Regular files, also behind links; a link back to a folder already seen is not followed again."""
    seen: set[str] = set()
    for where, folders, files in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(where))
        folders[:] = [name for name in folders if os.path.realpath(os.path.join(where, name)) not in seen]
        for name in files:
            path = Path(where, name)
            if path.is_file():
                yield path


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass
class _Notes:
    """What csv rows say of one file."""

    captions: list[str] = field(default_factory=list)
    label: str = ""


def _read_notes(captions: Path | None, labels: Path | None) -> dict[str, _Notes]:
    """By the name in the `file` column."""
    notes: dict[str, _Notes] = defaultdict(_Notes)
    for path, needed in ((captions, ("file", "caption")), (labels, ("file", "label"))):
        for row in read_table(path, needed=needed) if path else ():
            note = notes[row["file"]]
            label = row.get("label", "")
            if label and note.label not in ("", label):
                raise DataError(f"{path}: {row['file']} has two labels, {note.label!r} and {label!r}")
            note.label = note.label or label
            if path == captions and row["caption"]:
                note.captions.append(row["caption"])
    return notes


def _assign(notes: Mapping[str, _Notes], videos: tuple[str, ...]) -> tuple[dict[str, _Notes], list[Refusal]]:
    """The notes by video, and the rows for which there is none."""
    by_name: dict[str, list[str]] = defaultdict(list)
    for video in videos:
        by_name[video.rpartition("/")[2]].append(video)
    known = set(videos)
    assigned: dict[str, _Notes] = {}
    left_out: list[Refusal] = []
    for name, note in notes.items():
        paths = [name] if name in known else by_name.get(name, [])
        if len(paths) == 1:
            assigned[paths[0]] = note
        else:
            reason = f"{len(paths)} videos have this name" if paths else "missing: no such video"
            left_out.append(Refusal(name, f"{reason} (row of the csv file)"))
    return assigned, left_out


def _clip(path: str, notes: _Notes, labels: Labels) -> Clip:
    return Clip(
        key=sample_key(path),
        source=path,
        captions=tuple(notes.captions),
        label=labels.number(notes.label) if notes.label else None,
        label_name=notes.label or None,
    )

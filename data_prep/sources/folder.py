"""Any folder of videos (pictures, folders of frames), with captions and labels from csv files if there are any.

What lies below the folder is found by `scan.py`, the file of a row by `names.py`.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from data_prep.clip import Clip, Listing, Refusal
from data_prep.sources.names import FileFinder, Missing
from data_prep.sources.scan import FoundFiles, Keys, Kind, about_keys, no_file_of, scan
from data_prep.tables.labels import Numbering, is_no_label, is_same_label, number_labels, two_labels
from data_prep.tables.table import Table
from umt_ds.errors import ConfigError, quoted

FIRST_SECONDS = "first_seconds"  # how the manifest of a set calls `first_s`


def list_folder(
    videos: Path,
    *,
    captions: Path | None = None,
    labels: Path | None = None,
    classes: Path | None = None,
    kind: Kind = "video",
    keys: Keys = "stem",
    first_s: float | None = None,
) -> Listing:
    """Every video (or else `kind`) below `videos`. The csv files have the columns file,caption[,label] and file,label.

    first_s: of each video, its first seconds are the clip (`Timeline.first`), and a shorter one is so as a whole.

    `file` names a video as `FileFinder` says. What several rows say of one video is joined; two labels of one are an
    error. Rows without a video are left out and reported.
    Raises DataError where there is no video, a csv file is malformed, or not one of its rows has a video, ConfigError
    for the first seconds of what has none.
    """
    if first_s and kind != "video":
        raise ConfigError(
            f"--first-seconds is for videos, and --kind {kind} has no seconds", hint="leave one of them out"
        )
    found = scan(videos, kind, keys=keys)
    said = _read(captions, labels, FileFinder(found, videos, what="image" if kind == "image" else "video"), videos)
    used = {notes.label for notes in said.of.values()}
    numbering = number_labels(said.labels, used=used, classes=classes)
    clips = tuple(_clip(found, path, said.of.get(path, _Notes()), numbering, first_s) for path in found.paths)
    with_caption, with_label = (sum(bool(c.captions) for c in clips), sum(c.label is not None for c in clips))
    told = [f"{with_caption} of {len(clips)} clips have a caption"] if captions else []
    told += [f"{with_label} of {len(clips)} clips have a label"] if said.labels or labels or classes else []
    return Listing(
        root=videos,
        clips=clips,
        media="image" if kind == "image" else "video",
        left_out=(*found.unusable, *said.missing),
        labels=numbering.names,
        about={"source": "folder", **about_keys(keys), **({FIRST_SECONDS: first_s} if first_s else {})},
        notes=(*found.notes, *said.notes, *numbering.notes, *told),
    )


@dataclass(slots=True)  # slots: there may be millions
class _Notes:
    """What the rows of the tables say of one file."""

    captions: list[str] = field(default_factory=list)
    label: str = ""
    label_at: _Line | None = None


class _Line(NamedTuple):
    table: str
    number: int

    def __str__(self) -> str:
        return f"{self.table} line {self.number}"


@dataclass
class _Said:
    """What the tables say: of each file by its path, and in rows that have none; where each label stands first."""

    of: dict[str, _Notes] = field(default_factory=lambda: defaultdict(_Notes))
    missing: list[Refusal] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    disagree: list[str] = field(default_factory=list)  # where a row gives a file another label than an earlier one
    notes: tuple[str, ...] = ()


_Texts = tuple[int, str, str, str]  # of a row: line, file, caption, label


def _read(captions: Path | None, labels: Path | None, names: FileFinder, folder: Path) -> _Said:
    said = _Said()
    if captions:
        table = Table(captions, columns=("file", "caption"), optional=("label",))
        _add(said, table, ((line, file, text, label) for line, (file, text, label) in table), names, folder)
    if labels:
        table = Table(labels, columns=("file", "label"))
        _add(said, table, ((line, file, "", label) for line, (file, label) in table), names, folder)
    if said.disagree:
        raise two_labels(said.disagree)
    return said


def _add(said: _Said, table: Table, rows: Iterable[_Texts], names: FileFinder, folder: Path) -> None:
    """Raises DataError where not one of the rows has a file."""
    num_found = 0
    missing: list[Refusal] = []
    for line, file, caption, label in rows:
        at = _Line(table.path.name, line)
        if label and label not in said.labels:
            said.labels[label] = str(at)
        path = names.file_of(file)
        if isinstance(path, Missing):
            missing.append(Refusal(file, path.reason + f" ({at})"))
            continue
        num_found += 1
        notes = said.of[path]
        if not is_no_label(label):
            if notes.label_at is None:
                notes.label, notes.label_at = sys.intern(label), at
            elif not is_same_label(notes.label, label):
                both = f"{quoted(notes.label)} and {quoted(label)}"
                said.disagree.append(f"{path} has two labels, {both}: in {notes.label_at} and in {at}")
        if caption:
            notes.captions.append(caption)
    if missing and not num_found:
        raise no_file_of(table.path, len(missing), folder, looked_for=missing[0].source, why=missing[0].reason)
    said.missing += missing
    said.notes += table.notes


def _clip(found: FoundFiles, path: str, notes: _Notes, labels: Numbering, first_s: float | None) -> Clip:
    return Clip(
        key=found.key(path),
        source=path,
        captions=tuple(notes.captions),
        label=labels.label(notes.label),
        label_name=labels.label_name(notes.label),
        first_s=first_s,
    )

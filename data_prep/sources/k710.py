"""Kinetics-710: the training lists of Kinetics-400, -600 and -700 merged, without what the validation lists show.

The rule is the one that VideoMAE V2 documents for it (docs/DATASET.md): each YouTube id once, and none that a
validation list has. Kinetics takes the clips of a class from different videos, so an id comes twice within a list
only where two classes share a video: 53 ids of the 33,909 rows of K700's validation. The published merge has 658,340
clips, of the videos that its authors had.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from data_prep.clip import Clip, Listing, Refusal
from data_prep.leaks.id_overlap import Leak, OverlapReport, Span, SpanList, Videos, by_video, find_leaks, read_spans
from data_prep.leaks.near_duplicates import is_same_place, set_names
from data_prep.sources.kinetics import copies_note, file_of, files_by_name
from data_prep.sources.scan import FoundFiles, no_file_of, scan_videos
from data_prep.tables.kinetics import KineticsRow, read_kinetics
from umt_ds.classes import classes, k710_number
from umt_ds.data.shards.storage import common_folder, is_local
from umt_ds.errors import ConfigError

Fate = Literal["taken", "leaked", "repeated", "missing"]  # of a row


@dataclass(frozen=True)
class KineticsSet:
    """One of the lists to merge: its name (k400), official csv, and the folder of its videos."""

    name: str
    csv: Path
    videos: Path


def list_k710(sets: Sequence[KineticsSet], *, against: Sequence[Path] = ()) -> tuple[Listing, OverlapReport]:
    """One clip for each video in the csvs of `sets`, with K710 labels, and what they share with `against`.

    A video that a list in `against` (csv or finished set) has in any part is left out. Of several rows with one id
    the first that has a file becomes the clip and says its class: earlier sets are preferred. All other rows are
    left out, each with the reason. Of validation csvs, without `against`, this makes a K710 validation set.
    Raises DataError where a csv is malformed, has a class that K710 lacks, or not one row of a set has a file;
    ConfigError where a list is given twice.
    """
    names = _names_of(sets, against)
    others = [read_spans(path, name) for path, name in zip(against, names, strict=True)]
    leaked = by_video(others)
    root = common_folder([_absolute(kinetics.videos) for kinetics in sets])
    candidates, left_out, said = _read(sets, root)
    clips: list[Clip] = []
    counts: Counter[tuple[str, Fate]] = Counter()
    for same in candidates.values():
        for candidate, fate, reason in _fates(same, leaked):
            counts[candidate.set_name, fate] += 1
            if fate == "taken":
                clips.append(_clip(candidate, same))
            else:
                left_out.append(Refusal(f"{candidate.set_name}/{candidate.row.name}", reason))
    merged = [kinetics.name for kinetics in sets]
    told = () if against else ("no validation list was given: clips of one may be among these",)
    listing = Listing(
        root=root,
        clips=tuple(clips),
        left_out=tuple(left_out),
        labels=classes("k710"),
        about={"source": "k710", "sets": merged, "against": names},
        notes=(*said, *(_note(name, counts) for name in merged), *told),
    )
    spans = {candidate.row.name: candidate.span for same in candidates.values() for candidate in same}
    train = SpanList("+".join(merged), list(spans.values()))
    return listing, OverlapReport(train, tuple(others), tuple(find_leaks(train.spans, leaked)))


@dataclass(frozen=True, slots=True)  # slots: there are 1,150,000
class _Candidate:
    """A row of a set, and its file below the common root if it has one."""

    set_name: str
    row: KineticsRow
    source: str | None
    span_s: tuple[float, float] | None

    @property
    def span(self) -> Span:
        return Span(self.row.name, self.row.youtube_id, self.row.start, self.row.end)


def _read(
    sets: Sequence[KineticsSet], root: Path
) -> tuple[dict[str, list[_Candidate]], list[Refusal], tuple[str, ...]]:
    """The rows of all sets by YouTube id, in the order of the sets; those that cannot be used; notes on the csvs."""
    candidates: dict[str, list[_Candidate]] = {}
    unusable: list[Refusal] = []
    notes: list[str] = []
    scanned: dict[Path, FoundFiles] = {}  # sets may share a folder
    for kinetics in sets:
        read = read_kinetics(kinetics.csv)
        unusable += read.unusable
        notes += read.notes
        for label, where in read.labels.items():
            if label:
                k710_number(label, where=where)  # an unknown one is refused before anything is scanned
        if kinetics.videos not in scanned:
            scanned[kinetics.videos] = scan_videos(kinetics.videos)
        files = files_by_name(scanned[kinetics.videos].videos)
        notes += copies_note(scanned[kinetics.videos].videos, files)
        folder = PurePosixPath(_absolute(kinetics.videos).relative_to(root).as_posix())
        num_files = 0
        for row in read.rows:
            file, span_s = file_of(row, files) or (None, None)
            source = (folder / file).as_posix() if file else None
            candidates.setdefault(row.youtube_id, []).append(_Candidate(kinetics.name, row, source, span_s))
            num_files += file is not None
        if not num_files:
            raise no_file_of(kinetics.csv, len(read.rows), kinetics.videos, looked_for=read.rows[0].file_names)
    return candidates, unusable, tuple(notes)


def _fates(same: Sequence[_Candidate], leaked: Videos) -> Iterator[tuple[_Candidate, Fate, str]]:
    """What becomes of the rows of one video, and why."""
    others = leaked.get(same[0].row.youtube_id)
    taken = next((candidate for candidate in same if candidate.source), None)
    for candidate in same:
        if others:
            yield candidate, "leaked", _leak_reason(candidate, others)
        elif taken is None:
            yield candidate, "missing", f"missing: no file for line {candidate.row.line} of {candidate.set_name}"
        elif candidate is taken:
            yield candidate, "taken", ""
        else:
            yield candidate, "repeated", _repeat_reason(candidate, taken)


def _leak_reason(candidate: _Candidate, others: Sequence[tuple[str, Span]]) -> str:
    """`in kinetics400_validate.csv: same id, overlaps 12-22 s; in …`"""
    leaks = (Leak(candidate.span, other, name) for name, other in others)
    return "; ".join(f"in {leak.list_name}: same id, {leak.detail}" for leak in leaks)


def _repeat_reason(candidate: _Candidate, taken: _Candidate) -> str:
    """`repeats line 12 of k400: same id, overlaps 12-22 s`, and the class where it is another one."""
    shared = Leak(candidate.span, taken.span, taken.set_name).detail
    label, other = _label(candidate), _label(taken)
    differs = f", as {candidate.row.label!r} and not {taken.row.label!r}" if label != other else ""
    return f"repeats line {taken.row.line} of {taken.set_name}: same id, {shared}{differs}"


def _label(candidate: _Candidate) -> int | None:
    return k710_number(candidate.row.label) if candidate.row.label else None


def _clip(candidate: _Candidate, same: Sequence[_Candidate]) -> Clip:
    assert candidate.source is not None, "a row without a file was taken"
    row, label = candidate.row, _label(candidate)
    return Clip(
        key=row.name,
        source=candidate.source,
        label=label,
        label_name=None if label is None else classes("k710")[label],
        span_s=candidate.span_s,
        extra={
            "youtube_id": row.youtube_id,
            "time_start": row.start,
            "time_end": row.end,
            "split": row.split,
            "sets": "+".join(dict.fromkeys(other.set_name for other in same)),  # all that have this video
            "label_set": candidate.set_name,
        },
    )


def _note(name: str, counts: Counter[tuple[str, Fate]]) -> str:
    fates: tuple[Fate, ...] = ("taken", "leaked", "repeated", "missing")
    parts = ", ".join(f"{counts[name, fate]:,} {fate}" for fate in fates)
    return f"{name}: {sum(counts[name, fate] for fate in fates):,} rows: {parts}"


def _names_of(sets: Sequence[KineticsSet], against: Sequence[Path]) -> list[str]:
    """Short names that tell the lists in `against` apart."""
    repeated = [name for name, count in Counter(kinetics.name for kinetics in sets).items() if count > 1]
    if repeated or not sets:
        what = f"two sets are called {repeated[0]!r}" if repeated else "there is no set to merge"
        raise ConfigError(what, hint="give each list once, with a name of its own, such as k400")
    first, *rest = (kinetics.csv for kinetics in sets)
    if any(is_same_place(first, other) for other in (*rest, *against)):
        raise ConfigError(f"{first} would be compared with itself", hint="name each list once")
    return set_names(first, [*rest, *against])[len(rest) :]


def _absolute(folder: Path) -> Path:
    """Without `..`, and with links as they are, so that a clip's source is named as the user named it."""
    return Path(os.path.abspath(folder)) if is_local(folder) else folder

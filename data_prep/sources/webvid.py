"""WebVid-2M and WebVid-10M by their csv files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from data_prep.clip import Clip, Extra, Listing, Refusal
from data_prep.sources.names import FileFinder, Missing
from data_prep.sources.scan import Keys, about_keys, no_file_of, scan
from data_prep.tables.table import Table, unused_note
from umt_ds.errors import DataError

_NO_EXTRA: Extra = {}  # one for ten million clips


def list_webvid(videos: Path, *, csv: Path, keys: Keys = "stem") -> Listing:
    """The rows of a csv with the columns videoid, name (the caption) and page_dir, or of all the csv files in a folder.

    A row's file is page_dir/videoid.mp4 or videoid.mp4 below `videos`. Rows that name a video again give it another
    caption; rows without a file, or with nothing new, are left out and reported.
    Raises DataError where a csv is malformed or not one row has a file.
    """
    found = scan(videos, "video", keys=keys)
    names = FileFinder(found, videos, anywhere=False)
    notes: list[str] = []
    clips: dict[str, Clip] = {}
    left_out: list[Refusal] = []
    looked_for, num_more = "", 0
    for file, line, (video_id, caption, page) in _rows(csv, notes):
        path = names.file_of(*_files_of(video_id, page))
        looked_for = looked_for or " or ".join(_files_of(video_id, page))
        captions = (caption,) if caption else ()
        if isinstance(path, Missing):
            left_out.append(Refusal(video_id or f"{file.name} line {line}", path.reason))
        elif path not in clips:
            clips[path] = Clip(found.key(path), path, captions, extra=_NO_EXTRA)
        elif set(captions) <= set(clips[path].captions):
            left_out.append(Refusal(video_id, "repeated: an earlier row names this video"))
        else:
            clips[path] = replace(clips[path], captions=(*clips[path].captions, *captions))
            num_more += 1
    if not clips:
        raise no_file_of(csv, len(left_out), videos, looked_for=looked_for)
    without = sum(not clip.captions for clip in clips.values())
    notes += [f"{without:,} videos have no caption"] if without else []
    notes += [f"{num_more:,} rows name a video of an earlier row and give it one more caption"] if num_more else []
    return Listing(
        root=videos,
        clips=tuple(clips.values()),
        left_out=(*found.unusable, *left_out),
        about={"source": "webvid", **about_keys(keys)},
        notes=(*found.notes, *notes, *found.unnamed(len(clips))),
    )


def _rows(csv: Path, notes: list[str]) -> Iterator[tuple[Path, int, tuple[str, ...]]]:
    """File and line of each row, and its videoid, name and page_dir; then what there is to say of the tables is in
    `notes`. Copies of the set come as one csv, or as thousands in a folder."""
    files = sorted(csv.glob("*.csv"), key=lambda file: file.name) if csv.is_dir() else [csv]
    if not files:
        raise DataError(f"no *.csv in {csv}")
    unused: dict[str, None] = {}  # of all the files
    for file in files:
        table = Table(file, columns=("videoid", "name"), optional=("page_dir",))
        for line, cells in table:
            yield file, line, cells
        unused |= dict.fromkeys(table.unused)
        notes += table.doubts
    notes += unused_note("column", unused, csv)


def _files_of(video_id: str, page: str) -> tuple[str, ...]:
    """The names that a video may have."""
    if not video_id:
        return ()
    return (*((f"{page}/{video_id}.mp4",) if page else ()), f"{video_id}.mp4")

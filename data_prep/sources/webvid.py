"""WebVid-2M and WebVid-10M by their csv files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_prep.clip import Clip, Extra, Listing, Refusal
from data_prep.labels import rows_of
from data_prep.sources.folder import Found, no_file_of, scan_videos
from umt_ds.errors import DataError

_NO_EXTRA: Extra = {}  # one for ten million clips


def list_webvid(videos: Path, *, csv: Path) -> Listing:
    """The rows of a csv with the columns videoid, name (the caption) and page_dir, or of all the csv files in a folder.

    A row's file is page_dir/videoid.mp4 or videoid.mp4 below `videos`. Rows without a file, and rows that name
    a video again, are left out and reported. Raises DataError where a csv is malformed or not one row has a file.
    """
    found = scan_videos(videos)
    clips: list[Clip] = []
    left_out: list[Refusal] = []
    used: set[str] = set()
    looked_for = ""
    for video_id, caption, page in _rows(csv):
        path = _file_of(found, video_id, page)
        looked_for = looked_for or f"{page}/{video_id}.mp4 or {video_id}.mp4".lstrip("/")
        if path is None:
            left_out.append(Refusal(video_id, "missing: no such video"))
        elif path in used:
            left_out.append(Refusal(video_id, "repeated: an earlier row names this video"))
        else:
            used.add(path)
            clips.append(Clip(found.key(path), path, (caption,) if caption else (), extra=_NO_EXTRA))
    if not clips:
        raise no_file_of(csv, len(left_out), videos, looked_for=looked_for)
    return Listing(
        root=videos,
        clips=tuple(clips),
        left_out=(*found.unusable, *left_out),
        about={"source": "webvid"},
        notes=(*found.notes, *found.unnamed(len(clips))),
    )


def _rows(csv: Path) -> Iterator[tuple[str, ...]]:
    """videoid, name and page_dir of each row. Copies of the set come as one csv, or as thousands in a folder."""
    files = sorted(csv.glob("*.csv"), key=lambda file: file.name) if csv.is_dir() else [csv]
    if not files:
        raise DataError(f"no *.csv in {csv}")
    for file in files:
        yield from rows_of(file, columns=("videoid", "name"), optional=("page_dir",))


def _file_of(found: Found, video_id: str, page: str) -> str | None:
    paths = (found.at(f"{page}/{video_id}.mp4") if page else []) or found.at(f"{video_id}.mp4")
    return paths[0] if paths and video_id else None

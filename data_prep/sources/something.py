"""Something-Something V2 by its official JSON files."""

from __future__ import annotations

from pathlib import Path
from types import NoneType
from typing import NamedTuple

from data_prep.clip import Clip, Listing, Refusal
from data_prep.sources.names import FileFinder, Missing
from data_prep.sources.scan import no_file_of, scan
from data_prep.tables.class_list import class_name, read_class_list
from data_prep.tables.labels import Labels, flip_notes
from data_prep.tables.table import clean, read_json, unused_note
from umt_ds.data.shards.records import sample_key
from umt_ds.errors import DataError, shown

_NO_BRACKETS = str.maketrans("", "", "[]")


def list_something(videos: Path, *, annotations: Path, labels: Path) -> Listing:
    """The rows of train.json, validation.json or test.json, numbered as labels.json says.

    A row's file is ID.webm (or another video, or a folder ID of frames), anywhere below `videos`. The class is
    the template with the brackets removed, the caption the sentence that a person filled in. Rows of test.json
    have neither. Raises DataError where a file is malformed, a template is no class, or not one row has a file.
    """
    classes = Labels(read_class_list(labels))
    rows, unused = _read_rows(annotations)
    found = scan(videos, "video", "frames")
    names = FileFinder(found, videos)
    clips: dict[str, Clip] = {}
    first: dict[str, _Row] = {}
    left_out: list[Refusal] = []
    for row in rows:
        path = names.file_of(row.id)
        if isinstance(path, Missing):
            left_out.append(Refusal(row.id, path.reason))
        elif path in clips:
            left_out.append(Refusal(row.id, _repeated(row, first[path])))
        else:
            where = f"{annotations} entry {row.number}"
            label = classes.number(row.label_name, where=where) if row.label_name else None
            first[path] = row
            clips[path] = Clip(
                key=sample_key(f"{row.id}.webm"),  # the same wherever the file lies
                source=path,
                captions=(row.caption,) if row.caption else (),
                label=label,
                label_name=None if label is None else classes.names[label],
            )
    if not clips:
        raise no_file_of(annotations, len(rows), videos, looked_for=f"{rows[0].id}.webm" if rows else "")
    return Listing(
        root=videos,
        clips=tuple(clips.values()),
        left_out=(*found.unusable, *left_out),
        labels=classes.names,
        about={"source": "something"},
        notes=(
            *found.notes,
            *found.unnamed(len(clips)),
            *unused_note("field", unused, annotations),
            *flip_notes(classes.names),
        ),
    )


class _Row(NamedTuple):
    number: int  # of the entry in the list
    id: str
    caption: str  # empty in test.json, as is the label
    label_name: str


def _read_rows(path: Path) -> tuple[list[_Row], list[str]]:
    """The rows, and the fields that nobody reads."""
    entries = read_json(path)
    if not isinstance(entries, list):
        raise DataError(f"{path} holds no list", hint="train.json, validation.json and test.json are lists of objects")
    rows = [_row(path, number, entry) for number, entry in enumerate(entries, start=1)]
    return rows, sorted({field for entry in entries for field in entry} - {"id", "label", "template"})


def _row(path: Path, number: int, entry: object) -> _Row:
    fields = entry if isinstance(entry, dict) else {}
    video_id, caption, template = (fields.get(name) for name in ("id", "label", "template"))
    video_id = str(video_id) if type(video_id) is int else video_id
    if not isinstance(video_id, str) or not video_id.strip():
        raise DataError(f"{path}: entry {number} has no id: {shown(str(entry), 80)}")
    for name, text in {"label": caption, "template": template}.items():
        if not isinstance(text, (str, NoneType)):
            said = clean(f"id {video_id}: its {name} is no text: {str(text)[:80]}")
            raise DataError(f"{path}: entry {number}, {said}")
    return _Row(number, clean(video_id), clean(caption or ""), class_name(template or "").translate(_NO_BRACKETS))


def _repeated(row: _Row, first: _Row) -> str:
    differs = "" if row[2:] == first[2:] else ", and says otherwise"
    return f"repeated: entry {row.number} names the video of entry {first.number}{differs}"

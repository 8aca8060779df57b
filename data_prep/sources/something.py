"""Something-Something V2 by its official JSON files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from data_prep.clip import Clip, Listing, Refusal
from data_prep.labels import Labels, clean, flip_notes, read_json
from data_prep.sources.folder import no_file_of, scan
from umt_ds.data.records import sample_key
from umt_ds.errors import DataError


def list_something(videos: Path, *, annotations: Path, labels: Path) -> Listing:
    """The rows of train.json, validation.json or test.json, numbered as labels.json says.

    A row's file is ID.webm (or another video, or a folder ID of frames), anywhere below `videos`. The class is
    the template with the brackets removed, the caption the sentence that a person filled in. Rows of test.json
    have neither. Raises DataError where a file is malformed, a template is no class, or not one row has a file.
    """
    names = _read_classes(labels)
    rows = list(_read_rows(annotations))
    found = scan(videos, "video", "frames")
    clips: dict[str, Clip] = {}
    left_out: list[Refusal] = []
    for row in rows:
        paths = found.find(row.id)
        if len(paths) != 1:
            left_out.append(Refusal(row.id, f"{len(paths)} videos have this id" if paths else "missing: no such video"))
        elif paths[0] in clips:
            left_out.append(Refusal(row.id, "repeated: an earlier row has this id"))
        else:
            label = names.number(row.label_name) if row.label_name else None
            clips[paths[0]] = Clip(
                key=sample_key(f"{row.id}.webm"),  # the same wherever the file lies
                source=paths[0],
                captions=(row.caption,) if row.caption else (),
                label=label,
                label_name=None if label is None else names.names[label],
            )
    if not clips:
        raise no_file_of(annotations, len(rows), videos, looked_for=f"{rows[0].id}.webm" if rows else "")
    return Listing(
        root=videos,
        clips=tuple(clips.values()),
        left_out=(*found.unusable, *left_out),
        labels=names.names,
        about={"source": "something"},
        notes=(*found.notes, *found.unnamed(len(clips)), *flip_notes(names.names)),
    )


class _Row(NamedTuple):
    id: str
    caption: str  # empty in test.json, as is the label
    label_name: str


def _read_rows(path: Path) -> Iterator[_Row]:
    entries = read_json(path)
    if not isinstance(entries, list):
        raise DataError(f"{path} holds no list", hint="train.json, validation.json and test.json are lists of objects")
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict) or "id" not in entry:
            raise DataError(f"{path}: entry {number} has no id: {str(entry)[:80]}")
        video_id, caption, template = (clean(str(entry.get(name, ""))) for name in ("id", "label", "template"))
        yield _Row(video_id, caption, template.replace("[", "").replace("]", ""))


def _read_classes(path: Path) -> Labels:
    """labels.json: {"Approaching something with your camera": "0", …}"""
    content = read_json(path)
    try:
        by_number = {int(number): clean(str(name)) for name, number in content.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{path} is no labels.json: {error}", hint='it must say {"class": "number", …}') from error
    if sorted(by_number) != list(range(len(content))):
        raise DataError(f"{path}: the numbers of its {len(content)} classes are not 0 to {len(content) - 1}, each once")
    return Labels(tuple(by_number[number] for number in range(len(by_number))))

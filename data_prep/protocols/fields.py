"""What rows of published files call a video and its texts, and which of their fields nobody reads.

All forms of a protocol give the same rows, so a video is called by its name without folder and suffix: `video7` of
`all/video7.mp4`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from data_prep.protocols.protocol import Note, Row
from data_prep.tables.annotations import read_annotations
from data_prep.tables.table import clean, text_lines, unused_note
from umt_ds.data.shards.suffixes import USUAL_VIDEOS
from umt_ds.errors import DataError, shown

Fields = Mapping[str, Any]
VIDEO = ("video", "video_id", "video_name", "clip_name", "filename", "file_name")
SPAN = ("start", "end", "time_start", "time_end")  # seconds, where several parts of a video have texts of their own
_YOUTUBE = re.compile(r"(?:v_)?([\w-]{11})")


def rows_of(path: Path, known: Collection[str]) -> Iterator[Row | Note]:
    """The rows of a file, and once which fields they have that are not `known`. Raises DataError where it cannot be
    read."""
    unused: dict[str, None] = {}
    for where, fields in read_annotations(path):
        unused.update(dict.fromkeys(name for name in fields if name not in known))
        yield where, fields
    yield from map(Note, unused_note("field", map(shown, unused), path))


def different(files: Sequence[Path]) -> Sequence[Path]:
    """Raises DataError where one is given twice, is a pickle, or cannot be read."""
    before: set[Path] = set()
    for path in files:
        _refuse_pickle(path)
        if path.resolve() in before:
            raise DataError(f"{path} is given twice", hint="each --annotations names another file")
        before.add(path.resolve())
    return files


def is_object(path: Path) -> bool:
    """Whether a json file is an object, and no list of rows. Raises DataError where it cannot be read."""
    if path.suffix.lower() != ".json":
        return False
    return next((line.lstrip().startswith("{") for _, (line,) in text_lines(path)), False)


def file_name(named: str) -> str:
    """Without folder, and so a file may be called on Windows, too."""
    return clean(named).replace("\\", "/").rpartition("/")[2]


def video_name(named: str) -> str:
    """Without folder and suffix. `_00.01.264` is the end of a name, and no suffix."""
    name = file_name(named)
    stem, _, suffix = name.rpartition(".")
    return stem if stem and suffix.lower() in USUAL_VIDEOS else name


def video_in(fields: Fields, where: str) -> str:
    """The file of the video of a row, without folder; a number is one, too. Raises DataError where it has none."""
    if isinstance(said := field_of(fields, VIDEO), list):
        raise DataError(f"{where} names several videos, and should name one: {shown(repr(said))}")
    return videos_in(fields, where)[0]


def videos_in(fields: Fields, where: str) -> list[str]:
    """The files of the videos of a row, without folders. Raises DataError where it has none."""
    said = listed(field_of(fields, VIDEO))
    names = [file_name(str(one)) for one in said if isinstance(one, str) or type(one) is int]
    if not all(names) or not names or len(names) < len(said):
        of_what = f"but {shown(repr(said))}" if said else f"its fields are {shown(', '.join(fields), 200)}"
        raise DataError(f"{where} names no video: {of_what}", hint=f"known names of the field: {', '.join(VIDEO)}")
    return names


def texts_in(fields: Fields, names: Sequence[str], where: str) -> list[str]:
    """A text of a row or a list of texts, without blanks around them: what the first field of `names` that is there
    holds. Raises DataError where there is none, or something else."""
    if (said := field_of(fields, names)) is None:
        raise DataError(
            f"{where} has no {' or '.join(names)}: its fields are {shown(', '.join(fields), 200)}",
            hint="`umt-data protocols` says what the files of each protocol are",
        )
    texts = listed(said)
    if not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where} should have a text or a list of texts, and has {shown(repr(said))}")
    return [clean(text) for text in texts]


def field_of(fields: Fields, names: Sequence[str]) -> Any:
    """The first that is there; None: there is none."""
    return next((fields[name] for name in names if fields.get(name) is not None), None)


def listed(said: Any) -> list[Any]:
    """A list, or one thing as a list; none of None. In a table (csv, SQLite) a list stands as json: `["a", "b"]`."""
    if isinstance(said, str) and said.lstrip().startswith('["') and said.rstrip().endswith('"]'):
        with suppress(ValueError, RecursionError):  # a text can begin and end like a list
            said = json.loads(said)
    return said if isinstance(said, list) else [] if said is None else [said]


def names_in_activitynet(name: str) -> tuple[str, ...]:
    """What a file of ActivityNet may be called: v_ID, as the corpus has it, or ID."""
    of = _YOUTUBE.fullmatch(name)
    return (f"v_{of[1]}", of[1]) if of else (name,)


def _refuse_pickle(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(2)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if path.suffix.lower() in (".pkl", ".pickle") or start in (b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5"):
        raise DataError(
            f"{path} is a pickle, which can run any program when it is read: it is not opened",
            hint="the corpus has its captions as text, too; data_prep/CORPORA.md says which file to take",
        )

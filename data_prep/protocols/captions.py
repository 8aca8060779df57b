"""Videos with their captions, and lists of the videos of a split, in the forms that several corpora share.

Two forms of a protocol give the same rows: videos are called by their names without folder and suffix and stand in the
order of them, numbers by their value; the captions of a video stand in the order of the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.clip import Refusal
from data_prep.protocols.protocol import Row
from data_prep.tables.annotations import read_annotations
from data_prep.tables.table import clean, text_lines, whole_number
from umt_ds.data.shards.suffixes import USUAL_VIDEOS
from umt_ds.errors import DataError, shown

_VIDEO = ("video", "video_id", "clip_name", "video_name", "filename", "file_name")
_CAPTION = ("caption", "captions", "sentence")
_LISTS = (".txt", ".csv", ".lst", ".list")
_PICKLES = (b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5")  # how they begin
NO_CAPTION = "the files have no caption of the video"
UNSAID = ""  # the split of a caption in a file of all splits that does not say which video is of which


@dataclass(frozen=True, slots=True)
class Caption:
    """A text of a video. where: file and entry. split: as its file calls it; None: the file is one split."""

    where: str
    video: str
    text: str
    split: str | None = None


def read_captions(
    annotations: Sequence[Path],
    *,
    said: Callable[[Path], Iterator[Caption | Refusal]],
    as_list: bool,
    splits: Collection[str] = (),
    list_name: str = "LIST.txt",
) -> Iterator[Row | Refusal]:
    """A row a caption, or with `as_list` a row a video with all of its captions.

    A list of videos among the files selects them. Without one, a file that says which split a video is of gives those
    of `splits`, and a file of one split all that it has. said: the captions of a file. list_name: what the list of the
    protocol is called. Raises DataError where two files have captions of one video, or a list is missing.
    """
    lists, files = lists_and_files(annotations)
    videos = None if lists is None else frozenset(lists)
    of: dict[str, list[Caption]] = {}
    for path, one in _once(files, said):
        if isinstance(one, Refusal):
            yield one
            continue
        if not _is_asked(one, path, videos=videos, splits=splits, list_name=list_name):
            yield Refusal(one.where, "a caption of another split")
        elif not one.text:
            yield Refusal(one.where, "a caption without text")
        else:
            of.setdefault(one.video, []).append(one)
    yield from (Refusal(video, NO_CAPTION) for video in lists or () if video not in of)
    for video in sorted(of, key=by_number):
        if as_list:
            yield of[video][0].where, {"video": video, "caption": [one.text for one in of[video]]}
        else:
            yield from ((one.where, {"video": video, "caption": one.text}) for one in of[video])


def read_choices(annotations: Sequence[Path], *, said: Callable[[Path], Iterator[Row]]) -> Iterator[Row]:
    """The rows of files of questions with texts to choose from. Raises DataError where a list is among them."""
    lists, files = lists_and_files(annotations)
    if lists is not None:
        raise DataError(
            "a list of videos is among the files, and the questions are those of one split", hint="leave it out"
        )
    rows = [row for path in files for row in said(path)]
    yield from sorted(rows, key=lambda row: by_number(row[1]["video"]))


def pairs(path: Path) -> Iterator[Caption | Refusal]:
    """Rows of a name and a caption or a list of them, as UMT and VindLU write them (json, sqlite), and csv files.

    Raises DataError where the file cannot be read, or a row is none.
    """
    for where, fields in read_annotations(path):
        video, captions = name_in(fields, where), field_of(fields, _CAPTION)
        if captions is None:
            raise DataError(
                f"{where} has no caption; its fields are {', '.join(fields)}",
                hint=f"a row has one of {', '.join(_VIDEO)} and one of {', '.join(_CAPTION)}",
            )
        texts = texts_of(captions, where)
        if not texts:
            yield Refusal(where, NO_CAPTION)
        yield from (Caption(where, video, text) for text in texts)


def questions(path: Path) -> Iterator[Row]:
    """Rows of a name, texts and the place of the right one, as UMT and VindLU (json, sqlite) and others (jsonl) write
    them. Raises DataError where the file cannot be read, or a row is none."""
    return (choice(where, fields) for where, fields in read_annotations(path))


def choice(where: str, fields: Mapping[str, Any]) -> Row:
    """A row of texts (`options`, which UMT calls `caption`) and the place of the right one (`answer`, from 0).

    Raises DataError where it is none.
    """
    options = texts_of(field_of(fields, ("options", "caption", "captions")), where)
    answer = whole_number(fields.get("answer"))
    if len(options) < 2:
        raise DataError(f"{where} has no texts to choose from: {shown(repr(options))}")
    if answer is None or not 0 <= answer < len(options):
        raise DataError(
            f"{where}: the answer {shown(repr(fields.get('answer')))} is no place among its {len(options)} texts",
            hint=f"a number from 0 to {len(options) - 1}",
        )
    return where, {"video": name_in(fields, where), "options": options, "answer": answer}


def is_object(path: Path) -> bool:
    """Whether a json file is an object, and no list of rows. Raises DataError where it cannot be read."""
    if path.suffix.lower() != ".json":
        return False
    return next((line.lstrip().startswith("{") for _, (line,) in text_lines(path)), False)


def lists_and_files(annotations: Sequence[Path]) -> tuple[list[str] | None, list[Path]]:
    """The videos that lists among the files name, None where there is no list; and the other files.

    A list has a name a line, and perhaps `video_id` above them. Raises DataError where a file is a pickle or given
    twice, a list is empty, or there are lists alone.
    """
    names: list[str] = []
    files: list[Path] = []
    for path in annotations:
        refuse_pickle(path)
        listed = _listed(path)
        names.extend(listed or ())
        files.extend([path] if listed is None else [])
    if len({path.resolve() for path in files}) < len(files):
        raise DataError(f"{' and '.join(map(str, files))}: one is given twice")
    if not files:
        raise DataError(
            f"{' and '.join(map(str, annotations))} names videos, and nothing is said of them",
            hint="give the file with their captions, too: --annotations FILE",
        )
    return (list(dict.fromkeys(names)) if len(files) < len(annotations) else None), files


def refuse_pickle(path: Path) -> None:
    """Raises DataError where a file is a pickle, or cannot be read."""
    try:
        with path.open("rb") as file:
            start = file.read(2)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if path.suffix.lower() in (".pkl", ".pickle") or (
        start[:1] == b"\x80" and start[1:] in (b"\2", b"\3", b"\4", b"\5")
    ):
        raise DataError(
            f"{path} is a pickle, which can run any program when it is read: it is not opened",
            hint="the corpus has its captions as text, too; data_prep/CORPORA.md says which file to take",
        )


def video_name(named: str) -> str:
    """Without folder and suffix: `video7` of `all/video7.mp4`. `_00.01.264` is the end of a name, and no suffix."""
    name = named.strip().replace("\\", "/").rpartition("/")[2]
    stem, _, suffix = name.rpartition(".")
    return stem if stem and suffix.lower() in USUAL_VIDEOS else name


def name_in(fields: Mapping[str, Any], where: str) -> str:
    """The name of the video of a row. Raises DataError where it has none."""
    named = field_of(fields, _VIDEO)
    if not isinstance(named, str) or not (name := video_name(named)):
        raise DataError(f"{where} names no video", hint=f"known names of its field: {', '.join(_VIDEO)}")
    return name


def field_of(fields: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The first that is there; None: there is none."""
    return next((fields[name] for name in names if fields.get(name) is not None), None)


def texts_of(value: Any, where: str) -> list[str]:
    """A text or a list of texts, without blanks around them; in a table a list stands as json: `["a", "b"]`.

    Raises DataError where it is something else.
    """
    if isinstance(value, str) and value.startswith('["') and value.endswith('"]'):
        with suppress(ValueError):  # a text can begin and end like a list
            value = json.loads(value)
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where} has no text or list of texts, but {shown(repr(value))}")
    return [clean(text) for text in texts]


def by_number(name: str) -> tuple[str, str]:
    """What names are sorted by: `video9` stands before `video10`."""
    return re.sub(r"\d+", lambda digits: digits[0].zfill(20), name), name


def _is_asked(
    one: Caption, path: Path, *, videos: Collection[str] | None, splits: Collection[str], list_name: str
) -> bool:
    """Whether a caption is of the split. Raises DataError where a list has to say it."""
    if videos is not None:
        return one.video in videos
    if one.split is None:
        return True
    if one.split == UNSAID or not splits:
        raise DataError(
            f"{path} has captions of all videos, and does not say which of them are asked",
            hint=f"give the list of them, too: --annotations {list_name}",
        )
    return one.split in splits


def _once(
    files: Sequence[Path], said: Callable[[Path], Iterator[Caption | Refusal]]
) -> Iterator[tuple[Path, Caption | Refusal]]:
    """The captions of files. Raises DataError where two of them have captions of one video."""
    home: dict[str, Path] = {}
    for path in files:
        for one in said(path):
            if isinstance(one, Caption) and (first := home.setdefault(one.video, path)) is not path:
                raise DataError(f"{first} and {path} both have captions of {one.video}", hint="give one of them")
            yield path, one


def _listed(path: Path) -> list[str] | None:
    """The names of a list; None where the file is none."""
    if path.suffix.lower() not in _LISTS:
        return None
    names = []
    for _, (line,) in text_lines(path):
        if re.search(r"[\s,;]", line):
            return None
        names.append(line)
    if names and names[0].casefold() in _VIDEO:
        del names[0]
    if not names:
        raise DataError(f"{path} names no video")
    return [video_name(name) for name in names]

"""Videos with their captions, and lists of the videos of a split, in the forms that several corpora share.

Two forms of a protocol give the same rows: videos are called by their names without folder and suffix and stand in the
order of them, numbers by their value; the captions of a video stand in the order of the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.clip import Refusal
from data_prep.protocols.fields import VIDEO, Fields, different, rows_of, texts_in, video_in, video_name
from data_prep.protocols.protocol import Note, Row, Said
from data_prep.tables.table import text_lines, whole_number
from umt_ds.errors import DataError, shown

_CAPTION = ("caption", "captions", "sentence")
_OPTIONS = ("options", "caption", "captions")
_LISTS = (".txt", ".csv", ".lst", ".list")
NO_CAPTION = "the files have no caption of the video"
UNSAID = ""  # the split of a caption in a file of all splits that does not say which video is of which


@dataclass(frozen=True, slots=True)
class Caption:
    """A text of a video. where: file and entry. split: as its file calls it; None: the file is one split."""

    where: str
    video: str
    text: str
    split: str | None = None


SaidOf = Callable[[Path], Iterator[Caption | Refusal | Note]]  # the captions of a file


def read_captions(
    annotations: Sequence[Path],
    *,
    said: SaidOf,
    as_list: bool,
    splits: Collection[str] = (),
    list_name: str = "LIST.txt",
) -> Iterator[Said]:
    """A row a caption, or with `as_list` a row a video with all of its captions.

    A list of videos among the files selects them. Without one, a file that says which split a video is of gives those
    of `splits`, and a file of one split all that it has. said: the captions of a file. list_name: what the list of the
    protocol is called. Raises DataError where two files have captions of one video, or a list is missing.
    """
    lists, files = lists_and_files(annotations)
    videos = None if lists is None else frozenset(lists)
    of: dict[str, list[Caption]] = {}
    for path, one in _once(files, said):
        if not isinstance(one, Caption):
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


def read_choices(annotations: Sequence[Path], *, said: Callable[[Path], Iterator[Row | Note]]) -> Iterator[Said]:
    """The rows of files of questions with texts to choose from. Raises DataError where a list is among them."""
    lists, files = lists_and_files(annotations)
    if lists is not None:
        raise DataError(
            "a list of videos is among the files, and the questions are those of one split", hint="leave it out"
        )
    rows = []
    for row in (row for path in files for row in said(path)):
        if isinstance(row, Note):
            yield row
        else:
            rows.append(row)
    yield from sorted(rows, key=lambda row: by_number(row[1]["video"]))


def pairs(path: Path) -> Iterator[Caption | Refusal | Note]:
    """Rows of a name and a caption or a list of them, as UMT and VindLU write them (json, sqlite), and csv files.

    Raises DataError where the file cannot be read, or a row is none.
    """
    for row in rows_of(path, (*VIDEO, *_CAPTION)):
        if isinstance(row, Note):
            yield row
            continue
        where, fields = row
        if "answer" in fields:
            raise DataError(
                f"{where} has an answer: it is no caption, but a question", hint="`umt-data protocols` says whose it is"
            )
        video, texts = video_name(video_in(fields, where)), texts_in(fields, _CAPTION, where)
        if not texts:
            yield Refusal(where, NO_CAPTION)
        yield from (Caption(where, video, text) for text in texts)


def questions(path: Path) -> Iterator[Row | Note]:
    """Rows of a name, texts and the place of the right one, as UMT and VindLU (json, sqlite) and others (jsonl) write
    them. Raises DataError where the file cannot be read, or a row is none."""
    for row in rows_of(path, (*VIDEO, *_OPTIONS, "answer")):
        yield row if isinstance(row, Note) else choice(*row)


def choice(where: str, fields: Fields) -> Row:
    """A row of texts (`options`, which UMT calls `caption`) and the place of the right one (`answer`, from 0).

    Raises DataError where it is none.
    """
    options, answer = texts_in(fields, _OPTIONS, where), whole_number(fields.get("answer"))
    if len(options) < 2:
        raise DataError(f"{where} has no texts to choose from: {shown(repr(options))}")
    if answer is None or not 0 <= answer < len(options):
        raise DataError(
            f"{where}: the answer {shown(repr(fields.get('answer')))} is no place among its {len(options)} texts",
            hint=f"a number from 0 to {len(options) - 1}",
        )
    return where, {"video": video_name(video_in(fields, where)), "options": options, "answer": answer}


def lists_and_files(annotations: Sequence[Path]) -> tuple[list[str] | None, list[Path]]:
    """The videos that lists among the files name, None where there is no list; and the other files.

    A list has a name a line, and perhaps `video_id` above them. Raises DataError where a file is a pickle or given
    twice, a list is empty, or there are lists alone.
    """
    names: list[str] = []
    files: list[Path] = []
    for path in different(annotations):
        listed = _listed(path)
        names.extend(listed or ())
        files.extend([path] if listed is None else [])
    if not files:
        raise DataError(
            f"{' and '.join(map(str, annotations))} names videos, and nothing is said of them",
            hint="give the file with their captions, too: --annotations FILE",
        )
    return (list(dict.fromkeys(names)) if len(files) < len(annotations) else None), files


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


def _once(files: Sequence[Path], said: SaidOf) -> Iterator[tuple[Path, Caption | Refusal | Note]]:
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
    if names and names[0].casefold() in VIDEO:
        del names[0]
    if not names:
        raise DataError(f"{path} names no video")
    return [video_name(name) for name in names]

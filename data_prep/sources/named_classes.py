"""UCF101, HMDB51 and Moments in Time (V1, V2) by their official files, whose rows say the class by its name.

    UCF101   trainlist01.txt   ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1     testlist01.txt without the number
             classInd.txt      1 ApplyEyeMakeup
    HMDB51   brush_hair_test_split1.txt   April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1     1 training, 2 test, 0 neither
    MiT      trainingSet.csv   adult+female+singing/getty-x_4.mp4,adult+female+singing,3,1
             moments_categories.txt   clapping,0

Numbers count from 0, as released heads do: those of classInd.txt less one, of HMDB51 in alphabetical order.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from data_prep.clip import Clip, Listing, Refusal
from data_prep.sources.names import FileFinder, Missing
from data_prep.sources.scan import FoundFiles, no_file_of, scan
from data_prep.tables.class_list import read_class_list
from data_prep.tables.labels import Labels, flip_notes
from data_prep.tables.table import split_lines, text_lines, whole_number
from umt_ds.errors import DataError, quoted, some

Part = Literal["train", "test"]
_HMDB_PARTS: dict[Part, int] = {"train": 1, "test": 2}
_CLASS_IND = "give classInd.txt as UCF101 ships it: its numbers begin with 1"
_HMDB_FILE = re.compile(r"(?P<name>.+)_test_split(?P<split>[123])\.txt")


class _Row(NamedTuple):
    where: str  # file and line
    path: str  # CLASS/FILE
    class_name: str


def list_ucf101(videos: Path, *, rows: Path, classes: Path) -> Listing:
    """The rows of trainlistNN.txt or testlistNN.txt, numbered as classInd.txt says, less one.

    Raises DataError where a file is malformed, a number is not that of the folder, or not one row has a file.
    """
    names = Labels(_class_ind(classes))
    return _listing(_scan(videos), rows, _ucf101_rows(rows, names), names, source="ucf101")


def list_hmdb51(videos: Path, *, splits: Path, split: int, part: Part) -> Listing:
    """The videos of one part of an official split, by the files NAME_test_splitN.txt of a folder.

    Raises DataError where a file is malformed, a class of another split has no file of this one, or not one row has a
    file. Says which classes have videos and no file.
    """
    of_split = _hmdb51_files(splits, split)
    names, found = Labels(tuple(sorted(of_split))), _scan(videos)
    listing = _listing(found, splits, _hmdb51_rows(of_split, _HMDB_PARTS[part]), names, source="hmdb51")
    return replace(listing, notes=(*listing.notes, *_unlisted_classes(found, names, split)))


def list_moments(videos: Path, *, csv: Path, classes: Path) -> Listing:
    """The rows of trainingSet.csv or validationSet.csv of Moments in Time, numbered as moments_categories.txt says.

    V2 has the same files and 305 of the 339 classes, with other numbers.
    Raises DataError where a file is malformed or not one row has a file.
    """
    return _listing(_scan(videos), csv, _moments_rows(csv), Labels(read_class_list(classes)), source="moments")


# ---------------------------------------------------------------- rows


def _class_ind(path: Path) -> tuple[str, ...]:
    lines: dict[str, int] = {}  # of each class
    for line, (text,) in text_lines(path):
        number, _, name = text.partition(" ")
        name = name.strip()
        if whole_number(number) != len(lines) + 1 or not name:
            raise DataError(f"{path} line {line} is not `{len(lines) + 1} CLASS`: {quoted(text)}", hint=_CLASS_IND)
        if name in lines:
            raise DataError(f"{path} line {line} names {name}, as line {lines[name]} does", hint=_CLASS_IND)
        lines[name] = line
    if not lines:
        raise DataError(f"{path} names no class", hint=_CLASS_IND)
    return tuple(lines)


def _ucf101_rows(path: Path, names: Labels) -> Iterator[_Row]:
    for line, (text,) in text_lines(path):
        where = f"{path} line {line}"
        file, _, number = text.strip().partition(" ")
        folder = file.rpartition("/")[0]
        if not folder:
            raise DataError(f"{where} is not CLASS/FILE: {quoted(text)}", hint="give trainlist01.txt or testlist01.txt")
        if number and whole_number(number) != (listed := names.number(folder, where=where) + 1):
            raise DataError(
                f"{where}: {folder} has number {number}, and {listed} in classInd.txt",
                hint="give both files as UCF101 ships them; lists whose numbers count from 0 are for `umt-data list`",
            )
        yield _Row(where, file, folder)


def _hmdb51_files(splits: Path, split: int) -> dict[str, Path]:
    """The files of a split, by class. Raises DataError where it has none, or not of all classes: one that is missing
    would shift the numbers of those behind it."""
    matches = [(path, match) for path in sorted(splits.iterdir()) if (match := _HMDB_FILE.fullmatch(path.name))]
    found = {match["name"]: path for path, match in matches if int(match["split"]) == split}
    hint = "unpack all of test_train_splits.rar there"
    if not found:
        raise DataError(f"{splits} holds no file NAME_test_split{split}.txt", hint=hint)
    lacking = sorted({match["name"] for _, match in matches} - found.keys())
    if lacking:
        raise DataError(
            f"{splits}: {len(lacking)} of {len(found) + len(lacking)} classes have files of other splits and no "
            f"NAME_test_split{split}.txt: {some(lacking)}",
            hint=hint,
        )
    return found


def _unlisted_classes(found: FoundFiles, names: Labels, split: int) -> tuple[str, ...]:
    """A note on folders of videos that are no class of the split."""
    folders = Counter(PurePosixPath(path).parent.name for path in found.paths)
    unlisted = sorted(name for name in folders if name and not names.has(name))
    if not unlisted:
        return ()
    return (
        f"{len(unlisted)} folders with {sum(folders[name] for name in unlisted):,} videos have no "
        f"NAME_test_split{split}.txt, so they are no classes of this set, whose numbers count without them: "
        f"{some(unlisted)}",
    )


def _hmdb51_rows(files: dict[str, Path], wanted: int) -> Iterator[_Row]:
    for name, path in files.items():
        for line, (text,) in text_lines(path):
            file, _, mark = text.strip().rpartition(" ")
            if not file or mark not in ("0", "1", "2"):
                raise DataError(f"{path} line {line} does not end in 0, 1 or 2: {quoted(text)}")
            if int(mark) == wanted:
                yield _Row(f"{path} line {line}", f"{name}/{file.strip()}", name)


def _moments_rows(path: Path) -> Iterator[_Row]:
    for line, fields in split_lines(path, delimiter=","):
        file = fields[0].strip()
        folder = file.rpartition("/")[0]
        if not folder or len(fields) < 2 or fields[1].strip() != folder:
            raise DataError(
                f"{path} line {line} does not begin with CLASS/FILE,CLASS: {quoted(','.join(fields))}",
                hint="give trainingSet.csv or validationSet.csv of Moments in Time, which have no header",
            )
        yield _Row(f"{path} line {line}", file, folder)


# ---------------------------------------------------------------- files


def _scan(videos: Path) -> FoundFiles:
    return scan(videos, "video", "frames")


def _listing(found: FoundFiles, table: Path, rows: Iterable[_Row], classes: Labels, *, source: str) -> Listing:
    videos = found.folder
    files = FileFinder(found, videos, missing="missing: no file for it")
    clips: dict[str, Clip] = {}
    left_out: list[Refusal] = []
    for row in rows:
        label = classes.number(row.class_name, where=row.where)
        path = files.file_of(row.path)
        if isinstance(path, Missing):
            left_out.append(Refusal(row.path, path.reason))
        elif path in clips:
            left_out.append(Refusal(row.path, f"repeated: {row.where} names a file that an earlier row has"))
        else:
            clips[path] = Clip(found.key(path), path, label=label, label_name=row.class_name)
    if not clips:
        raise no_file_of(table, len(left_out), videos, looked_for=left_out[0].source if left_out else "")
    return Listing(
        root=videos,
        clips=tuple(clips.values()),
        left_out=(*found.unusable, *left_out),
        labels=classes.names,
        about={"source": source},
        notes=(*found.notes, *found.unnamed(len(clips)), *flip_notes(classes.names)),
    )

"""The files in which AVA and its detectors are published, as boxes by second. One law: a file is of a known form, or it
is refused with the line and the reason.

    official    ava_val_v2.2.csv: video,second,x0,y0,x1,y1,action,person, a row an action, with corners in shares of the
                frame; ava_val_excluded_timestamps_v2.2.csv: video,second; ava_action_list_v2.2….pbtxt: names of all 80
                actions, or of the 60 that are scored
    AlphAction  ava_val_v2.2_min.json: `images` and `annotations` as COCO has them, x,y,w,h in pixels; its detector's
                ava_val_det_person_bbox.json: image_id, bbox and score, of the images of that file
    SlowFast    ava_detection_val_boxes_and_labels.csv: as the official one, with a score in the place of the person
    MMAction    video,second,x0,y0,x1,y1,score as csv; as json, lists of [x0,y0,x1,y1,score] by "video,second"

Forms are told apart by what they hold, not by their names. Corners stay shares of the frame, as the official file has
them, and x + w is the right one: AlphAction takes a pixel off it when it makes pixels of shares, and adds it again when
it writes its scores.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.tables.table import Row as Line
from data_prep.tables.table import read_json, read_text, split_lines, whole_number
from umt_ds.errors import DataError, shown

NUM_ACTIONS = 80
_DECIMALS = 3  # of official corners: pixels of another form, rounded to this, give the same numbers
_LARGEST = 10**6  # pixels
_BLOCK = re.compile(r"\{([^{}]*)\}")
_NAME = re.compile(r"""\bname:\s*(["'])(.*?)\1""")
_NUMBER = re.compile(r"\b(?:label_)?id:\s*(\d{1,3})\b")
_PROPOSALS = (
    "import json, pickle; "
    "json.dump({k: v.tolist() for k, v in pickle.load(open('{}', 'rb')).items()}, open('{}.json', 'w'))"
)
_FORMS = (
    "the official csv (video,second,x0,y0,x1,y1,action,person), its excluded time stamps and label map (.pbtxt), "
    "AlphAction's json of annotations and of detected boxes, and detected boxes as csv or json with their scores"
)

Second = tuple[str, int]  # video, second of the film
Corners = tuple[float, float, float, float]  # x0, y0, x1, y1 in shares of the frame


class Person(NamedTuple):
    """Who is annotated in a second: two rows with the same say two actions of one person."""

    corners: Corners
    person: int | None  # the same number in several seconds is the same person


class _Image(NamedTuple):
    """A key frame of AlphAction's."""

    at: Second
    width: float
    height: float


@dataclass
class AvaFiles:
    """What the files of a split say together."""

    people: dict[Second, dict[Person, set[int]]] = field(default_factory=dict)  # the numbers of their actions
    detected: dict[Second, dict[Corners, float]] = field(default_factory=dict)  # scores
    excluded: set[Second] = field(default_factory=set)
    names: dict[int, str] = field(default_factory=dict)  # of actions
    scored: tuple[int, ...] = ()  # actions that count in a score, where a label map has some of them
    has_detections: bool = False
    _images: dict[int, _Image] = field(default_factory=dict)
    _of_images: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def add_action(self, at: Second, person: Person, action: int) -> None:
        self.people.setdefault(at, {}).setdefault(person, set()).add(action)

    def add_detected(self, at: Second, corners: Corners, score: float) -> None:
        self.detected.setdefault(at, {})[corners] = score


def read_ava_files(files: Sequence[Path]) -> AvaFiles:
    """All of them together, in any order. Raises DataError where one is of no known form or contradicts itself."""
    said = AvaFiles()
    for path in files:
        match path.suffix.lower():
            case ".pkl" | ".pickle":
                raise _is_pickle(path)
            case ".pbtxt":
                _read_names(path, said)
            case ".json":
                _read_json_form(path, said)
            case _:
                _read_csv_form(path, said)
    for where, box in said._of_images:
        _add_of_image(said, where, box)
    for people in said.people.values():
        _join_unnumbered(people)
    return said


def _join_unnumbered(people: dict[Person, set[int]]) -> None:
    """Who has a number in one file and none in another, with the same box, is one person."""
    for person in [one for one in people if one.person is None]:
        same = next((one for one in people if one.corners == person.corners and one != person), None)
        if same is not None:
            people[same] |= people.pop(person)


def read_names(files: Sequence[Path]) -> AvaFiles:
    """The label maps among the files, alone."""
    said = AvaFiles()
    for path in files:
        if path.suffix.lower() == ".pbtxt":
            _read_names(path, said)
    return said


def _is_pickle(path: Path) -> DataError:
    return DataError(
        f"{path} is a pickle: to read it is to run whatever program lies in it",
        hint="where you trust it, make a json of it, on a machine that may be lost: "
        f'`python -c "{_PROPOSALS.replace("{}", path.name)}"`, and give {path.name}.json',
    )


# --- csv


def _read_csv_form(path: Path, said: AvaFiles) -> None:
    rows = list(split_lines(path, delimiter=","))
    if not rows:
        raise DataError(f"{path} is empty", hint=f"known: {_FORMS}")
    columns = len(rows[0].cells)
    if columns not in (2, 7, 8):
        raise _unknown(path, f"its first line has {columns} columns")
    if odd := next((row for row in rows if len(row.cells) != columns), None):
        raise DataError(f"{path} line {odd.line} has {len(odd.cells)} columns, the first one {columns}")
    if columns == 2:
        said.excluded |= {_second(row.cells, _at(path, row)) for row in rows}
    elif all(row.cells[-1].isdecimal() for row in rows):
        for row in rows:
            _add_action(said, row.cells, _at(path, row))
    else:
        said.has_detections = True
        for row in rows:
            where = _at(path, row)
            said.add_detected(_second(row.cells, where), _corners(row.cells[2:6], where), _score(row.cells[-1], where))


def _at(path: Path, row: Line) -> str:
    return f"{path} line {row.line}"


def _add_action(said: AvaFiles, cells: Sequence[str], where: str) -> None:
    person = whole_number(cells[7]) if len(cells) == 8 else None
    corners = _corners(cells[2:6], where, within=True)
    said.add_action(_second(cells, where), Person(corners, person), _action(cells[6], where))


# --- json


def _read_json_form(path: Path, said: AvaFiles) -> None:
    match read_json(path):
        case {"images": list(images), "annotations": list(annotations)}:
            images = [_fields(path, "image", number, one) for number, one in enumerate(images, start=1)]
            for where, image in images:
                said._images[_whole(image, "id", where)] = _image(image, where)
            for number, one in enumerate(annotations, start=1):
                _add_annotation(said, *_fields(path, "annotation", number, one))
        case list(boxes):
            said.has_detections = True
            said._of_images += [_fields(path, "entry", number, one) for number, one in enumerate(boxes, start=1)]
        case dict(by_second) if by_second and all("," in name for name in by_second):
            said.has_detections = True
            for name, boxes in by_second.items():
                _add_proposals(said, name, boxes, f"{path} {shown(name, 60)}")
        case _:
            raise _unknown(path, "it is another json")


def _fields(path: Path, what: str, number: int, one: object) -> tuple[str, dict[str, Any]]:
    where = f"{path}: {what} {number}"
    if not isinstance(one, dict):
        raise DataError(f"{where} is no object but {shown(repr(one))}")
    return where, one


def _image(image: Mapping[str, Any], where: str) -> _Image:
    at = _second((image.get("movie"), image.get("timestamp")), where)
    width, height = _whole(image, "width", where), _whole(image, "height", where)
    if width < 1 or height < 1:
        raise DataError(f"{where} is of {width}x{height} pixels")
    return _Image(at, width, height)


def _add_annotation(said: AvaFiles, where: str, annotation: Mapping[str, Any]) -> None:
    image = _image_of(said, where, annotation)
    actions = annotation.get("action_ids")
    if not isinstance(actions, list) or not actions:
        raise DataError(f"{where} says no actions (action_ids)")
    corners = [round(corner, _DECIMALS) for corner in _of_pixels(annotation, image, where)]
    number = None if annotation.get("person_id") is None else _whole(annotation, "person_id", where)
    person = Person(_corners(corners, where, within=True), number)
    for action in actions:
        said.add_action(image.at, person, _action(action, where))


def _add_of_image(said: AvaFiles, where: str, box: Mapping[str, Any]) -> None:
    image = _image_of(said, where, box)
    corners = [round(corner, 6) for corner in _of_pixels(box, image, where)]
    said.add_detected(image.at, _corners(corners, where), _score(box.get("score"), where))


def _image_of(said: AvaFiles, where: str, box: Mapping[str, Any]) -> _Image:
    number = _whole(box, "image_id", where)
    if number not in said._images:
        raise DataError(
            f"{where} is of image {number}, and no file says which second of which video that is",
            hint="give the json with the images of the same split beside it, as --annotations ava_val_v2.2_min.json",
        )
    return said._images[number]


def _of_pixels(box: Mapping[str, Any], image: _Image, where: str) -> Corners:
    """x, y, w, h in pixels as corners in shares of the frame."""
    match box.get("bbox"):
        case [int() | float() as x, int() | float() as y, int() | float() as w, int() | float() as h] if all(
            abs(pixel) < _LARGEST
            for pixel in (x, y, w, h)  # not a NaN
        ):
            return x / image.width, y / image.height, (x + w) / image.width, (y + h) / image.height
        case other:
            raise DataError(f"{where}: bbox {shown(repr(other))} is no x, y, w, h in pixels")


def _add_proposals(said: AvaFiles, name: str, boxes: object, where: str) -> None:
    video, _, second = name.rpartition(",")
    at = _second((video, second), where)
    if not isinstance(boxes, list):
        raise DataError(f"{where} is no list of boxes")
    for box in boxes:
        if not isinstance(box, list) or len(box) != 5:
            raise DataError(f"{where}: {shown(repr(box))} is no [x0, y0, x1, y1, score]")
        said.add_detected(at, _corners(box[:4], where), _score(box[4], where))


# --- the label map


def _read_names(path: Path, said: AvaFiles) -> None:
    """`item { name: "…" id: 1 }` or `label { name: "…" label_id: 1 … }`."""
    found: dict[int, str] = {}
    for block in _BLOCK.findall(read_text(path)):
        named, numbered = _NAME.search(block), _NUMBER.search(block)
        if named is None or numbered is None or not 1 <= int(numbered[1]) <= NUM_ACTIONS:
            raise _unknown(path, f"{shown(repr(block.strip()), 100)} is no name of an action from 1 to {NUM_ACTIONS}")
        found[int(numbered[1])] = named[2]
    if not found:
        raise _unknown(path, f"it names no actions from 1 to {NUM_ACTIONS}")
    for number, name in found.items():
        if said.names.setdefault(number, name) != name:
            raise DataError(
                f"{path} calls action {number} {shown(name)}, another label map {shown(said.names[number])}"
            )
    if len(found) < NUM_ACTIONS:
        said.scored = tuple(sorted(found))


# --- cells


def _second(cells: Sequence[Any], where: str) -> Second:
    video, second = cells[0], whole_number(cells[1])
    if not isinstance(video, str) or not video or second is None or second < 0:
        raise DataError(
            f"{where}: {shown(repr(cells[0]), 60)}, {shown(repr(cells[1]), 60)} are no video and second of it",
            hint=f"known: {_FORMS}",
        )
    return video, second


def _corners(cells: Sequence[Any], where: str, *, within: bool = False) -> Corners:
    """A detector's may lie beyond the edge of the frame, annotated ones lie `within` it."""
    try:
        x0, y0, x1, y1 = map(float, cells)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: {shown(repr(list(cells)))} are no corners of a box") from error
    low, high = (0, 1) if within else (-1, 2)
    if not low <= x0 <= x1 <= high or not low <= y0 <= y1 <= high:
        raise DataError(
            f"{where}: {x0:g}, {y0:g}, {x1:g}, {y1:g} are no x0, y0, x1, y1 in shares of the frame",
            hint="corners are numbers from 0 to 1, and the first is the upper left one",
        )
    return x0, y0, x1, y1


def _score(cell: Any, where: str) -> float:
    try:
        score = float(cell)
    except (TypeError, ValueError):
        score = -1.0
    if not 0 <= score <= 1:
        raise DataError(f"{where}: {shown(repr(cell))} is no score from 0 to 1")
    return score


def _action(cell: Any, where: str) -> int:
    action = whole_number(cell)
    if action is None or not 1 <= action <= NUM_ACTIONS:
        raise DataError(f"{where}: {shown(repr(cell))} is no action: they are numbered from 1 to {NUM_ACTIONS}")
    return action


def _whole(entry: Mapping[str, Any], name: str, where: str) -> int:
    number = whole_number(entry.get(name))
    if number is None:
        raise DataError(f"{where}: {name} is {shown(repr(entry.get(name)))}, and no whole number")
    return number


def _unknown(path: Path, why: str) -> DataError:
    return DataError(f"{path} is of no form of AVA that is known: {why}", hint=f"known: {_FORMS}")

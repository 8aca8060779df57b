"""AVA v2.2: boxes and actions of a second in videos of 15 minutes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from data_prep.clip import Refusal
from data_prep.protocols.ava_files import NUM_ACTIONS, AvaFiles, Second, read_ava_files, read_names
from data_prep.protocols.protocol import ClassNames, Counts, Protocol, Row

# Of each film the seconds from 902 to 1798 are annotated. Public copies are often cut to these seconds of it.
_CUT_S = (900.0, 1801.0)
_BEFORE_S, _AFTER_S = 5, 4.999  # stored times are in ms: the frame at t + 5 s is not one of the 300


def _rows(files: Sequence[Path]) -> Iterator[Row | Refusal]:
    """A row a second: of each that has people or detected boxes."""
    said = read_ava_files(files)
    videos = {video: number for number, (video, _) in enumerate(said.people)} or {
        video: number for number, (video, _) in enumerate(said.detected)
    }
    seconds = {at for at in (*said.people, *said.detected) if at[0] in videos}
    for at in sorted(seconds, key=lambda at: (videos[at[0]], at[1])):
        if at in said.excluded:
            yield Refusal(_where(at), "an excluded time stamp")
        else:
            yield _where(at), _row(said, at)
    for video in sorted({video for video, _ in said.detected} - videos.keys()):
        yield Refusal(video, "a detector's boxes of a video that nobody annotated")


def _row(said: AvaFiles, at: Second) -> dict[str, object]:
    video, second = at
    people = said.people.get(at, {})
    row: dict[str, object] = {
        "video": (video, f"{video}_trim"),  # as public copies are called that are cut
        "movie": video,
        "second": second,
        "start": second - _BEFORE_S,
        "end": second + _AFTER_S,
        "boxes": [list(person.corners) for person in people],
        "actions": [sorted(actions) for actions in people.values()],
        "person_ids": [person.person for person in people],
    }
    if said.has_detections:
        detected = said.detected.get(at, {})
        row |= {"detected_boxes": [list(box) for box in detected], "box_scores": list(detected.values())}
    return row


def _where(at: Second) -> str:
    video, second = at
    return f"{video},{second:04d}"


def _class_names(files: Sequence[Path]) -> ClassNames | None:
    said = read_names(files)
    names = tuple(said.names.get(number, "") for number in range(1, NUM_ACTIONS + 1))
    return ClassNames(names, said.scored) if said.names else None


def _split(split: str, videos: int) -> Protocol:
    return Protocol(
        name=f"ava-{split}",
        task="detection",
        about=f"AVA v2.2 {split}: a second an item, with 300 frames around it at 30 a second",
        read=_rows,
        expected=(Counts(videos),),
        cut_s=_CUT_S,
        class_names=_class_names,
    )


PROTOCOLS = (_split("train", 235), _split("val", 64))

"""What a sample says of itself: caption, label and more, read alike by training and by preparation. Torch-free.

Its json says it; WebDataset's `txt` (a caption) and `cls` (the number of a class) fill what the json leaves out.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from umt_ds.errors import DecodeError, quoted, shown

Record = dict[str, Any]
# A caption as it is written → as it is tokenised.
Clean = Callable[[str], str]

ANSWERS = ("answers", "answer_weights")  # the fields that `answers_of` reads
_KINDS = ("json", "txt", "cls")
_CLASS_NUMBER = re.compile(r"\s*-?[0-9]{1,18}\s*")  # int() takes 1_000 and other scripts' digits, too
_LATIN = re.compile("[0-9A-Za-z]")
_LARGEST = 2**63 - 1  # of the labels that a tensor holds
_NUMBER = re.compile(r"\s*[0-9]+(?:\.[0-9]*)?\s*")
_TOO_LARGE = 1e12  # for seconds or pixels: infinite, or a mistake


def is_of_record(suffix: str) -> bool:
    """Whether the member with this suffix says something of its sample, instead of showing it."""
    return suffix.lower() in _KINDS


def record_of(suffixes: Iterable[str], read: Callable[[str], bytes]) -> Record:
    """The record of a sample whose members have these suffixes; `read` gives the bytes of one, and is asked only for
    what counts. Raises DecodeError where they cannot be read, or two of them claim to be the same.
    """
    kinds: dict[str, str] = {}
    for suffix in filter(is_of_record, suffixes):
        if kinds.setdefault(suffix.lower(), suffix) != suffix:
            raise DecodeError(f"has both {kinds[suffix.lower()]} and {suffix}: which one counts, nobody knows")
    try:
        record = json.loads(read(kinds["json"])) if "json" in kinds else {}
        if not isinstance(record, dict):
            raise DecodeError(f"json holds a {type(record).__name__}, not an object")
        if "txt" in kinds and not record.get("caption"):  # img2dataset writes null
            record["caption"] = read(kinds["txt"]).decode("utf-8-sig")
        if "cls" in kinds and record.get("label") is None:
            record["label"] = _class_number(read(kinds["cls"]).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise DecodeError(f"json, txt or cls cannot be read: {error}") from error
    return record


def _class_number(text: str) -> int:
    if not _CLASS_NUMBER.fullmatch(text):
        raise ValueError(f"{quoted(text)} is not the number of a class")
    return int(text)


def label_of(record: Mapping[str, Any], field: str = "label") -> int:
    """The label in `field`, -1 where the sample has none. Raises DecodeError for what is no whole number."""
    label = record.get(field)
    if label is None:
        return -1
    if not isinstance(label, int) or isinstance(label, bool) or not -_LARGEST <= label <= _LARGEST:
        raise DecodeError(f"{field}={shown(repr(label))} is not a whole number of 64 bits")
    return label


def has_label(record: Mapping[str, Any]) -> bool:
    """Whether it says a label, be it one that training can use or not; -1 stands for none."""
    return record.get("label") not in (None, -1)


def captions_of(record: Mapping[str, Any], *, field: str = "caption", clean: Clean = str.strip) -> list[str]:
    """The captions in `field`, cleaned; none where nothing is left of them. Raises DecodeError for what is no text."""
    said = record.get(field)
    captions = [] if said is None else [said] if isinstance(said, str) else said
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise DecodeError(f"{field} is of type {type(said).__name__}, neither text nor a list of texts")
    return [text for caption in captions if (text := clean(plain_text(caption)))]


class WeightedAnswer(NamedTuple):
    """An answer to a question, and what it counts among the answers to it."""

    text: str
    weight: float


def answers_of(record: Mapping[str, Any]) -> tuple[WeightedAnswer, ...]:
    """The different answers in `answers` (a text, or a list of texts), as they are written; none where there are none.

    Weighed by `answer_weights`, or, without, by the share that each has of all: of yes, no, yes, yes 3/4 and 1/4.
    Raises DecodeError for what is no text, and for weights that are not one number from 0 for each answer, one of them
    above.
    """
    said = record.get("answers")
    answers = [] if said is None else [said] if isinstance(said, str) else said
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise DecodeError(f"answers is of type {type(said).__name__}, neither text nor a list of texts")
    texts = [plain_text(answer) for answer in answers]
    weights = record.get("answer_weights")
    if weights is None:
        weights = [1 / max(1, sum(map(bool, texts))) for _ in texts]  # an empty one has no share
    elif not _are_weights(weights) or len(weights) != len(answers):
        raise DecodeError(f"answer_weights={shown(repr(weights))} are not the weights of {len(answers)} answers")
    counted: dict[str, float] = {}
    for answer, weight in zip(texts, weights, strict=True):
        if answer:
            counted[answer] = counted.get(answer, 0.0) + weight
    if counted and not any(counted.values()):
        raise DecodeError(f"answer_weights={shown(repr(weights))} leave all answers that say something at 0")
    return tuple(WeightedAnswer(answer, weight) for answer, weight in counted.items())


def _are_weights(value: object) -> bool:
    if not isinstance(value, list):
        return False
    numbers = all(isinstance(one, int | float) and not isinstance(one, bool) and 0 <= one < _TOO_LARGE for one in value)
    return numbers and any(value)


class Choice(NamedTuple):
    """Texts of which one is right, and its place among them, from 0."""

    options: tuple[str, ...]
    answer: int


def choice_of(record: Mapping[str, Any], *, options: str, answer: str, clean: Clean = str.strip) -> Choice:
    """The texts in the field `options`, cleaned, with the right one's place, which is in the field `answer`.

    Raises DecodeError where there are not two texts at least, one of them is empty, or none of them is right.
    """
    said, place = record.get(options), record.get(answer)
    if not isinstance(said, list) or not all(isinstance(text, str) for text in said):
        raise DecodeError(f"{options} is no list of texts to choose from")
    if len(said) < 2:
        raise DecodeError(f"{options} has {len(said)} of the two texts that a choice needs at least")
    texts = tuple(clean(plain_text(text)) for text in said)
    if not all(texts):
        raise DecodeError(f"{options} has an empty text in place {texts.index('')}")
    if place is None:
        raise DecodeError(f"it has no {answer}")
    if not isinstance(place, int) or isinstance(place, bool) or not 0 <= place < len(texts):
        raise DecodeError(f"{answer}={shown(repr(place))} is no place among its {len(texts)} texts, which count from 0")
    return Choice(texts, place)


def number_in(record: Mapping[str, Any], field: str) -> float | None:
    """The number above 0 in `field`, also where it is written as text; None where there is none, as 0 says too."""
    said = record.get(field)
    if isinstance(said, str) and _NUMBER.fullmatch(said):
        said = float(said)
    if isinstance(said, bool) or not isinstance(said, int | float):
        return None
    return float(said) if 0 < said < _TOO_LARGE else None


@dataclass(frozen=True)
class Question:
    """What is asked of a sample. fields: in the place of its json's. frames: first and last stored frame, or all.
    group: what it has in common with other items that count as the same, or None."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    frames: tuple[int, int] | None = None
    group: str | None = None


NO_QUESTION = Question()


@dataclass(frozen=True)
class StoredFrames:
    """Which frames of its clip a sample stores."""

    num_frames: int  # that the clip has in its source, stored or not
    numbers: Sequence[int]  # in the clip, of the stored frames in their order


def stored_frames(record: Mapping[str, Any], num_stored: int) -> StoredFrames | None:
    """Which frames of its clip a sample with `num_stored` frames stores; None where it does not say.

    A sample of ours says `clip_frames` (made with --views: the clip is those frames of the file), or stores every frame
    of its file. One of others says nothing of its source: what it stores is the clip.
    Raises DecodeError for a record that contradicts itself.
    """
    source = record.get("source_frames")
    if source is None:
        return StoredFrames(num_stored, range(num_stored))
    if not _are_counts(source) or len(source) != num_stored:
        raise DecodeError(f"source_frames={shown(repr(source))} are not the numbers of its {num_stored} frames")
    clip = record.get("clip_frames")
    if clip is None:
        every = source == list(range(num_stored)) and record.get("num_frames_total") == num_stored
        return StoredFrames(num_stored, source) if every else None
    if not _are_counts(clip) or len(clip) != 2 or not all(clip[0] <= n < sum(clip) for n in source):
        raise DecodeError(f"clip_frames={shown(repr(clip))} is no first frame and number of frames of source_frames")
    first, count = clip
    return StoredFrames(count, [number - first for number in source])


def _are_counts(value: object) -> bool:
    return isinstance(value, list) and all(type(one) is int and 0 <= one <= _LARGEST for one in value)


def plain_text(text: str) -> str:
    """The text without space around it; empty where none of its characters leaves ink (spaces that do not look like
    one, direction marks, lone accents), of which a tokenizer makes no word.

    Raises DecodeError for half a character: JSON can hold one (`"\\ud83d"`, of an emoji that was cut), no file and no
    tokenizer can.
    """
    if re.search("[\ud800-\udfff]", text):
        raise DecodeError(f"a text holds half a character (a lone surrogate): {quoted(text)}")
    text = text.strip()
    return text if _LATIN.search(text) or any(map(_has_ink, text)) else ""


def _has_ink(character: str) -> bool:
    """Other categories of Unicode than marks (M), separators (Z) and control or unassigned characters (C)."""
    return unicodedata.category(character)[0] not in "MZC"

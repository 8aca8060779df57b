"""One clip of a source, read and decoded: only the members that the chosen frames need."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from umt_ds.data.decode import decode_array, decode_pictures
from umt_ds.data.records import Media, Member, media_of
from umt_ds.errors import DecodeError
from umt_ds.keyed import Stream, digest64

# Number of stored frames → the frames to show. Pure: it may be asked more than once.
ChooseFrames = Callable[[int], list[int]]


@dataclass(frozen=True)
class Clip:
    """A decoded sample. T frames, H x W pixels."""

    key: str
    frames: NDArray[np.uint8]  # [T,H,W,3]
    frame_numbers: tuple[int, ...]  # T stored frames shown
    crcs: tuple[int, ...]  # of the members read, in the order read
    record: Mapping[str, Any]  # the sample's json; empty where it was not asked for

    def digest(self, draw: int) -> int:
        """64 bits that name what draw `draw` shows: key, bytes and frames."""
        return digest64(draw, self.key, *self.crcs, "frames", *self.frame_numbers)


Ref = TypeVar("Ref", contravariant=True)


class ClipSource(Protocol[Ref]):
    """Where samples come from, by whatever names one there: a `ShardSource` or a `TarStream`."""

    def key(self, ref: Ref, /) -> str:
        """The key of a sample."""

    def members(self, ref: Ref, /) -> list[Member]:
        """Its files, in tar order."""

    def read(self, ref: Ref, member: Member, /) -> bytes:
        """The bytes of one of them. Raises DecodeError or DataError."""


class _Reading(Generic[Ref]):
    """Reads members of one sample and remembers their CRCs."""

    def __init__(self, source: ClipSource[Ref], ref: Ref) -> None:
        self._source = source
        self._ref = ref
        self.members = source.members(ref)
        self.crcs: list[int] = []

    def __call__(self, member: Member) -> bytes:
        self.crcs.append(member.crc)
        return self._source.read(self._ref, member)


def read_clip(source: ClipSource[Ref], ref: Ref, *, choose: ChooseFrames, with_record: bool) -> Clip:
    """Read and decode one sample; its json only `with_record`.

    Raises DecodeError where this sample is bad, DataError where its shard cannot be read.
    """
    read = _Reading(source, ref)
    frames, numbers = _read_frames(read, choose)
    record = _read_record(read) if with_record else {}
    return Clip(source.key(ref), frames, tuple(numbers), tuple(read.crcs), record)


def _read_frames(read: _Reading[Any], choose: ChooseFrames) -> tuple[NDArray[np.uint8], list[int]]:
    """The chosen frames, u8 [T,H,W,3], and their numbers."""
    media = media_of([member.suffix for member in read.members])
    files = _media_files(read.members, media)
    match media:
        case "frames":
            numbers = choose(len(files))
            return _each_once(numbers, lambda some: decode_pictures([read(files[i]) for i in some])), numbers
        case "image":
            numbers = choose(1)
            return _each_once(numbers, lambda _: decode_pictures([read(files[0])])), numbers
        case "npy":
            stored = decode_array(read(files[0]))
            numbers = choose(len(stored))
            return stored[numbers], numbers
        case "video":
            from umt_ds.data import video  # PyAV, only where a source holds whole videos

            decoded = video.decode(read(files[0]), choose)
            return decoded.frames, list(decoded.numbers)
        case "none":
            raise DecodeError(f"the sample holds no clip, only {[m.suffix for m in read.members]}")


def _media_files(members: Sequence[Member], media: Media) -> list[Member]:
    """The members that hold pixels; stored frames sorted by their number."""
    files = [member for member in members if media_of([member.suffix]) == media]
    return sorted(files, key=lambda m: int(m.suffix.partition(".")[0])) if media == "frames" else files


def _each_once(numbers: Sequence[int], decode: Callable[[list[int]], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Decode every different frame once; a clip shorter than asked for then repeats some."""
    different = sorted(set(numbers))
    frames = decode(different)
    if different == list(numbers):
        return frames
    return frames[[different.index(number) for number in numbers]]


def _read_record(read: _Reading[Any]) -> dict[str, Any]:
    """The sample's json; WebDataset's `txt` (caption) and `cls` (label) fill what it does not say."""
    by_suffix = {member.suffix.lower(): member for member in read.members}
    try:
        record = json.loads(read(by_suffix["json"])) if "json" in by_suffix else {}
        if not isinstance(record, dict):
            raise DecodeError(f"json holds a {type(record).__name__}, not an object")
        if "txt" in by_suffix and not record.get("caption"):  # img2dataset writes null
            record["caption"] = read(by_suffix["txt"]).decode()
        if "cls" in by_suffix and "label" not in record:
            record["label"] = int(read(by_suffix["cls"]))
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError and int() are all ValueErrors
        raise DecodeError(f"json, txt or cls cannot be read: {error}") from error
    return record


def label_of(record: Mapping[str, Any], field: str) -> int:
    """The label in `field`, -1 where the sample has none. Raises DecodeError for what is no whole number."""
    label = record.get(field)
    if label is None:
        return -1
    if not isinstance(label, int) or isinstance(label, bool):
        raise DecodeError(f"{field}={label!r} is not a whole number")
    return label


def caption_of(record: Mapping[str, Any], stream: Stream) -> str:
    """The caption; one of several by key. Raises DecodeError where the sample has none."""
    captions = record.get("caption")
    captions = [captions] if isinstance(captions, str) else captions
    if not isinstance(captions, list) or not captions or not all(isinstance(c, str) for c in captions):
        raise DecodeError("the sample has no caption")
    caption: str = captions[stream.integer(len(captions))]
    return caption

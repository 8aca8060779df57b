"""One clip, read and decoded: only the members that the chosen frames need. Torch-free.

Training reads clips of a source (`read_clip`); whatever else shows or checks a sample decodes its members with the
same `read_frames`.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from umt_ds.data.order.views import FrameRule
from umt_ds.data.pixels.decode import Frames, Jpegs, Memory, as_jpegs, decode_array, decode_pictures, new_memory
from umt_ds.data.shards.records import Member
from umt_ds.data.shards.sample_members import SampleMembers
from umt_ds.data.shards.sample_record import (
    Clean,
    Question,
    Record,
    captions_of,
    is_of_record,
    record_of,
    stored_frames,
)
from umt_ds.data.shards.suffixes import Media, pixels_of
from umt_ds.errors import DataError, DecodeError, some
from umt_ds.keyed import Stream, digest64

# Number of stored frames → the frames to show. Pure: it may be asked more than once.
ChooseFrames = Callable[[int], list[int]]
# Some members of one sample → their bytes, in the same order.
ReadMembers = Callable[[Sequence[Member]], Sequence[bytes]]

_NO_FRAMES = np.empty((0, 0, 0, 3), np.uint8)


@dataclass(frozen=True)
class Clip:
    """A sample that was read. T frames, H x W pixels."""

    key: str
    frames: Frames  # u8 [T,H,W,3]; none where `jpegs` holds them
    frame_numbers: tuple[int, ...]  # T stored frames shown
    crcs: tuple[int, ...]  # of the members read, in the order read
    record: Mapping[str, Any]  # the sample's json; empty where it was not asked for
    jpegs: Jpegs | None = None  # the frames, not yet decoded: where that was asked for, and can be had
    group: str | None = None  # what other clips that count as the same have too; None: its key

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the frames."""
        return (self.jpegs.width, self.jpegs.height) if self.jpegs else (self.frames.shape[2], self.frames.shape[1])

    def digest(self, draw: int) -> int:
        """64 bits that name what draw `draw` shows: key, bytes and frames."""
        return digest64(draw, self.key, *self.crcs, "frames", *self.frame_numbers)


Ref = TypeVar("Ref", contravariant=True)


class ClipSource(Protocol[Ref]):
    """Where samples come from, by whatever names one there: a `ShardSource` or a `TarStream`."""

    @property
    def set_name(self) -> str:
        """What messages call it."""

    def key(self, ref: Ref, /) -> str:
        """The key of a sample."""

    def members(self, ref: Ref, /) -> Sequence[Member]:
        """Its files, in tar order."""

    def question(self, ref: Ref, /) -> Question:
        """What is asked of it beside what its json says."""

    def read(self, ref: Ref, member: Member, /) -> bytes:
        """The bytes of one of them. Raises DecodeError or DataError."""


class _Reading(Generic[Ref]):
    """Reads members of one sample and remembers their CRCs."""

    def __init__(self, source: ClipSource[Ref], ref: Ref) -> None:
        self._source = source
        self._ref = ref
        self.members = source.members(ref)
        self.question = source.question(ref)
        self.crcs: list[int] = []

    def key(self) -> str:
        return self._source.key(self._ref)

    def set_name(self) -> str:
        return self._source.set_name

    def __call__(self, members: Sequence[Member]) -> list[bytes]:
        self.crcs += [member.crc for member in members]
        return [self._source.read(self._ref, member) for member in members]


def read_clip(
    source: ClipSource[Ref],
    ref: Ref,
    *,
    choose: ChooseFrames | FrameRule,
    with_record: bool,
    asked: Collection[str] = (),
    leave_jpegs: bool = False,
    memory: Memory = new_memory,
) -> Clip:
    """Read and decode one sample; its json only `with_record`. With `leave_jpegs`, sound JPEG frames stay encoded.

    asked: the fields that are wanted of the record, where others are not: what a table says of all of them is the
    record, and the json, which is 0.4 MB for 15 minutes of frames, is not read.

    A `FrameRule` chooses among all frames that the clip has in its source; a function, among the stored ones.
    Pictures are decoded into `memory`, so a clip lasts until that is used again.
    Raises DecodeError where this sample is bad, DataError where its shard cannot be read, or the set was made without
    the frames of the rule.
    """
    read = _Reading(source, ref)
    part = read.question.frames
    if isinstance(choose, FrameRule):
        if part is not None:
            raise DataError(
                f"{read.set_name()} has items that are a part of their sample ({read.key()}), and {choose.views} "
                "chooses among all frames of the video",
                hint="evaluate it on stored frames: evaluation.NAME.frames=stored",
            )
        record = _read_record(read)
        among = _among_stored(read, record, choose)
        frames, numbers = read_frames(read.members, read, among, leave_jpegs=leave_jpegs, memory=memory)
    else:
        among = choose if part is None else within(part, choose)
        frames, numbers = read_frames(read.members, read, among, leave_jpegs=leave_jpegs, memory=memory)
        record = _read_record(read, asked) if with_record else {}
    decoded, jpegs = (_NO_FRAMES, frames) if isinstance(frames, Jpegs) else (frames, None)
    return Clip(source.key(ref), decoded, tuple(numbers), tuple(read.crcs), record, jpegs, read.question.group)


def read_record(source: ClipSource[Ref], ref: Ref, *, asked: Collection[str] = ()) -> Mapping[str, Any]:
    """The json of one sample, with caption and label from its `txt` and `cls`. asked: see `read_clip`. Raises
    DecodeError where it is bad."""
    return _read_record(_Reading(source, ref), asked)


def pixel_members(members: Sequence[Member]) -> tuple[Media, Sequence[Member]]:
    """What kind of clip a sample with these members is, and those that hold its pixels: frames by their number."""
    if isinstance(members, SampleMembers):
        return members.pixels
    media, places = pixels_of(tuple(member.suffix for member in members))
    return media, [members[place] for place in places]


def record_members(members: Sequence[Member]) -> list[Member]:
    """Those that say something of their sample."""
    if isinstance(members, SampleMembers):
        return members.of_record
    return [member for member in members if is_of_record(member.suffix)]


def members_shown(
    source: ClipSource[Ref],
    ref: Ref,
    *,
    choose: ChooseFrames | FrameRule,
    with_record: bool,
    asked: Collection[str] = (),
) -> list[Member]:
    """The members that `read_clip` reads with the same arguments; none of a sample whose files alone say that it is
    bad. For a `FrameRule`, which first reads the record, those that it may read; and a `txt` or `cls` too that a json
    makes needless."""
    members, question = source.members(ref), source.question(ref)
    part, said = question.frames, record_members(members)
    media, files = pixel_members(members)
    if isinstance(choose, FrameRule):
        return [*files, *said]
    if media == "none":
        return []
    if media in ("frames", "image"):
        among = choose if part is None else within(part, choose)
        try:
            files = [files[number] for number in sorted(set(among(len(files))))]
        except DecodeError:
            return []
    return [*files, *(said if with_record and not _says_all(question, said, asked) else ())]


def read_frames(
    members: Sequence[Member],
    read: ReadMembers,
    choose: ChooseFrames,
    *,
    leave_jpegs: bool = False,
    memory: Memory = new_memory,
) -> tuple[Frames | Jpegs, list[int]]:
    """The chosen frames of a sample with these members, u8 [T,H,W,3] or encoded, and their T numbers.

    `read` is asked once, for what the chosen frames need. Raises DecodeError where they are damaged, and what `read`
    raises.
    """
    media, files = pixel_members(members)
    match media:
        case "frames":
            numbers = choose(len(files))
            different = sorted(set(numbers))
            pictures = dict(zip(different, read([files[number] for number in different]), strict=True))
            return _pictures(pictures, numbers, leave_jpegs, memory), numbers
        case "image":
            numbers = choose(1)
            return _pictures({0: read(files)[0]}, numbers, leave_jpegs, memory), numbers
        case "npy":
            stored = decode_array(read(files)[0])
            numbers = choose(len(stored))
            return stored[numbers], numbers
        case "video":
            from umt_ds.data.pixels import video  # PyAV, only where a source holds whole videos

            decoded = video.decode(read(files)[0], choose)
            return decoded.frames, list(decoded.numbers)
        case "none":
            raise DecodeError(f"the sample holds no clip, only {some(m.suffix for m in members)}")


def _among_stored(read: _Reading[Any], record: Record, rule: FrameRule) -> ChooseFrames:
    """Where the frames of a rule lie among the stored ones."""
    media, _ = pixel_members(read.members)
    if media == "video" and "stored_fps" not in record:  # of others, with all its frames, whatever its json says
        record = {}

    def choose(num_stored: int) -> list[int]:
        stored = stored_frames(record, num_stored)
        if stored is None:
            raise _lacks(read, rule, f"stores {num_stored} frames and does not say which of its file are the clip")
        asked = rule(stored.num_frames)
        places = {number: place for place, number in enumerate(stored.numbers)}
        if missing := sorted(set(asked) - places.keys()):
            what = f"stores {num_stored} of the {stored.num_frames} frames of its clip"
            raise _lacks(read, rule, f"{what}, without {some(missing)}")
        return [places[number] for number in asked]

    return choose


def within(part: tuple[int, int], choose: ChooseFrames) -> ChooseFrames:
    """The choice among the stored frames from the first to the last of `part`; asked for a sample that has fewer, it
    raises DecodeError."""
    first, last = part

    def chosen(num_stored: int) -> list[int]:
        if not 0 <= first <= last < num_stored:
            raise DecodeError(f"the item is frames {first} to {last}, and its sample stores {num_stored}")
        return [first + number for number in choose(last + 1 - first)]

    return chosen


def _lacks(read: _Reading[Any], rule: FrameRule, what: str) -> DataError:
    """Of the whole set: no other sample of it holds the frames of the rule."""
    return DataError(
        f"{read.set_name()} was not made for the frames of {rule.views}: its sample {read.key()} {what}",
        hint=f"make the set with `umt-data … --views {rule.views}` in the place of --frames or --fps, and any other "
        "views that it is to serve",
    )


def _pictures(
    pictures: Mapping[int, bytes], numbers: Sequence[int], leave_jpegs: bool, memory: Memory
) -> Frames | Jpegs:
    """The frames `numbers`; every different one is decoded once. A clip shorter than asked for repeats some."""
    if leave_jpegs and (jpegs := as_jpegs([pictures[number] for number in numbers])):
        return jpegs
    frames, different = decode_pictures(list(pictures.values()), memory), list(pictures)
    return frames if different == list(numbers) else frames[[different.index(number) for number in numbers]]


def _read_record(read: _Reading[Any], asked: Collection[str] = ()) -> Record:
    said = record_members(read.members)
    if _says_all(read.question, said, asked):
        read.crcs += [member.crc for member in said]  # a digest is the same whoever asks for what
        record: Record = {}
    else:
        members = {member.suffix: member for member in said}
        record = record_of(members, lambda suffix: read([members[suffix]])[0])
    if fields := read.question.fields:
        read.crcs.append(zlib.crc32(json.dumps(fields, sort_keys=True).encode()))
        record |= fields
    return record


def _says_all(question: Question, of_record: Sequence[Member], asked: Collection[str]) -> bool:
    """Whether a table says of an item all that is asked. Of a json alone: which of txt and cls count, only it says."""
    is_json = [member.suffix.lower() for member in of_record] == ["json"]
    return bool(asked) and is_json and all(name in question.fields for name in asked)


def caption_of(record: Mapping[str, Any], stream: Stream, *, field: str = "caption", clean: Clean = str.strip) -> str:
    """The caption, cleaned; one of several by key. Raises DecodeError where the sample has none that says anything."""
    captions = captions_of(record, field=field, clean=clean)
    if not captions:
        raise DecodeError(f"the sample has no caption ({field} is missing or says nothing)")
    return captions[stream.integer(len(captions))]

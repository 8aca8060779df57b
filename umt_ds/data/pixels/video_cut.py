"""Is all the video there that a file promises? A broken download still has its header, which names what is gone.

What is promised is read where a container says it: the sample table of mp4, the frames or seconds of a header. A
header that was never finished (a recording that was killed, a live stream) promises nothing. Seconds alone are no
proof, for whole files state wrong ones too: a file is cut off where its own structure goes on beyond its end, and video
is missing. What lacks only sound, an index at the end, or padding is whole enough.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import BinaryIO, NamedTuple

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from umt_ds.errors import DecodeError

INDEX_IS_GONE = "damaged: its index (moov) is missing: the file was cut off, or never finished"
# Broadcast formats promise nothing, and mark packets as damaged for other reasons than a missing end.
_NO_PROMISE = ("mpeg", "mpegts")
_MP4 = "mov,mp4,m4a,3gp,3g2,mj2"
# These mark their end, or that of each fragment, and do not say how many frames come before it.
_STATE_NO_LENGTH = ("ogg", "gif", "apng", _MP4)
# Streams of one file are stored side by side, at most so many seconds apart.
_INTERLEAVED_S = 1.0
_HEAD = _TAIL = 1 << 17
# Writers pad by less.
_RESERVED = 1 << 12
# An hour in fragments of a second has 7,200 outermost parts; a file of nothing but millions of them is a trap.
_MOST_PARTS = 1 << 17

_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_MXF = bytes.fromhex("060e2b34020501010d010201")
_OGG_SOUND = (b"\x01vorbis", b"OpusHead", b"\x7fFLAC", b"Speex", b"fishead", b"\x80kate")
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


@dataclass(frozen=True)
class Came:
    """What demuxing gave of the video stream. Seconds are the container's."""

    count: int  # packets
    first_s: float  # when the first one is shown
    end_s: float  # when the last one ends
    rate: float | None  # frames a second, where it is constant but for the last frames, which may have holes
    promised: int  # packets by the header; 0: it does not say
    ticks: int  # decoding times passed, where the container counts frames by them
    others_end_s: float  # when the last packet of another stream begins


def check_all_came(
    container: InputContainer,
    stream: VideoStream,
    source: Path | bytes,
    is_partial: bool,
    what_came: Callable[[], Came],
) -> None:
    """Raises DecodeError where the file promises more of this stream than came.

    `is_partial`: the last packet is shorter than the file says. `what_came` is asked only where the file was cut off.
    """
    name = container.format.name
    if name in _NO_PROMISE:
        return
    if name == _MP4:
        ends = _box_ends(source)
        if ends.get(b"moov", 0) > size_of(source):  # ffmpeg takes the rows that are there for all
            raise DecodeError(INDEX_IS_GONE)
        _check_sample_table(stream, size_of(source))
        if b"moof" not in ends:  # the table in front was all: no fragments follow
            return
    if not is_partial and not goes_on_beyond_its_end(source):
        return
    came = what_came()
    missing = _missing_frames(container, stream, source, came)
    if came.count + missing > size_of(source):  # a recording put a number in place of what it did not know yet
        missing = 0
    there = came.count - is_partial
    is_counted = name not in _STATE_NO_LENGTH and (came.rate or name == "avi")
    if missing and is_counted:
        raise _cut(f"{there} of {came.count + missing} frames are there")
    if missing or is_partial:
        raise _cut(f"it ends after {there} frames")


def _missing_frames(container: InputContainer, stream: VideoStream, source: Path | bytes, came: Came) -> int:
    """How many frames of a file that was cut off did not come; about, where the header states seconds."""
    name = container.format.name
    if name == "avi":
        return max(0, came.promised - came.ticks)
    had_ended = came.others_end_s >= came.end_s + _INTERLEAVED_S  # the video, by itself
    if name in _STATE_NO_LENGTH:
        return 0 if name == _MP4 and had_ended else 1
    promised_s = _own_end_s(stream, came.first_s) if name != "asf" else 0.0
    if not promised_s and not had_ended:
        promised_s = _asf_duration_s(source) if name == "asf" else (container.duration or 0) / av.time_base
    if came.rate:
        return max(0, math.floor((promised_s - came.first_s) * came.rate + 0.25) - came.count)
    return max(0, round((promised_s - came.end_s) * float(stream.average_rate or 25)))


def _cut(what: str) -> DecodeError:
    return DecodeError(f"damaged: {what}: the file was cut off")


def _check_sample_table(stream: VideoStream, size: int) -> None:
    """An mp4's table, or those of its fragments, say where each frame lies. What an edit list hides is not missed."""
    ends = [entry.pos + entry.size for entry in stream.index_entries if not entry.is_discard]
    there = sum(end <= size for end in ends)
    if there < len(ends):
        raise _cut(f"{there} of {len(ends)} frames are there")


def _own_end_s(stream: VideoStream, first_s: float) -> float:
    """When the video ends by what the header says of it; 0 where it speaks only of the file as a whole."""
    if tag := stream.metadata.get("DURATION") or stream.metadata.get("DURATION-eng"):  # of Matroska
        return _clock(tag)
    return first_s + float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0


def _clock(text: str) -> float:
    """Seconds of `00:01:02.345`, as Matroska's tags state a track's end; 0 for anything else."""
    try:
        hours, minutes, seconds = text.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return 0.0


# ---- the structure of files: what each says of its own size


def goes_on_beyond_its_end(source: Path | bytes) -> bool:
    """Does the outermost structure of the file say that it is longer than it is? False for formats that do not say.

    What a download reserved and never filled is not there.
    """
    with _reading(source) as file:
        size = _end_of_content(file, size_of(source))
        file.seek(0)
        head = file.read(_HEAD)
        if head.startswith(_EBML):
            return _end_of_segment(head) > size
        if head[:4] == b"RIFF":
            return any(end > size + 8 for _, end in _chunks(file, size))  # some count the 8 bytes of the chunk's head
        if head.startswith(_MXF):
            return _mxf_footer(head) >= size
        if head.startswith(b"GIF8"):
            return _gif_ends_within_a_block(source if isinstance(source, bytes) else _mapped(file), size)
        if head.startswith(_ASF_HEADER):
            return any(end > size for end in _asf_objects(file, size))
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"moof", b"sidx"):
            return any(end > size for kind, end in boxes(file, size) if kind in (b"moof", b"mdat"))
        if head[:3] == b"FLV":
            return _flv_size(head) > size or not _ends_with_a_tag(file, size)
        if head[:4] == b"OggS":
            begin = max(0, size - _TAIL)
            file.seek(begin)
            return _ogg_video_goes_on(head, file.read(size - begin))
    return False


def lacks_its_index(source: Path | bytes) -> bool:
    """Is it an mp4 without the whole table (moov) that says where its frames lie, and which many writers put last?"""
    ends, size = _box_ends(source), size_of(source)
    return b"mdat" in ends and ends.get(b"moov", size + 1) > size


def _box_ends(source: Path | bytes) -> dict[bytes, int]:
    with _reading(source) as file:
        return dict(boxes(file, size_of(source)))


def size_of(source: Path | bytes) -> int:
    """In bytes."""
    return len(source) if isinstance(source, bytes) else source.stat().st_size


def _end_of_content(file: BinaryIO, size: int) -> int:
    """Where the zeros begin that stand for what a download reserved and never got; `size` where the end is no such."""
    end = size
    while end > 0:
        begin = max(0, end - _TAIL)
        file.seek(begin)
        content = file.read(end - begin).rstrip(b"\0")
        if content:
            return begin + len(content) if size - begin - len(content) >= _RESERVED else size
        end = begin
    return size


@contextmanager
def _reading(source: Path | bytes) -> Iterator[BinaryIO]:
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        yield file


def boxes(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int]]:
    """Kind and end of each outermost box of an mp4; a size of 0 means up to the end of the file."""
    at = 0
    for _ in range(_MOST_PARTS):
        if at + 8 > size:
            return
        file.seek(at)
        header = file.read(16)
        length, kind = struct.unpack_from(">I4s", header)
        if length == 1 and len(header) == 16:
            (length,) = struct.unpack_from(">Q", header, 8)
        if not kind.isalnum() or 0 < length < 8:  # padding, or something else behind the last box
            return
        at = at + length if length else size
        yield kind, at


def _chunks(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int]]:
    """Kind and end of each outermost chunk of an avi; a recording that was killed has a size of 0."""
    at = 0
    for _ in range(_MOST_PARTS):
        if at + 8 > size:
            return
        file.seek(at)
        kind, length = struct.unpack("<4sI", file.read(8))
        if kind != b"RIFF" or length in (0, 0xFFFFFFFF):
            return
        at += 8 + length + length % 2
        yield kind, at - length % 2


def _end_of_segment(head: bytes) -> float:
    """Where the Segment of a Matroska file ends; 0 where a live recording left it open."""
    _, length, at = _vint(head, 4)
    at += length
    if head[at : at + 4] != _SEGMENT:
        return 0
    is_open, length, at = _vint(head, at + 4)
    return 0 if is_open else at + length


def _vint(data: bytes, at: int) -> tuple[bool, int, int]:
    """A number of EBML: whether it is the one for `unknown`, its value, and where it ends."""
    first = data[at] if at < len(data) else 0
    width = 9 - first.bit_length()
    bits = 7 * width
    value = int.from_bytes(data[at : at + width], "big") & ((1 << bits) - 1)
    return value == (1 << bits) - 1, value, at + width


def _mxf_footer(head: bytes) -> int:
    """Where the first partition says that the last one lies; 0 where a recording left it open."""
    at = 17 + (head[16] & 0x7F if head[16] & 0x80 else 0)
    return int.from_bytes(head[at + 24 : at + 32], "big")


def _mapped(file: BinaryIO) -> mmap:
    return mmap(file.fileno(), 0, access=ACCESS_READ)


def _gif_ends_within_a_block(data: bytes | mmap, size: int) -> bool:
    """Each block of a gif is followed by another one or by the trailer."""
    at = 13 + _gif_colours(data, 10)
    while at < size:
        if data[at] == 0x21:
            at += 2
        elif data[at] == 0x2C:
            at += 11 + _gif_colours(data, at + 9)
        else:  # the trailer, or what ffmpeg reads no further
            return False
        while at < size and data[at]:
            at += 1 + data[at]
        at += 1
    return at > size


def _gif_colours(data: bytes | mmap, at: int) -> int:
    """Bytes of the colour table that the flags at `at` announce."""
    flags = data[at] if at < len(data) else 0
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _asf_objects(file: BinaryIO, size: int) -> Iterator[int]:
    """The ends of the header and of the data object: an index behind them may be missing."""
    at = 0
    for _ in range(2):
        file.seek(at + 16)
        length = int.from_bytes(file.read(8), "little")
        if at + 24 > size or length < 24:
            return
        at += length
        yield at


def _asf_duration_s(source: Path | bytes) -> float:
    """When the file properties say that the last stream ends; 0 for a live broadcast."""
    with _reading(source) as file:
        head = file.read(_HEAD)
    at = head.find(_ASF_PROPERTIES)
    if at < 0 or len(head) < at + 92:
        return 0.0
    duration, _, preroll, flags = struct.unpack_from("<QQQI", head, at + 64)
    return 0.0 if flags & 1 else max(0.0, duration / 1e7 - preroll / 1e3)


def _flv_size(head: bytes) -> float:
    """What the metadata of an flv states as its size; 0 where they do not."""
    at = head.find(b"\x00\x08filesize\x00") + 11
    stated = struct.unpack_from(">d", head, at)[0] if 11 <= at <= len(head) - 8 else 0.0
    return stated if stated > 0 else 0.0


def _ends_with_a_tag(file: BinaryIO, size: int) -> bool:
    """An flv ends with the length of its last tag, whose header says the same length less its own 11 bytes."""
    file.seek(max(0, size - 4))
    length = int.from_bytes(file.read(4), "big")
    if not 11 <= length <= size - 4:
        return False
    file.seek(size - 4 - length)
    header = file.read(4)
    return header[0] & 0x1F in (8, 9, 18) and int.from_bytes(header[1:], "big") + 11 == length


def _ogg_video_goes_on(head: bytes, tail: bytes) -> bool:
    """Is the last page cut off, and no page among the last ones said to be the last of the video?"""
    videos = {page.stream for page in _ogg_pages(head) if page.is_first and not page.content.startswith(_OGG_SOUND)}
    pages = list(_ogg_pages(tail))
    last_of_video = any(page.is_last and page.is_whole and page.stream in videos for page in pages)
    return bool(pages) and not pages[-1].is_whole and not last_of_video


class _OggPage(NamedTuple):
    stream: bytes
    is_first: bool
    is_last: bool
    is_whole: bool
    content: bytes


def _ogg_pages(data: bytes) -> Iterator[_OggPage]:
    """A page says the lengths of its parts at its start."""
    at = data.find(b"OggS")
    while at >= 0:
        header = data[at : at + 27]
        begin = at + 27 + (header[26] if len(header) == 27 else 0)
        end = begin + sum(data[at + 27 : begin])
        flags = header[5] if len(header) > 5 else 0
        yield _OggPage(header[14:18], bool(flags & 2), bool(flags & 4), end <= len(data), data[begin:end])
        at = data.find(b"OggS", max(end, at + 27))

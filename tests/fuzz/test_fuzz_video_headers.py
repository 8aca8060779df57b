"""Video files of several containers, damaged: frames that are the file's, or a DecodeError; no crash, hang or guess.

ffmpeg runs in this process, as it did without a crash for some fifty thousand damaged files of these sizes.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from umt_ds.data.pixels.video import Limits, decode, probe, transcode
from umt_ds.errors import DecodeError

FRAMES = 12
SMALL = Limits(max_bytes=1 << 20, max_pixels=1 << 16, max_frames=2000)
# name: container, codec, pixel format, does it promise its frames
KINDS = {
    "mp4": ("mp4", "libx264", "yuv420p", True),
    "fragments": ("mp4", "libx264", "yuv420p", False),
    "mov": ("mov", "mpeg4", "yuv420p", True),
    "mkv": ("matroska", "libx264", "yuv420p", True),
    "webm": ("webm", "libvpx", "yuv420p", True),
    "avi": ("avi", "mpeg4", "yuv420p", True),
    "flv": ("flv", "flv1", "yuv420p", True),
    "asf": ("asf", "wmv2", "yuv420p", True),
    "ogg": ("ogg", "libvpx", "yuv420p", False),
    "ts": ("mpegts", "mpeg2video", "yuv420p", False),
    "gif": ("gif", "gif", "rgb8", False),
}
MUXING = {
    "mp4": {"movflags": "faststart"},
    "mov": {"movflags": "faststart"},
    "fragments": {"movflags": "frag_keyframe+empty_moov"},
}
PICTURES = np.random.default_rng(0).integers(0, 255, (FRAMES, 16, 32, 3), dtype=np.uint8)


@cache
def whole(kind: str) -> bytes:
    container_name, codec, pixels, _ = KINDS[kind]
    file = io.BytesIO()
    options: dict[str, Any] = {"container_options": MUXING[kind]} if kind in MUXING else {}
    if options:  # what was written is read again, to move the index to the front
        options["io_open"] = lambda *_: io.BytesIO(file.getvalue())
    with av.open(file, "w", format=container_name, **options) as container:
        stream = container.add_stream(codec, rate=Fraction(10))
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 32, 16, pixels, 4
        for picture in PICTURES:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


def look(data: bytes) -> int | None:
    """The number of frames, once everything that is said of them holds together; None: refused."""

    def refused(use: Callable[[], Any]) -> Any:
        try:
            return use()
        except DecodeError:
            return None

    info = refused(lambda: probe(data, limits=SMALL))
    assert info is None or (info.width > 0 and info.height > 0 and info.fps >= 0 and info.duration_s >= 0)
    film = refused(lambda: transcode(data, short_side=16, limits=SMALL))
    if film is not None:
        stored = decode(film.data, lambda count: list(range(count)))
        assert stored.num_frames == len(film.numbers) == len(film.times_s)
        assert (film.stored_width, film.stored_height) == (stored.width, stored.height)
    decoded = refused(lambda: decode(data, lambda count: [0, count // 2, count - 1], short_side=16, limits=SMALL))
    if decoded is None:
        return None
    line = decoded.timeline
    assert decoded.frames.shape[0] == 3
    assert decoded.frames.dtype == np.uint8
    assert decoded.num_frames == line.count <= SMALL.max_frames
    assert decoded.times_s == tuple(line.seconds[number] for number in decoded.numbers)
    assert all(np.isfinite(line.seconds))
    assert (np.diff(line.seconds) >= 0).all()
    assert 0 <= line.seconds[0] <= line.seconds[-1] <= line.end_s
    assert 0 <= decoded.duration_s < 1e9
    return int(decoded.num_frames)


@pytest.mark.parametrize("kind", KINDS)
def test_undamaged(kind: str) -> None:
    assert look(whole(kind)) == FRAMES


@given(st.sampled_from(sorted(KINDS)), st.floats(0, 1))
def test_cut_off(kind: str, share: float) -> None:
    """No frame is missing without a word, where the file said how many there are."""
    data = whole(kind)
    frames = look(data[: int(len(data) * share)])
    assert frames in ((None, FRAMES) if KINDS[kind][3] else (None, *range(1, FRAMES + 1)))


@given(
    st.sampled_from(sorted(KINDS)),
    st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4),
    st.booleans(),
)
@example("asf", [(0.16015625, b"\x01")], True)  # states a length below zero
def test_other_bytes(kind: str, changes: list[tuple[float, bytes]], in_head: bool) -> None:
    data = bytearray(whole(kind))
    for share, new in changes:
        at = int((min(700, len(data)) if in_head else len(data)) * share)
        data[at : at + len(new)] = new
    look(bytes(data))


@given(st.sampled_from(sorted(KINDS)), st.floats(0, 1), st.floats(0, 1), st.binary(max_size=40))
def test_a_part_replaced(kind: str, start: float, end: float, new: bytes) -> None:
    data = whole(kind)
    first, last = sorted((int(len(data) * start), int(len(data) * end)))
    look(data[:first] + new + data[last:])


@given(st.sampled_from(sorted(KINDS)), st.sampled_from(sorted(KINDS)), st.floats(0, 1))
def test_the_head_of_one_and_the_body_of_another(head: str, body: str, share: float) -> None:
    one, other = whole(head), whole(body)
    look(one[: int(len(one) * share)] + other[int(len(other) * share) :])


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    assert look(data) is None

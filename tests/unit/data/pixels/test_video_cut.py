"""A file that was cut off is refused, wherever it was cut; one that only looks like it is not."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from umt_ds.data.pixels.video import decode, probe, transcode
from umt_ds.errors import DecodeError

FRAMES = 30  # at 10 a second
CUTS = [n / 100 for n in (8, 17, 25, 33, 42, 50, 58, 67, 75, 83, 92, 98)]
FRONT = {"movflags": "faststart"}
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof+global_sidx"}
CONTAINERS = [
    ("v.mp4", "libx264", "aac", FRONT),
    ("v.mp4", "libx264", "aac", {}),
    ("v.mov", "mpeg4", "pcm_s16le", FRONT),
    ("v.mkv", "libx264", "aac", {}),
    ("v.webm", "libvpx", "libopus", {}),
    ("v.avi", "mpeg4", "mp2", {}),
    ("v.flv", "flv1", "adpcm_swf", {}),
    ("v.asf", "wmv2", "mp2", {}),
    ("v.ogv", "libvpx", "libopus", {}),
]
PICTURES = np.random.default_rng(0).integers(0, 255, (FRAMES, 48, 64, 3), dtype=np.uint8)


@lru_cache(maxsize=64)
def written(
    name: str,
    codec: str,
    sound: str,
    muxing: tuple[tuple[str, str], ...] = (),
    sound_s: float = 3.0,
    can_seek: bool = True,
    gop: int = 6,
) -> bytes:
    """A video of noise, three seconds long, with or without sound."""
    file = io.BytesIO()
    target: Any = file if can_seek else Pipe(file)
    options: dict[str, Any] = {"container_options": dict(muxing)} if muxing else {}
    if muxing:  # what was written is read again, to move the index to the front
        options["io_open"] = lambda *_: io.BytesIO(file.getvalue())
    formats = {"mkv": "matroska", "ogv": "ogg"}
    suffix = name.rpartition(".")[2]
    with av.open(target, "w", format=formats.get(suffix, suffix), **options) as container:
        video = container.add_stream(codec, rate=Fraction(10), options={"g": str(gop)})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        packets = [
            packet
            for picture in PICTURES
            for packet in video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24"))
        ]
        packets += video.encode(None)
        if sound:
            rate = 48000 if sound == "libopus" else 22050
            audio = container.add_stream(sound, rate=rate, layout="mono")
            packets += silence(audio, rate, sound_s)
        for packet in sorted(packets, key=lambda p: float(p.dts * p.time_base)):
            container.mux(packet)
    return file.getvalue()


def silence(stream: Any, rate: int, seconds: float) -> list[Any]:
    packets = []
    for start in range(0, int(rate * seconds), 960):
        frame = av.AudioFrame(format=stream.format.name, layout="mono", samples=960)
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        packets += stream.encode(frame)
    return [*packets, *stream.encode(None)]


class Pipe:
    """What cannot go back to write sizes and lengths into its head."""

    def __init__(self, file: io.BytesIO) -> None:
        self.write = file.write


def of(container: tuple[str, str, str, dict[str, str]], *, with_sound: bool, **more: Any) -> bytes:
    name, codec, sound, muxing = container
    return written(name, codec, sound if with_sound else "", tuple(muxing.items()), **more)


@pytest.mark.parametrize("with_sound", [True, False])
@pytest.mark.parametrize("container", CONTAINERS, ids=lambda c: f"{c[0]}-{c[3].get('movflags')}")
def test_wherever_a_file_was_cut_off_all_frames_are_there_or_it_is_refused(
    container: tuple[str, str, str, dict[str, str]], with_sound: bool
) -> None:
    data = of(container, with_sound=with_sound)
    assert decode(data, [0], short_side=16).num_frames == FRAMES
    refused = 0
    for share in CUTS:
        try:
            assert decode(data[: int(len(data) * share)], [0], short_side=16).num_frames == FRAMES
        except DecodeError as error:
            refused += "damaged: " in error.what
    assert refused >= len(CUTS) - 2, "an index, or sound alone, can be all that is gone"


@pytest.mark.parametrize("container", [c for c in CONTAINERS if c[3] or not c[0].endswith(".mp4")], ids=lambda c: c[0])
def test_a_file_that_lacks_only_sound_is_good(container: tuple[str, str, str, dict[str, str]]) -> None:
    data = of(container, with_sound=True, sound_s=40.0)
    assert decode(data[: int(len(data) * 0.95)], [FRAMES - 1], short_side=16).num_frames == FRAMES


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.85])
def test_fragments_name_the_frames_that_are_missing(share: float) -> None:
    data = written("v.mp4", "libx264", "", tuple(FRAGMENTS.items()))
    assert decode(data, [0]).num_frames == FRAMES
    with pytest.raises(DecodeError, match=r"damaged: \d+ of \d+ frames are there: the file was cut off"):
        decode(data[: int(len(data) * share)], [0])


@pytest.mark.parametrize("movflags", ["frag_keyframe+empty_moov", "frag_keyframe", "dash"])
def test_a_fragment_that_was_begun_is_missed(movflags: str) -> None:
    muxing = (("movflags", movflags),)
    data = written("v.mp4", "libx264", "aac", muxing)
    for end in range(len(data) // 10, len(data), 501):
        with suppress(DecodeError):
            assert decode(data[:end], [0], short_side=16).num_frames == FRAMES
    longer = written("v.mp4", "libx264", "aac", muxing, sound_s=40.0)
    assert decode(longer[:-400], [0], short_side=16).num_frames == FRAMES


def test_the_reason_names_what_is_there_and_what_was_promised() -> None:
    data = written("v.mp4", "libx264", "", tuple(FRONT.items()))
    with av.open(io.BytesIO(data)) as container:
        ends = sorted(packet.pos + packet.size for packet in container.demux(video=0) if packet.size)
    for use in (lambda cut: decode(cut, [0]), lambda cut: transcode(cut, short_side=16)):
        with pytest.raises(DecodeError, match="damaged: 20 of 30 frames are there: the file was cut off"):
            use(data[: ends[19] + 5])


def test_an_mp4_whose_index_is_gone_says_so() -> None:
    data = written("v.mp4", "libx264", "")
    for share in (0.5, 0.95, 0.97, 0.98, 0.985, 0.99):  # also where a part of it is there
        with pytest.raises(DecodeError, match=r"damaged: its index \(moov\) is missing"):
            probe(data[: int(len(data) * share)])


@pytest.mark.parametrize("sound", ["", "aac"])
def test_an_mp4_whose_index_is_cut_off_does_not_pass_for_a_shorter_one(sound: str) -> None:
    data = written("v.mp4", "libx264", sound)
    begin = data.index(b"moov") - 4
    for end in range(begin + 200, len(data), 7):
        with pytest.raises(DecodeError):
            decode(data[:end], [0], short_side=16)


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("v.mkv", "libx264"),
        ("v.webm", "libvpx"),
        ("v.avi", "mpeg4"),
        ("v.flv", "flv1"),
        ("v.asf", "wmv2"),
        ("v.ogv", "libvpx"),
    ],
)
def test_a_recording_whose_header_was_never_finished_is_good(name: str, codec: str) -> None:
    decoded = decode(written(name, codec, "", can_seek=False), [FRAMES - 1], short_side=16)
    assert (decoded.num_frames, decoded.duration_s) == (FRAMES, pytest.approx(3.0, abs=0.11))


@pytest.mark.parametrize("container", CONTAINERS, ids=lambda c: c[0])
def test_padding_behind_the_end_is_no_damage(container: tuple[str, str, str, dict[str, str]]) -> None:
    data = of(container, with_sound=False)
    assert decode(data + bytes(3000), [0], short_side=16).num_frames == FRAMES


@pytest.mark.parametrize("container", CONTAINERS, ids=lambda c: f"{c[0]}-{c[3].get('movflags')}")
def test_a_download_that_reserved_its_space_and_was_never_finished_is_refused(
    container: tuple[str, str, str, dict[str, str]],
) -> None:
    data = of(container, with_sound=True)
    half = len(data) // 2
    with pytest.raises(DecodeError, match="damaged: "):
        decode(data[:half] + bytes(half), [0], short_side=16)


def test_frames_that_were_never_filled_in_are_counted() -> None:
    data = written("v.mp4", "libx264", "", tuple(FRONT.items()))
    begin, end = len(data) * 4 // 10, len(data) * 6 // 10
    with pytest.raises(DecodeError, match=r"damaged: [4-8] of 30 frames begin with nothing but zeros"):
        decode(data[:begin] + bytes(end - begin) + data[end:], [0])


def test_a_black_frame_that_is_not_compressed_is_no_hole(tmp_path: Path) -> None:
    path = tmp_path / "v.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("rawvideo", rate=Fraction(10))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr24"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros_like(PICTURES[0]), format="rgb24")))
    assert decode(path, [0]).num_frames == 1


def remuxed(data: bytes, suffix: str, packets: Sequence[int], shift: int = 0, **options: str) -> bytes:
    """Some of the packets of a video, `shift` frames later: what players hide needs an edit list."""
    file = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(file, "w", format=suffix, container_options=options) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.size and number in packets:
                packet.pts += shift * packet.duration
                packet.dts += shift * packet.duration
                packet.stream = stream
                target.mux(packet)
    return file.getvalue()


@pytest.mark.parametrize("shift", [-8, 0, 30])
@pytest.mark.parametrize("suffix", ["mp4", "mov", "matroska"])
def test_frames_that_an_edit_list_hides_are_not_missed(suffix: str, shift: int) -> None:
    data = remuxed(written("v.mp4", "libx264", ""), suffix, range(FRAMES), shift)
    decoded = decode(data, lambda count: list(range(count)), short_side=16)
    assert FRAMES - 8 <= decoded.num_frames <= FRAMES


@pytest.mark.parametrize("suffix", ["mp4", "matroska", "avi", "flv", "asf"])
def test_frames_that_were_never_written_are_not_missed(suffix: str) -> None:
    kept = [n for n in range(FRAMES) if n % 7 != 3]
    intra = written("v.avi", "flv1" if suffix == "flv" else "mpeg4", "", gop=1)
    assert decode(remuxed(intra, suffix, kept), [0]).num_frames == len(kept)


@pytest.mark.parametrize("suffix", ["matroska", "flv", "asf"])
def test_of_a_video_of_variable_rate_no_number_of_frames_is_made_up(suffix: str) -> None:
    kept = [0, 1, 2, *range(4, FRAMES, 5)]
    intra = written("v.avi", "flv1" if suffix == "flv" else "mpeg4", "", gop=1)
    data = remuxed(intra, suffix, kept)
    with pytest.raises(DecodeError, match=r"damaged: it ends after \d frames: the file"):
        decode(data[: len(data) * 45 // 100], [0])
    assert decode(data[:-3], [0]).num_frames == len(kept)


def test_a_gif_that_was_cut_off_within_a_picture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "v.gif"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("gif", rate=Fraction(10))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb8"
        for picture in PICTURES[:5]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    data = path.read_bytes()
    for whole in (data, data[:-1], data + bytes(99)):
        assert decode(whole, [0]).num_frames == 5
    for share in (0.3, 0.5, 0.9, 0.99):
        with pytest.raises(DecodeError, match=r"damaged: it ends after \d frames: the file was cut off"):
            decode(data[: int(len(data) * share)], [0])

"""From bytes to frames: every kind of member, and every kind of damage as a bad sample."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.support.shards import frame, picture, png_frames, record, write_shards
from umt_ds.data.clips import Clip, caption_of, read_clip
from umt_ds.data.pixels import video
from umt_ds.data.pixels.decode import decode_array, decode_pictures
from umt_ds.data.shards.records import SampleRef
from umt_ds.data.shards.sample_record import label_of
from umt_ds.data.shards.source import ShardSource
from umt_ds.data.text import clean_caption
from umt_ds.errors import DecodeError
from umt_ds.keyed import Stream

SMOOTH = np.asarray(
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize((56, 40))
)


def npy(array: NDArray[np.generic]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def read_one(folder: Path, members: dict[str, bytes], chosen: list[int], *, with_record: bool = False) -> Clip:
    """Write one sample, read it back."""
    source = ShardSource(write_shards(folder, [1], members=lambda _: members))
    return read_clip(source, SampleRef(0, 0), choose=lambda _: chosen, with_record=with_record)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "BMP", "JPEG"])
def test_pictures_decode_as_pillow_decodes_them(format: str) -> None:
    data = picture(SMOOTH, format=format)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    # both use the slow exact DCT; a level or two of difference is left to the JPEG libraries
    assert np.abs(decode_pictures([data, data])[1].astype(int) - expected).max() <= (2 if format == "JPEG" else 0)


def test_jpegs_in_grey_and_cmyk_come_out_as_rgb() -> None:
    for mode in ("L", "CMYK"):
        file = io.BytesIO()
        Image.fromarray(SMOOTH).convert(mode).save(file, "JPEG", quality=95)
        frames = decode_pictures([file.getvalue()])
        assert frames.shape == (1, 40, 56, 3)
        expected = np.asarray(Image.fromarray(SMOOTH).convert(mode).convert("RGB")).astype(int)
        assert np.abs(frames[0].astype(int) - expected).mean() < 5


def test_only_the_members_of_the_chosen_frames_are_read(tmp_path: Path) -> None:
    members = png_frames(7, num_frames=12)
    clip = read_one(tmp_path, members, [1, 10, 10])
    assert clip.crcs == (zlib.crc32(members["001.png"]), zlib.crc32(members["010.png"]))
    assert clip.frame_numbers == (1, 10, 10)
    assert np.array_equal(clip.frames, np.stack([frame(7, 1), frame(7, 10), frame(7, 10)]))
    assert clip.record == {}


def test_a_sample_may_be_an_array_an_image_or_a_video(tmp_path: Path) -> None:
    stored = np.stack([frame(3, i, size=(32, 48)) for i in range(9)])
    assert np.array_equal(read_one(tmp_path / "a", {"npy": npy(stored)}, [0, 8]).frames, stored[[0, 8]])
    image = read_one(tmp_path / "b", {"jpg": picture(SMOOTH, format="PNG")}, [0, 0])  # the bytes say what it is
    assert np.array_equal(image.frames, np.stack([SMOOTH, SMOOTH]))
    video.write_mp4(tmp_path / "clip.mp4", list(stored), fps=10)
    shown = read_one(tmp_path / "c", {"mp4": (tmp_path / "clip.mp4").read_bytes()}, [2, 8])
    assert shown.frames.shape == (2, 32, 48, 3)
    assert np.abs(shown.frames.astype(int) - stored[[2, 8]]).max() <= 6
    assert shown.frame_numbers == (2, 8)


def test_a_huge_claim_costs_no_memory() -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    with pytest.raises(DecodeError):
        decode_pictures([png])
    claim = npy(np.zeros((1, 2, 2, 3), np.uint8)).replace(b"(1, 2, 2, 3)", b"(9, 9999999, 99999, 3)")
    with pytest.raises(DecodeError):
        decode_array(claim)


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"junk",
        b"\xff\xd8",
        picture(SMOOTH)[:-40],
        picture(SMOOTH, format="JPEG")[:200],
        picture(SMOOTH, format="WEBP")[:60],
    ],
)
def test_damaged_pictures_are_bad_samples(damaged: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_pictures([damaged])


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"\x93NUMPY\x01\x00",
        npy(np.zeros((2, 4, 4, 3), np.float32)),
        npy(np.zeros((2, 4, 4), np.uint8)),
        npy(np.asfortranarray(np.zeros((2, 4, 5, 3), np.uint8))),
        npy(np.zeros((2, 4, 4, 3), np.uint8))[:-1],
        npy(np.array([{"a": 1}], dtype=object)),
    ],
)
def test_arrays_that_are_no_clip_are_bad_samples(damaged: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_array(damaged)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"json": b"{}"}, "holds no clip"),
        ({"000.png": picture(SMOOTH), "001.png": picture(SMOOTH[:30])}, "differ in size"),
        ({**png_frames(0), "json": b"{"}, "cannot be read"),
        ({**png_frames(0), "json": b"[1]"}, "not an object"),
        ({"mp4": b"no video"}, "not a video container"),
    ],
)
def test_samples_without_a_usable_clip_are_bad(tmp_path: Path, members: dict[str, bytes], reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        read_one(tmp_path, members, [0, 1], with_record=True)


def test_foreign_captions_and_labels_in_txt_and_cls_are_read(tmp_path: Path) -> None:
    members = {"jpg": picture(SMOOTH), "txt": "ein Föhn".encode(), "cls": b"12"}
    clip = read_one(tmp_path / "a", members, [0], with_record=True)
    assert clip.record == {"caption": "ein Föhn", "label": 12}
    own = read_one(tmp_path / "b", {**members, **record(3)}, [0], with_record=True)
    assert own.record["label"] == 3


def test_one_of_several_captions_is_drawn_by_key() -> None:
    captions = {"caption": ["a", "b", "c"]}
    drawn = [caption_of(captions, Stream(0, draw)) for draw in range(60)]
    assert set(drawn) == {"a", "b", "c"}
    assert drawn == [caption_of(captions, Stream(0, draw)) for draw in range(60)]
    nothings: list[object] = [[], None, " ", ["", "?"]]
    without: list[dict[str, object]] = [{}, *({"caption": nothing} for nothing in nothings)]
    for nothing in without:
        with pytest.raises(DecodeError, match="no caption"):
            caption_of(nothing, Stream(0), clean=lambda text: text.strip(" ?"))
    with pytest.raises(DecodeError, match="neither text nor a list"):
        caption_of({"caption": [1]}, Stream(0))


def test_captions_come_from_the_field_asked_for_and_those_that_say_nothing_are_passed_over() -> None:
    record = {"title": ["", "A cat!", " "], "caption": "other"}
    drawn = {caption_of(record, Stream(0, draw), field="title", clean=clean_caption) for draw in range(20)}
    assert drawn == {"a cat"}


def test_labels_are_whole_numbers_or_absent() -> None:
    assert label_of({"motion": 4}, "motion") == 4
    assert label_of({}, "motion") == -1
    for wrong in ("4", 4.0, True, [4], 2**63, -(10**30)):
        with pytest.raises(DecodeError, match="not a whole number"):
            label_of({"motion": wrong}, "motion")


def test_the_digest_covers_draw_key_bytes_and_frames() -> None:
    clip = Clip("k", np.zeros((1, 1, 1, 3), np.uint8), (1, 2), (7, 8), {})
    others = [
        Clip("l", clip.frames, (1, 2), (7, 8), {}),
        Clip("k", clip.frames, (1, 3), (7, 8), {}),
        Clip("k", clip.frames, (1, 2), (7, 9), {}),
        Clip("k", clip.frames, (2,), (7, 8, 1), {}),
    ]
    assert len({clip.digest(0), clip.digest(1), *(other.digest(0) for other in others)}) == 6

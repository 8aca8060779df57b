"""What a clip becomes: frames, an array, an mp4, a picture; and what a stranger's file must not do."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_prep.clip import Clip, Outcome, Refusal, RunOptions, Sample, SourceMedia, StoreOptions
from data_prep.decode import at_rate, make_sample
from data_prep.engines import WorkerFailure, map_ordered
from tests.support.videos import frame_number, level, write_video
from umt_ds.data.pixels.video import decode


def made(root: Path, source: str, *, media: SourceMedia = "video", span: Any = None, **store: Any) -> Outcome:
    options = StoreOptions(**{"frames": 4, "short_side": 32, **store})
    return make_sample(Clip("k", source, span_s=span), root=root, media=media, store=options)


def sample(outcome: Outcome) -> tuple[dict[str, Any], dict[str, bytes]]:
    assert isinstance(outcome, Sample), outcome
    members = dict(outcome.members)
    return json.loads(members.pop("json")), members


def test_npy_holds_the_frames_that_the_jpegs_hold(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", frames=12)
    record, members = sample(made(tmp_path, "v.mp4", store="npy"))
    frames = np.load(io.BytesIO(members["npy"]), allow_pickle=False)
    assert (frames.shape, frames.dtype) == ((4, 32, 43, 3), np.uint8)
    assert [frame_number(frame) for frame in frames] == record["source_frames"] == [1, 4, 7, 10]
    jpegs, _ = sample(made(tmp_path, "v.mp4"))
    assert record == jpegs


def test_mp4_holds_every_frame_of_the_clip_at_its_time(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", frames=12, fps=10)
    record, members = sample(made(tmp_path, "v.mp4", store="mp4"))
    assert list(members) == ["mp4"]
    assert record["source_frames"] == list(range(12))
    assert record["times_s"] == pytest.approx([n / 10 for n in range(12)])
    assert (record["width"], record["height"], record["stored_fps"]) == (42, 32, 10.0)
    seen = decode(members["mp4"], lambda count: list(range(count))).frames
    assert [frame_number(frame) for frame in seen] == list(range(12))
    again, same = sample(made(tmp_path, "v.mp4", store="mp4"))
    assert (again, same) == (record, members)


def test_mp4_of_a_span_at_a_rate_holds_the_frames_of_that_span(tmp_path: Path) -> None:
    write_video(tmp_path / "w.mp4", frames=40, fps=2)  # 20 s
    record, members = sample(made(tmp_path, "w.mp4", store="mp4", span=(4, 10), fps=1))
    seen = decode(members["mp4"], lambda count: list(range(count))).frames
    numbers = [frame_number(frame) for frame in seen]
    assert numbers == record["source_frames"]
    assert all(8 <= number < 20 for number in numbers)
    assert len(numbers) == 6


def test_frames_a_second_instead_of_a_count(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", frames=40, fps=10)  # 4 s
    record, members = sample(made(tmp_path, "v.mp4", fps=2))
    assert record["source_frames"] == [2, 7, 12, 17, 22, 27, 32, 37]
    assert record["times_s"] == pytest.approx([n / 10 for n in record["source_frames"]])
    assert len(members) == 8
    assert at_rate(300, 29.97, 1) == [15, 45, 75, 105, 135, 165, 195, 225, 255, 285]
    assert at_rate(30, 30, 0.01) == [15]


def test_too_many_frames_for_one_array_are_refused_before_they_are_decoded_and_any_number_of_jpegs_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "v.mp4", frames=40, fps=10)
    monkeypatch.setattr("data_prep.decode.MOST_FRAMES_OF_AN_ARRAY", 7)
    refusal = made(tmp_path, "v.mp4", fps=2, store="npy")
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "8 frames in one array, above the limit of 7"
    sample(made(tmp_path, "v.mp4", fps=1, store="npy"))
    assert len(sample(made(tmp_path, "v.mp4", fps=2))[1]) == 8


def test_a_picture_is_a_clip_of_one_frame_upright_and_on_white(tmp_path: Path) -> None:
    picture = np.zeros((80, 40, 3), np.uint8)
    picture[:40] = 250  # the top is bright
    turned = Image.fromarray(np.rot90(picture).copy())
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    turned.save(tmp_path / "turned.jpg", exif=exif)
    record, members = sample(made(tmp_path, "turned.jpg", media="image"))
    assert list(members) == ["jpg"]
    shown = np.asarray(Image.open(io.BytesIO(members["jpg"])))
    assert shown.shape == (64, 32, 3)
    assert shown[:28].mean() > 240
    assert shown[36:].mean() < 10
    assert (record["source_width"], record["source_height"]) == (40, 80)
    clear = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    _, members = sample(made(tmp_path, "clear.png", media="image"))
    assert np.asarray(Image.open(io.BytesIO(members["jpg"]))).min() > 250
    _, members = sample(made(tmp_path, "clear.png", media="image", store="npy"))
    assert np.load(io.BytesIO(members["npy"])).shape == (1, 32, 32, 3)


def test_a_folder_of_numbered_pictures_is_a_video(tmp_path: Path) -> None:
    for number in range(1, 13):
        grey = np.full((48, 64, 3), level(number - 1), np.uint8)
        folder = tmp_path / "clip7"
        folder.mkdir(exist_ok=True)
        Image.fromarray(grey).save(folder / f"img_{number}.jpg", quality=95)  # 10 comes after 2
        Image.fromarray(grey[::-1]).save(folder / f"flow_x_{number}.jpg", quality=95)
    record, members = sample(made(tmp_path, "clip7"))
    assert record["source_frames"] == [1, 4, 7, 10]
    frames = [np.asarray(Image.open(io.BytesIO(members[f"{n:03d}.jpg"]))) for n in range(4)]
    assert [frame_number(frame) for frame in frames] == [1, 4, 7, 10]
    refusal = made(tmp_path, "clip7", store="mp4")
    assert isinstance(refusal, Refusal)
    assert "says no rate" in refusal.reason
    (tmp_path / "empty").mkdir()
    assert isinstance(made(tmp_path, "empty"), Refusal)


def bomb(path: Path, side: int) -> None:
    """A PNG of a few kilobytes that claims side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(100_000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b""))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("text.jpg", b"hello", "is no picture"),
        ("empty.png", b"", "file is empty (0 bytes)"),
        ("bomb.png", 12_000, "12000x12000 is above the limit"),
        ("enormous.png", 60_000, "above the limit of 67,108,864 pixels"),
    ],
)
def test_pictures_that_are_none_are_refused_with_a_reason(
    tmp_path: Path, name: str, content: bytes | int, reason: str
) -> None:
    if isinstance(content, int):
        bomb(tmp_path / name, content)
    else:
        (tmp_path / name).write_bytes(content)
    refusal = made(tmp_path, name, media="image")
    assert isinstance(refusal, Refusal)
    assert reason in refusal.reason


def _allocate(gigabytes: int) -> int:
    return len(bytearray(gigabytes << 30))


def test_a_process_that_asks_for_too_much_memory_gets_an_error_and_not_the_machine() -> None:
    run = RunOptions(workers=1, memory_gb=2.0)
    results = map_ordered(_allocate, [0, 4], workers=1, timeout_s=30, memory_gb=run.memory_gb)
    assert next(results) == 0
    with pytest.raises(MemoryError):
        next(results)


def test_a_missing_file_is_a_refusal(tmp_path: Path) -> None:
    (tmp_path / "other.mp4").touch()  # an empty folder could be where a disk is not mounted
    refusal = made(tmp_path, "gone.mp4")
    assert isinstance(refusal, Refusal)
    assert "cannot be read" in refusal.reason
    assert not isinstance(refusal, WorkerFailure)

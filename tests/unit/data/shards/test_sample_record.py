"""What a sample says of itself is the same for preparation and for training, whichever files say it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from data_prep.checking.samples import StoredSample, samples_of
from data_prep.checking.show import draw_frames
from data_prep.checking.stats import collect_stats
from data_prep.checking.verify import verify
from data_prep.decode import evenly_spread
from data_prep.making.foreign import adopt
from data_prep.sources.sets import Filter, list_sets
from tests.support.shards import frame, picture, write_shards
from tests.support.videos import write_video
from umt_ds.data.clips import read_clip
from umt_ds.data.shards.manifest import load_manifest
from umt_ds.data.shards.sample_record import answers_of
from umt_ds.data.shards.source import ShardSource
from umt_ds.errors import DecodeError

PNG = picture(frame(0, 0))


def stored(folder: Path, members: Mapping[str, bytes]) -> StoredSample:
    """One sample with these files, as preparation reads it."""
    write_shards(folder, [1], members=lambda _: members)
    return next(samples_of(folder / "tiny-000000.tar"))


def trained(folder: Path) -> Mapping[str, Any]:
    """The record of the same sample, as training reads it."""
    source = ShardSource(folder)
    return read_clip(source, next(iter(source.refs())), choose=lambda count: [0], with_record=True).record


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"cls": b"3"}, {"label": 3}),
        ({"cls": b" 12\n"}, {"label": 12}),
        ({"CLS": b"3", "TXT": b"a cat"}, {"label": 3, "caption": "a cat"}),
        ({"JSON": b'{"label": 1}', "cls": b"3"}, {"label": 1}),  # json goes first
        ({"json": b'{"label": null, "caption": null}', "cls": b"3", "txt": b"a cat"}, {"label": 3, "caption": "a cat"}),
        ({"json": b'{"caption": ""}', "txt": "\ufeffein Kätzchen".encode()}, {"caption": "ein Kätzchen"}),
        ({"json": b'{"caption": ["one", "two"]}', "txt": b"three"}, {"caption": ["one", "two"]}),
    ],
)
def test_json_txt_and_cls_say_the_same_to_both_sides(
    tmp_path: Path, files: dict[str, bytes], says: dict[str, Any]
) -> None:
    assert stored(tmp_path, {"png": PNG, **files}).record() == says == trained(tmp_path)


@pytest.mark.parametrize(
    "files",
    [
        {"cls": b"cat"},
        {"cls": b"1_000"},  # Python reads a thousand, nobody else does
        {"cls": b"3.0"},
        {"cls": b""},
        {"txt": b"\xff"},
        {"json": b"[]"},
        {"json": b"{"},
    ],
)
def test_what_cannot_be_read_is_refused_by_both_sides(tmp_path: Path, files: dict[str, bytes]) -> None:
    sample = stored(tmp_path, {"png": PNG, **files})
    with pytest.raises(DecodeError, match=r"tiny-000000\.tar.*clip-0000"):
        sample.record()
    with pytest.raises(DecodeError):
        trained(tmp_path)


def test_a_label_of_cls_counts_in_stats_filter_and_verify(tmp_path: Path) -> None:
    files = {0: {"cls": b"0"}, 1: {"cls": b"7"}, 2: {"json": b'{"label": null}'}, 3: {"txt": b"no label"}}
    write_shards(tmp_path, [4], members=lambda n: {"000.png": picture(frame(n, 0)), **files[n]})
    stats = collect_stats(tmp_path)
    assert (stats["with_label"], stats["label"], stats["with_caption"]) == (2, {"0": 1, "7": 1}, 1)
    listing = list_sets([tmp_path], keep=Filter(labelled=True), verb="filter")
    assert [clip.key for clip in listing.clips] == ["clip-0000", "clip-0001"]
    assert {refusal.reason for refusal in listing.left_out} == {"no label"}
    manifest = load_manifest(tmp_path)
    object.__setattr__(manifest, "labels", ("one", "two"))
    manifest.save(tmp_path)
    assert verify(tmp_path).faults == [
        ("label outside the class list", "tiny-000000.tar clip-0001: 7 of 2 classes"),
    ]


def test_index_tells_of_labels_in_cls_and_of_those_that_cannot_be_used(tmp_path: Path) -> None:
    files = [
        {"cls": b"0"},
        {"CLS": b"1", "txt": b"a cat"},
        {"cls": b"cat"},
        {"json": b'{"caption": 5, "label": null}'},
        {},
    ]
    write_shards(tmp_path, [5], members=lambda n: {"png": PNG, **files[n]})
    notes = adopt(tmp_path, force=True).notes
    assert notes == (
        "1 of 5 samples have a caption, 2 a label",
        "2 samples have a json, txt or cls that cannot be used",
    )


def test_a_picture_beside_the_video_or_the_frames_is_no_frame(tmp_path: Path) -> None:
    """video2dataset can store a thumbnail: both sides look at the frames, by their number."""
    frames = {f"{n:03d}.png": picture(frame(0, n)) for n in (2, 0, 1)}
    sample = stored(tmp_path / "frames", {"jpg": PNG, **frames})
    assert [int(pixels[0, 0, 1]) for pixels in sample.frames(lambda count: list(range(count)))] == [0, 1, 2]
    video = write_video(tmp_path / "v.mp4", frames=5).read_bytes()
    sample = stored(tmp_path / "video", {"jpg": PNG, "mp4": video})
    assert len(sample.frames(lambda count: evenly_spread(count, 9))) == 5


def test_frames_that_training_refuses_are_refused_by_verify_and_show(tmp_path: Path) -> None:
    sample = stored(tmp_path, {"000.png": PNG, "001.png": picture(frame(0, 1)[:9])})
    source = ShardSource(tmp_path)
    with pytest.raises(DecodeError, match="frames of one clip differ in size"):
        read_clip(source, next(iter(source.refs())), choose=lambda count: [0, 1], with_record=False)
    with pytest.raises(DecodeError, match=r"tiny-000000\.tar: sample clip-0000: frames of one clip differ in size"):
        draw_frames(sample, tmp_path / "one.png")
    ((kind, said),) = verify(tmp_path, every=1).faults
    assert kind == "frames cannot be decoded"
    assert said.startswith("tiny-000000.tar clip-0000: frames of one clip differ in size")


# ---------------------------------------------------------------- answers to questions


@pytest.mark.parametrize(
    ("record", "answers"),
    [
        ({"answers": "yes"}, [("yes", 1.0)]),
        ({"answers": ["yes", "no", "yes", "yes"]}, [("yes", 0.75), ("no", 0.25)]),
        ({"answers": ["yes", "no"], "answer_weights": [3, 0.5]}, [("yes", 3.0), ("no", 0.5)]),
        ({"answers": [" Red ", "Red", "red"]}, [("Red", 2 / 3), ("red", 1 / 3)]),  # as it is written
        ({"answers": ["", "yes"]}, [("yes", 1.0)]),  # an empty one has no share
        ({"answers": []}, []),
        ({"answers": ["", " "]}, []),
        ({"answers": ["\u200b", "\u0301", "no"]}, [("no", 1.0)]),  # nor has one without ink
        ({"answers": ["\u200b\u2060 \ufe0f"]}, []),
        ({"answers": ["e\u0301", "?"]}, [("e\u0301", 0.5), ("?", 0.5)]),
        ({"answers": None}, []),
        ({}, []),
    ],
)
def test_different_answers_have_the_share_that_each_has_of_all(
    record: dict[str, Any], answers: list[tuple[str, float]]
) -> None:
    found = answers_of(record)
    assert [text for text, _ in found] == [text for text, _ in answers]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in answers])


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"answers": 3}, "neither text nor a list of texts"),
        ({"answers": ["yes", 3]}, "neither text nor a list of texts"),
        ({"answers": ["a \ud83d"]}, "half a character"),
        ({"answers": ["yes"], "answer_weights": [1, 2]}, "are not the weights of 1 answers"),
        ({"answers": ["yes"], "answer_weights": [-1]}, "are not the weights"),
        ({"answers": ["yes", "no"], "answer_weights": [0, 0]}, "are not the weights"),
        ({"answers": ["yes"], "answer_weights": [float("nan")]}, "are not the weights"),
        ({"answers": [], "answer_weights": []}, "are not the weights"),
        ({"answers": ["", "yes"], "answer_weights": [1, 0]}, "leave all answers that say something at 0"),
    ],
)
def test_what_are_no_answers_or_weights_is_called_so(record: dict[str, Any], says: str) -> None:
    with pytest.raises(DecodeError, match=says):
        answers_of(record)

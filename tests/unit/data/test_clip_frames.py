"""The frames that a clip shows under a rule are those of its source that the rule asks for, whatever is stored."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data_prep.clip import Clip as SourceClip
from data_prep.clip import Sample, StoreOptions
from data_prep.decode import make_sample
from tests.support.shards import noisy_frames, picture, write_shards
from tests.support.videos import numbered, shown_number, write_numbered_video
from umt_ds.data.clips import Clip, members_shown, read_clip
from umt_ds.data.order.views import FrameRule, Views, frames_of, views_text
from umt_ds.data.shards.records import Member
from umt_ds.data.shards.sample_record import NO_QUESTION, Question
from umt_ds.data.shards.source import ShardSource
from umt_ds.errors import DataError, DecodeError

VIEWS = [Views("recognition", 8, 4), Views("recognition", 16, 4), Views("ssv2", 8, 2), Views("retrieval", 12)]
RULES = [rule for views in VIEWS for rule in (views.validation_rule, views.testing_rule)]
ALL_OF_THEM = views_text(map(str, VIEWS))


@dataclass
class InMemory:
    """A source of one sample."""

    content: Mapping[str, bytes]
    set_name: str = "sets/mine"
    asked: Question = NO_QUESTION
    read_members: list[str] = field(default_factory=list)  # suffixes

    def key(self, ref: int) -> str:
        return "k"

    def members(self, ref: int) -> list[Member]:
        return [Member(suffix, 0, len(data), zlib.crc32(data)) for suffix, data in self.content.items()]

    def question(self, ref: int) -> Question:
        return self.asked

    def read(self, ref: int, member: Member) -> bytes:
        self.read_members.append(member.suffix)
        return self.content[member.suffix]


def array_sample(shown: Sequence[int], record: Mapping[str, Any]) -> InMemory:
    """Frames of one pixel each that hold these numbers, with this json."""
    frames = np.array([[[[n % 256, n // 256, 0]]] for n in shown], np.uint8)
    file = io.BytesIO()
    np.save(file, frames)
    return InMemory({"json": json.dumps(record).encode(), "npy": file.getvalue()})


def numbers_in(clip: Clip) -> list[int]:
    return [int(frame[0, 0, 0]) + 256 * int(frame[0, 0, 1]) for frame in clip.frames]


def read(source: InMemory, rule: FrameRule) -> Clip:
    return read_clip(source, 0, choose=rule, with_record=False)


@given(length=st.integers(1, 400), first=st.integers(0, 200), rule=st.sampled_from(RULES), more=st.booleans())
def test_the_frames_of_a_rule_are_found_by_their_number_in_the_clip(
    length: int, first: int, rule: FrameRule, more: bool
) -> None:
    stored = [first + n for n in frames_of(ALL_OF_THEM if more else str(rule.views), length)]
    record = {"source_frames": stored, "clip_frames": [first, length], "num_frames_total": 700}
    clip = read(array_sample(stored, record), rule)
    assert numbers_in(clip) == [first + n for n in rule(length)]


@given(length=st.integers(1, 400), rule=st.sampled_from(RULES))
def test_what_stores_every_frame_of_its_file_and_what_is_of_others_is_the_clip(length: int, rule: FrameRule) -> None:
    ours = {"source_frames": list(range(length)), "num_frames_total": length}
    for record in (ours, {}, {"num_frames_total": 3, "duration_s": 1}):
        assert numbers_in(read(array_sample(range(length), record), rule)) == rule(length)


@pytest.mark.parametrize(
    ("record", "missing"),
    [
        (
            {"source_frames": [12, 37, 62], "num_frames_total": 300},
            "stores 3 frames and does not say which of its file",
        ),
        ({"source_frames": [100, 101, 102], "num_frames_total": 300}, "does not say which of its file"),
        ({"source_frames": [0, 1, 2], "num_frames_total": 300}, "does not say which of its file"),
        (
            {"source_frames": [12, 37, 62], "num_frames_total": 300, "clip_frames": [0, 300]},
            "stores 3 of the 300 frames of its clip, without 87, 112, 137, 162, 187, …",
        ),
    ],
)
def test_a_set_without_the_frames_of_a_rule_is_refused_as_a_whole_with_the_option_that_stores_them(
    record: dict[str, Any], missing: str
) -> None:
    with pytest.raises(DataError, match="sets/mine was not made for the frames of retrieval:12") as refused:
        read(array_sample([0, 1, 2], record), Views("retrieval", 12).validation_rule)
    assert not isinstance(refused.value, DecodeError), "it is not this sample that is bad"
    assert missing in refused.value.what
    assert "umt-data … --views retrieval:12" in (refused.value.hint or "")


@pytest.mark.parametrize(
    "record",
    [
        {"source_frames": [0, 1]},
        {"source_frames": "0,1,2"},
        {"source_frames": [0, 1, 2.0]},
        {"source_frames": [0, 1, True]},
        {"source_frames": [-1, 0, 1]},
        {"source_frames": [0, 1, 2], "clip_frames": [1, 2]},
        {"source_frames": [0, 1, 2], "clip_frames": [0, 2]},
        {"source_frames": [0, 1, 2], "clip_frames": 3},
        {"source_frames": [0, 1, 2], "clip_frames": [0, 3, 3]},
        {"source_frames": [0, 1, 2], "clip_frames": ["0", 3]},
    ],
)
def test_a_record_that_contradicts_itself_costs_its_sample(record: dict[str, Any]) -> None:
    with pytest.raises(DecodeError, match=r"source_frames|clip_frames"):
        read(array_sample([0, 1, 2], record), Views("recognition", 8).validation_rule)


def test_reading_stored_frames_needs_no_record() -> None:
    source = array_sample(range(4), {"source_frames": "nonsense"})
    assert numbers_in(read_clip(source, 0, choose=lambda stored: [stored - 1], with_record=False)) == [3]


def test_a_picture_is_a_clip_of_one_frame() -> None:
    data = io.BytesIO()
    Image.fromarray(numbered(5)).save(data, "PNG")
    clip = read(InMemory({"png": data.getvalue()}), Views("retrieval", 4).validation_rule)
    assert [shown_number(frame) for frame in clip.frames] == [5] * 4


def test_frames_of_others_are_all_that_their_clip_has(tmp_path: Path) -> None:
    source = ShardSource(write_shards(tmp_path, [1], members=noisy_frames))
    clip = read_clip(source, source.ref(0), choose=Views("ssv2", 4).validation_rule, with_record=False)
    assert clip.frame_numbers == (0, 2, 4, 6)  # of seven


# --- through `umt-data`'s own making


def made(root: Path, *, name: str = "v.mp4", span: Any = None, **store: Any) -> InMemory:
    options = StoreOptions(**{"short_side": 48, **store})
    sample = make_sample(SourceClip("k", name, span_s=span), root=root, media="video", store=options)
    assert isinstance(sample, Sample), sample
    return InMemory(sample.members)


def record_of(source: InMemory) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(source.content["json"])
    return record


def check_all_rules(source: InMemory, *, first: int, length: int) -> None:
    for rule in RULES:
        clip = read_clip(source, 0, choose=rule, with_record=True)
        assert [shown_number(frame) for frame in clip.frames] == [first + n for n in rule(length)]
        assert clip.record["key"] == "k"


@pytest.mark.parametrize("length", [1, 3, 40, 301])
@pytest.mark.parametrize("stored", ["frames", "npy", "mp4"])
def test_a_set_made_with_views_shows_the_frames_of_the_video(tmp_path: Path, length: int, stored: str) -> None:
    write_numbered_video(tmp_path / "v.mp4", range(length))
    source = made(tmp_path, views=ALL_OF_THEM, store=stored)
    record = record_of(source)
    assert record["clip_frames"] == [0, length]
    assert record["source_frames"] == frames_of("all" if stored == "mp4" else ALL_OF_THEM, length)
    check_all_rules(source, first=0, length=length)


@pytest.mark.parametrize("stored", ["frames", "mp4"])
def test_of_a_span_the_rules_count_the_frames_of_the_span(tmp_path: Path, stored: str) -> None:
    write_numbered_video(tmp_path / "v.mp4", range(200), fps=20)
    source = made(tmp_path, span=(2.5, 6.0), views=ALL_OF_THEM, store=stored)
    assert record_of(source)["clip_frames"] == [50, 70]
    check_all_rules(source, first=50, length=70)
    spread = made(tmp_path, span=(2.5, 6.0), frames=200)  # every frame of the span, but nothing says so
    with pytest.raises(DataError, match="does not say which of its file are the clip"):
        read(spread, RULES[0])


def test_a_folder_of_frames_and_all_frames(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    for number in range(37):
        Image.fromarray(numbered(number)).save(tmp_path / "f" / f"img_{number + 1:05d}.png")
    for views in (ALL_OF_THEM, "all"):
        check_all_rules(made(tmp_path, name="f", views=views), first=0, length=37)


def test_videos_without_our_json_have_all_their_frames(tmp_path: Path) -> None:
    video = write_numbered_video(tmp_path / "v.mp4", range(90)).read_bytes()
    of_others = {"key": "k", "source_frames": [7], "num_frames_total": 4}  # whatever it says there
    check_all_rules(InMemory({"json": json.dumps(of_others).encode(), "mp4": video}), first=0, length=90)


def test_mp4_made_with_views_holds_each_frame_once_where_the_rate_varies(tmp_path: Path) -> None:
    from fractions import Fraction

    import av

    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(30), options={"crf": "8"})
        stream.width, stream.height, stream.pix_fmt = 48, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 600)
        for number in range(60):
            frame = av.VideoFrame.from_ndarray(numbered(number), format="rgb24")
            frame.pts = number * 20 if number < 30 else 600 + (number - 30) * 100  # 30 frames a second, then 6
            frame.time_base = Fraction(1, 600)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    for_training = record_of(made(tmp_path, store="mp4"))["source_frames"]
    assert for_training != list(range(60)), "at a constant rate some are repeated or left out"
    with pytest.raises(DataError, match="does not say which of its file are the clip"):
        read(made(tmp_path, store="mp4"), RULES[0])
    check_all_rules(made(tmp_path, store="mp4", views="recognition:8x4"), first=0, length=60)


class Noting(InMemory):
    """Notes what is read."""

    def read(self, ref: int, member: Member) -> bytes:
        noted.append(member.suffix)
        return super().read(ref, member)


noted: list[str] = []


@pytest.mark.parametrize("with_record", [True, False])
@pytest.mark.parametrize(
    "sample",
    [
        noisy_frames(3),
        {"jpg": noisy_frames(3)["000.png"], "txt": b"a caption", "cls": b"3"},
        array_sample([0, 1, 2, 3], {"label": 1}).content,
    ],
)
def test_the_members_that_a_clip_reads_are_known_before(sample: Mapping[str, bytes], with_record: bool) -> None:
    noted.clear()
    source = Noting(sample)

    def choose(num_frames: int) -> list[int]:
        return [0, num_frames // 2, num_frames // 2]

    read_clip(source, 0, choose=choose, with_record=with_record)
    expected = members_shown(source, 0, choose=choose, with_record=with_record)
    assert sorted(noted) == sorted(member.suffix for member in expected)


def test_the_members_that_a_rule_may_read_are_those_of_the_whole_clip() -> None:
    for source in (array_sample([0, 1, 2, 3], {"label": 1}), InMemory({"txt": b"no clip"})):
        shown = members_shown(source, 0, choose=RULES[0], with_record=False)
        assert sorted(shown) == sorted(source.members(0))


def test_real_clips_show_the_frames_that_decoding_the_video_gives(shared: Path, tmp_path: Path) -> None:
    from umt_ds.data.pixels.video import decode, probe

    files = [shared / "data" / "clips" / name for name in ("arms_up.mp4", "asl_again.mkv")]
    for file in files:
        source = made(file.parent, name=file.name, views="recognition:8x4", store="npy", short_side=64)
        length = record_of(source)["num_frames_total"]
        for rule in RULES[:2]:
            shown = read(source, rule).frames
            assert np.array_equal(shown, decode(file, rule(length), short_side=64).frames)
        assert probe(file).num_frames in (0, length)


ONE_PIXEL = picture(np.zeros((1, 1, 3), np.uint8))
FIELDS = st.dictionaries(st.sampled_from(["caption", "label"]), st.just(7))
PARTS = st.none() | st.tuples(st.integers(0, 3), st.integers(0, 3)).map(lambda ends: (min(ends), max(ends)))


@given(
    pictures=st.sampled_from([["png"], ["000.png", "001.png"], ["1.PNG", "0.PNG", "2.PNG", "10.PNG"], []]),
    said=st.lists(st.sampled_from(["json", "txt", "cls"]), unique=True),
    question=st.builds(Question, FIELDS, PARTS),
    asked=st.sets(st.sampled_from(["caption", "label"])),
    with_record=st.booleans(),
)
def test_what_is_fetched_of_a_sample_is_what_is_read_of_it(
    pictures: list[str], said: list[str], question: Question, asked: set[str], with_record: bool
) -> None:
    files = {"json": b'{"caption": null}', "txt": b"a", "cls": b"1"}
    source = InMemory({**{name: files[name] for name in said}, **dict.fromkeys(pictures, ONE_PIXEL)}, asked=question)

    def choose(count: int) -> list[int]:
        return [0, count - 1, 0]

    members = members_shown(source, 0, choose=choose, with_record=with_record, asked=asked)
    try:
        read_clip(source, 0, choose=choose, with_record=with_record, asked=asked)
    except DecodeError:
        assert members == []
    assert sorted(member.suffix for member in members) == sorted(source.read_members)

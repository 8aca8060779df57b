"""Any json, txt and cls: one record for preparation and training, or both refuse; and what looks at it never fails."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from data_prep.checking.samples import records_of, samples_of
from data_prep.checking.sheet import draw_tile
from data_prep.checking.show import show
from data_prep.checking.stats import collect_stats, table
from data_prep.leaks.id_overlap import spans_of_set
from data_prep.making.upgrade import upgrade
from data_prep.sources.sets import Filter
from data_prep.state.statistics import ShardStatistics
from tests.support.shards import frame, picture, write_shards
from umt_ds.data.clips import read_record
from umt_ds.data.shards.records import Member
from umt_ds.data.shards.sample_record import (
    NO_QUESTION,
    Question,
    captions_of,
    has_label,
    label_of,
    number_in,
    stored_frames,
)
from umt_ds.errors import DecodeError

PNG = picture(frame(0, 0))
TEXT = st.text(
    st.characters(exclude_categories=()) | st.sampled_from("\x00\x1b\x9b\ufeff\ud83d\u202e\n 0123456789_-"), max_size=9
)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
FIELDS = [
    "caption", "label", "label_name", "duration_s", "fps", "source_width", "source_height", "width", "height", "codec",
    "source_frames", "stored_fps", "times_s", "youtube_id", "time_start", "time_end", "url", "interlaced",
    "clip_frames", "num_frames_total",
]  # fmt: skip
RECORDS = st.dictionaries(st.sampled_from(FIELDS), ANY_JSON, max_size=5)
JSON = (RECORDS | ANY_JSON).map(lambda value: json.dumps(value).encode()) | st.binary(max_size=40)
BYTES = TEXT.map(lambda text: text.encode(errors="surrogatepass")) | st.binary(max_size=9)
FILES = st.builds(  # both json and JSON in a sample are refused where the tar is indexed
    lambda files, spell: {spell(suffix): data for suffix, data in files.items()},
    st.fixed_dictionaries({}, optional={"json": JSON, "txt": BYTES, "cls": BYTES}),
    st.sampled_from([str.lower, str.upper, str.title]),
)


class OneSample:
    """A source of training with a single sample."""

    set_name = "set"

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = files

    def key(self, ref: int) -> str:
        return "clip-0000"

    def members(self, ref: int) -> list[Member]:
        return [Member(suffix, 0, len(data), 0) for suffix, data in self.files.items()]

    def question(self, ref: int) -> Question:
        return NO_QUESTION

    def read(self, ref: int, member: Member) -> bytes:
        return self.files[member.suffix]


def trained(files: Mapping[str, bytes]) -> Mapping[str, Any] | str:
    try:
        return read_record(OneSample(files), 0)
    except DecodeError as error:
        return error.what


@given(FILES)
def test_both_sides_read_the_same_or_refuse_the_same(files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tar = write_shards(Path(folder) / "set", [1], members=lambda _: {"png": PNG, **files}) / "tiny-000000.tar"
        ((_, prepared),) = records_of(tar)
        try:
            alone: Mapping[str, Any] | str = next(samples_of(tar)).record()
        except DecodeError as error:
            alone = error.what.partition("sample clip-0000: ")[2]
    found = prepared.what if isinstance(prepared, DecodeError) else prepared
    assert repr(found) == repr(trained(files)) == repr(alone)  # repr: nan is not itself
    if isinstance(found, str):
        assert found
    elif "json" not in (said := {suffix.lower(): data for suffix, data in files.items()}):
        assert found.get("caption") == (said["txt"].decode("utf-8-sig") if "txt" in said else None)
        assert found.get("label") == (int(said["cls"].decode("utf-8-sig")) if "cls" in said else None)


@given(RECORDS)
def test_what_a_record_says_is_a_text_a_number_or_nothing(record: dict[str, Any]) -> None:
    for field in FIELDS:
        number = number_in(record, field)
        assert number is None or (0 < number < math.inf and type(number) is float)
    try:
        assert all(isinstance(text, str) and text.strip() == text and text.encode() for text in captions_of(record))
    except DecodeError:
        assert record["caption"] is not None
    try:
        label = label_of(record)
        assert has_label(record) is (label != -1)
    except DecodeError:
        assert has_label(record)
    counted = ShardStatistics()
    counted.add("k", {"png": len(PNG)}, record, bytes)
    (left_out,) = Filter(min_seconds=1, max_seconds=9, min_side=2, captioned=True, labelled=True).why_not(
        counted.page("")
    )
    assert left_out or (1 <= float(record["duration_s"]) <= 9 and record["caption"])


NUMBERS = st.lists(st.integers(-1, 9) | st.booleans(), max_size=4) | ANY_JSON


OF_FRAMES = {"source_frames": NUMBERS, "clip_frames": NUMBERS, "num_frames_total": st.integers(0, 4) | ANY_JSON}


@given(st.fixed_dictionaries({}, optional=OF_FRAMES), st.integers(1, 4))
def test_stored_frames_lie_in_their_clip_or_are_not_known_or_refused(record: dict[str, Any], num_stored: int) -> None:
    try:
        stored = stored_frames(record, num_stored)
    except DecodeError:
        assert record["source_frames"] is not None
        return
    if stored is not None:
        assert len(stored.numbers) == num_stored
        assert all(type(number) is int and 0 <= number < stored.num_frames for number in stored.numbers)


@given(RECORDS)
def test_any_record_is_counted_shown_drawn_and_compared(record: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = {"png": PNG, "json": json.dumps(record).encode()}
        out = write_shards(Path(folder) / "set", [1], members=lambda _: files)
        stats = collect_stats(out)
        upgrade(out)
        assert collect_stats(out) == stats  # by its columns in a file
        for text in (table(stats), show(out, "clip-0000", Path(folder) / "one.png")):
            assert all(letter.isprintable() or letter == "\n" for letter in text)
        json.dumps(stats, ensure_ascii=False).encode()
        assert draw_tile(next(samples_of(out / "tiny-000000.tar"))).size == (496, 188)
        spans = spans_of_set(out, "set")
        assert len(spans.spans) + spans.skipped == 1

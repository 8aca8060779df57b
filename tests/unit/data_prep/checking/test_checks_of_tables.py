"""verify, stats, sheet, show, leaks and items over tables: sets that have items and no tars."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from data_prep.checking.sheet import CELL, write_sheet
from data_prep.checking.show import show
from data_prep.checking.stats import collect_stats, draw_plots, table
from data_prep.checking.verify import verify
from data_prep.cli import umt_data as command
from data_prep.leaks.report import find_leaks, write_found
from data_prep.making.upgrade import upgrade
from tests.support.shards import flip_byte, frame, noisy_frames, picture, write_shards
from umt_ds.data.shards.items import Item, write_items
from umt_ds.data.shards.manifest import Manifest, Part, SetFile, load_manifest
from umt_ds.data.shards.records import sha256_of
from umt_ds.data.shards.source import ShardSource
from umt_ds.errors import ConfigError, DataError

ROWS: list[dict[str, Any]] = [
    {"key": "clip-0003", "caption": ["a dog", "a cat runs"], "label": 1},
    {"key": "clip-0003", "caption": ["a bird"], "label": 0},
    {"key": "clip-0012", "question": "what is it?", "answers": ["red", "blue"], "start": 1.0, "end": 3.0},
]


def members(number: int) -> Mapping[str, bytes]:
    """Six frames, a second apart, of a clip of seven seconds of a YouTube video."""
    said = {
        "key": f"clip-{number:04d}",
        "duration_s": 7,
        "times_s": [0.5, 1.5, 2.5, 3.5, 4.5, 5.5],
        "source_frames": list(range(6)),
        "youtube_id": f"video-{number:05d}",
        "time_start": 0,
        "time_end": 7,
        "caption": "of the clip",
        "source_width": 640,
        "source_height": 480,
    }
    frames = {f"{index:03d}.png": picture(frame(number, index)) for index in range(6)}
    return {**frames, "json": json.dumps(said).encode()}


def umt_data(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)


def annotated(base: Path, out: Path, rows: list[dict[str, Any]]) -> Path:
    """A table of these rows over `base`."""
    file = out.with_name(f"{out.name}.json")
    file.write_text(json.dumps(rows))
    (out.with_name("classes.txt")).write_text("stand\nrun\n")
    made = umt_data("items", base, out, "--annotations", file)
    assert made.exit_code == 0, made.output
    return out


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = write_shards(tmp_path / "base", members=members)
    replace(load_manifest(folder), labels=("stand", "run")).save(folder)
    return folder


@pytest.fixture
def over(base: Path, tmp_path: Path) -> Path:
    return annotated(base, tmp_path / "table", ROWS)


def written(base: Path, out: Path, *items: Item) -> Path:
    """A table as no command writes it."""
    manifest = load_manifest(base)
    out.mkdir()
    write_items(out / "items.arrow", items, num_shards=len(manifest.shards))
    told = SetFile((out / "items.arrow").stat().st_size, sha256_of(out / "items.arrow"))
    part = Part(str(base), manifest.fingerprint, manifest.num_samples)
    Manifest("bad", "frames", (), manifest.labels, items=told, num_items=len(items), parts=(part,)).save(out)
    return out


# ---------------------------------------------------------------- verify


def test_verify_looks_at_the_items_and_once_at_each_set_under_them(base: Path, over: Path) -> None:
    report = verify(over)
    assert (report.items, report.samples, report.sets, report.faults) == (3, 15, (str(base),), [])
    assert report.table() == f"3 items over {base}, 3 shards, 15 samples, frames of 2 decoded: all good"
    flip_byte(base, shard=1, row=2, suffix="001.png")
    assert verify(over).kinds["member damaged (CRC)"] == 1


def test_verify_of_the_items_alone_reads_no_tar(base: Path, over: Path) -> None:
    flip_byte(base, shard=1, row=2, suffix="001.png")
    said = umt_data("verify", over, "--items-only")
    assert (said.exit_code, said.stdout) == (0, "3 items, without the shards that they are over: all good\n")
    with pytest.raises(ConfigError, match="--items-only is for tables"):
        umt_data("verify", base, "--items-only")


def test_verify_names_what_is_wrong_with_items(base: Path, tmp_path: Path) -> None:
    bad = written(
        base,
        tmp_path / "bad",
        Item(0, 5, "b"),  # of five samples
        Item(1, 3, "a", (0, 5)),
        Item(1, 0, "c", (2, 6)),  # of six frames
        Item(1, 0, "d", (3, 2)),
        Item(1, 1, "e", fields={"label": 2}),
        Item(2, 0, "a"),
    )
    assert verify(bad, items_only=True).kinds == {
        "item of a sample that is not there": 1,
        "frames outside the sample": 2,
        "label outside the class list": 1,
        "key occurs twice": 1,
    }


def test_verify_of_a_table_whose_set_has_changed_is_a_fault(base: Path, over: Path) -> None:
    replace(load_manifest(base), labels=("other",)).save(base)
    report = verify(over)
    assert report.kinds["table does not fit its sets"] == 1
    assert report.samples == 15


# ---------------------------------------------------------------- stats


def test_stats_count_items_and_the_clips_that_they_use_once(base: Path, over: Path) -> None:
    stats = collect_stats(over)
    assert (stats["samples"], stats["clips"], stats["shards"], stats["spans"]) == (3, 2, 2, 1)
    assert stats["fields"] == {"caption": 2, "label": 2, "question": 1, "answers": 1}
    assert (stats["hours"], stats["duration_s"]["count"]) == (round(14 / 3600, 3), 2)
    assert stats["captions"]["max"] == 2
    assert (stats["with_caption"], stats["label"]) == (3, {"run": 1, "stand": 1})
    assert (stats["frames_stored"]["min"], stats["frames_stored"]["max"]) == (2, 6)
    assert stats["source_size"] == {"640x480": 2}
    said = table(stats)
    assert "3 items over 2 clips in 2 shards" in said
    assert "1 items are a part of their clip" in said
    assert "of their own: caption 2, label 2, question 1, answers 1" in said
    assert "3 items over 2 clips" in draw_plots(stats).subfigs[0].get_suptitle()
    upgrade(base)
    for tar in base.glob("*.tar"):
        tar.write_bytes(b"\0" * tar.stat().st_size)
    assert collect_stats(over) == stats


def test_stats_say_what_a_protocol_lacks(over: Path) -> None:
    missing = {"name": "msrvtt-1ka", "videos": 1000, "texts": 1000, "as_published": True}
    described = {"protocol": {**missing, "missing": ["v7", "v8"], "num_missing": 2}}
    replace(load_manifest(over), options=described).save(over)
    said = table(collect_stats(over))
    assert "protocol msrvtt-1ka: 1,000 videos and 1,000 texts in its files" in said
    assert "of these videos 2 are MISSING in the set: v7, v8" in said


def test_a_filter_over_a_table_asks_what_its_items_say(over: Path, tmp_path: Path) -> None:
    said = umt_data("filter", over, tmp_path / "labelled", "--labelled")
    assert said.exit_code == 0, said.output
    assert load_manifest(tmp_path / "labelled").num_samples == 2


def test_of_a_table_whose_set_was_moved_away_each_command_names_both(base: Path, over: Path, tmp_path: Path) -> None:
    assert umt_data("merge", tmp_path / "upper", over).exit_code == 0
    base.rename(tmp_path / "elsewhere")
    what = f"{over} is a table over {base}, and no set of shards is there"
    for look in ("stats", "sheet"):
        with pytest.raises(DataError, match=re.escape(what)) as caught:
            umt_data(look, tmp_path / "upper")
        assert f"put it back, or make {over} again" in str(caught.value.hint)
    assert set(verify(tmp_path / "upper").faults) == {("table does not fit its sets", what)}


# ---------------------------------------------------------------- sheet and show


def test_a_sheet_draws_the_frames_and_boxes_of_items(base: Path, tmp_path: Path) -> None:
    items = [
        {"key": "clip-0003", "start": 2.0, "end": 5.0, "boxes": [[0.25, 0.25, 0.75, 0.75]]},
        {"key": "clip-0004"},
    ]
    over = annotated(base, tmp_path / "table", items)
    assert write_sheet(over, tmp_path / "sheet.png", columns=1) == 2
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    tops = [sheet[8 + CELL[1] // 2, 8 + CELL[0] * column + CELL[0] // 2] for column in range(3)]
    assert [top[:2].tolist() for top in tops] == [[3, 2], [3, 3], [3, 4]]  # clip 3, frames 2 to 4
    red = (sheet == [255, 0, 0]).all(axis=2)
    assert red.any()
    assert red[:, CELL[0] + 8 : 2 * CELL[0] + 8].sum() == red.sum()


def test_show_says_what_an_item_asks_of_which_frames(over: Path, tmp_path: Path) -> None:
    said = show(over, "clip-0012", tmp_path / "frames.png")
    assert "table   table: item 2 of 3" in said
    assert "frames  1 to 2 of those that are stored" in said
    assert '"question": "what is it?"' in said
    assert '"caption": "of the clip"' in said
    assert Image.open(tmp_path / "frames.png").width == 2 * (CELL[0] + 2)
    assert "key     clip-0003#1" in (text := show(over, "clip-0003#1"))
    assert "others  clip-0003\n" in text
    assert '"a bird"' in text


def test_show_of_no_item_names_the_nearest(over: Path) -> None:
    with pytest.raises(DataError, match="has no sample 'clip-003'") as said:
        show(over, "clip-003")
    assert said.value.hint == "nearest: clip-0003, clip-0003#1, clip-0012"


# ---------------------------------------------------------------- leaks


def test_leaks_are_those_of_the_clips_that_items_use(over: Path, tmp_path: Path) -> None:
    other = write_shards(tmp_path / "other", [4], members=members)  # clips 0 to 3
    found = find_leaks(over, [other], near=None, workers=1)
    assert [leak.train.key for leak in found.overlap.leaks] == ["clip-0003"]
    write_found(found, tmp_path / "leaks")
    assert (tmp_path / "leaks" / "exclude.txt").read_text() == "clip-0003\nclip-0003#1\n"
    turned = find_leaks(other, [over], near=None, workers=1)
    assert [leak.train.key for leak in turned.overlap.leaks] == ["clip-0003"]
    kept = umt_data("filter", over, tmp_path / "kept", "--exclude", tmp_path / "leaks" / "exclude.txt")
    assert kept.exit_code == 0, kept.output
    assert load_manifest(tmp_path / "kept").num_samples == 1


def test_near_duplicates_of_the_clips_that_items_use(tmp_path: Path) -> None:
    base = write_shards(tmp_path / "base", [3], members=noisy_frames)
    over = annotated(base, tmp_path / "table", [{"key": "clip-0001", "caption": "x"}])
    settings = {"frames": 4, "distance": 10, "share": 0.5}
    found = find_leaks(over, [base], near=settings, workers=1)
    assert found.near is not None
    assert (found.near.train, found.near.against) == (1, 3)
    assert [(pair.train_key, pair.against_key) for pair in found.near.pairs] == [("clip-0001", "clip-0001")]


# ---------------------------------------------------------------- items over a table


def test_items_over_a_table_are_over_its_clips_in_the_set_under_it(base: Path, over: Path, tmp_path: Path) -> None:
    rows = [{"key": "clip-0012", "label": 0}, {"key": "clip-0003", "label": 1}, {"key": "clip-0005", "label": 1}]
    again = annotated(over, tmp_path / "again", rows)
    (part,) = load_manifest(again).parts
    assert (tmp_path / "again" / part.set).resolve() == base
    source = ShardSource(again)
    assert [(source.key(ref), source.question(ref).fields["label"]) for ref in source.refs()] == [
        ("clip-0003", 1),
        ("clip-0012", 0),
    ]
    assert "clip-0005,,no clip of the set has this name" in (again / "bad.csv").read_text()


def test_items_over_a_table_over_two_sets_know_them_apart(base: Path, tmp_path: Path) -> None:
    more = write_shards(tmp_path / "more", [2, 2], members=members, first=20)
    replace(load_manifest(more), labels=("stand", "run")).save(more)
    both = tmp_path / "both"
    assert umt_data("merge", both, base, more).exit_code == 0
    over = annotated(both, tmp_path / "table", [{"key": "clip-0022", "label": 1}, {"key": "clip-0000", "label": 0}])
    assert sorted((over / part.set).resolve() for part in load_manifest(over).parts) == [base, more]
    source = ShardSource(over)
    assert {source.key(ref): source.sample_key(ref) for ref in source.refs()} == {
        "clip-0000": "clip-0000",
        "clip-0022": "clip-0022",
    }
    assert not verify(over).faults


def test_a_row_that_could_mean_two_clips_is_left_out(tmp_path: Path) -> None:
    twice = write_shards(tmp_path / "twice", [2, 1], members=members, key=lambda number: f"clip-{number % 2}")
    over = annotated(twice, tmp_path / "table", [{"key": "clip-0", "label": 1}, {"key": "clip-1", "label": 1}])
    assert load_manifest(over).num_samples == 1
    assert "clip-0,clip-0,several clips have this key: which one is not said" in (over / "bad.csv").read_text()

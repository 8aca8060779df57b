"""statistics.arrow: what each sample says of itself, counted while its shard is written; `stats` then reads no tar."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.feather
import pytest

from data_prep.checking.set_statistics import add_statistics
from data_prep.checking.stats import collect_stats
from data_prep.clip import Clip, Listing, Outcome, Refusal, RunOptions, Sample, StoreOptions
from data_prep.making import prepare as prepare_module
from data_prep.making.foreign import adopt
from data_prep.making.prepare import build_shards, close_set, prepare
from data_prep.making.upgrade import upgrade
from data_prep.state.plan import go_on, open_plan
from data_prep.state.statistics import STATISTICS
from tests.support.files import hashes_in
from tests.support.shards import write_shards
from umt_ds.data.shards.manifest import load_manifest
from umt_ds.errors import DataError

RECORDS: dict[str, dict[str, Any]] = {
    "a": {"caption": ["a dog runs", "it barks"], "duration_s": 2.5, "fps": 25, "width": 8, "height": 6},
    "b": {"label": 3, "label_name": "run", "source_width": 640, "source_height": 480, "youtube_id": "xyz"},
    "c": {"caption": {"not": "text"}, "label": "jump", "source": "c.mp4", "codec": "h264", "interlaced": True},
    "d": {"label": -1, "caption": "", "duration_s": 0},
}


@pytest.fixture(autouse=True)
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_module, "map_ordered", lambda work, clips, **_: (work(clip) for clip in clips))


def made(clip: Clip, **_: object) -> Outcome:
    return Sample(clip.key, {"json": json.dumps(RECORDS[clip.key]).encode(), "000.jpg": b"xy", "001.jpg": b"z"})


def listing_of(root: Path, keys: Sequence[str] = tuple(RECORDS)) -> Listing:
    return Listing(root, tuple(Clip(key, f"{key}.mp4") for key in keys)).first_in_order()


def make_set(out: Path, *, per_shard: int = 3) -> Path:
    prepare(
        listing_of(out.parent),
        out,
        name="set",
        store=StoreOptions(per_shard=per_shard),
        run=RunOptions(workers=1),
        work=made,
    )
    return out


def rows_of(folder: Path) -> dict[str, dict[str, Any]]:
    """The rows by key, without what is not known, as any reader of Arrow files finds them."""
    rows = pyarrow.feather.read_table(folder / STATISTICS).to_pylist()
    return {row["key"]: {name: value for name, value in row.items() if value is not None} for row in rows}


def test_a_row_says_what_its_sample_says(tmp_path: Path) -> None:
    rows = rows_of(make_set(tmp_path / "set"))
    common = {"media": "frames", "frames_stored": 2}
    sizes = {key: len(json.dumps(record)) + 3 for key, record in RECORDS.items()}
    own = {key: {k: v for k, v in row.items() if k not in ("shard", "row")} for key, row in rows.items()}
    assert own["a"] == common | {
        "key": "a",
        "bytes": sizes["a"],
        "captions": 2,
        "caption_words": 3,
        "duration_s": 2.5,
        "fps": 25.0,
        "width": 8.0,
        "height": 6.0,
    }
    assert own["b"] == common | {
        "key": "b",
        "bytes": sizes["b"],
        "captions": 0,
        "label": 3,
        "label_name": "run",
        "source_width": 640.0,
        "source_height": 480.0,
        "video": "xyz",
    }
    assert own["c"] == common | {
        "key": "c",
        "bytes": sizes["c"],
        "label_name": "jump",
        "video": "c.mp4",
        "codec": "h264",
        "interlaced": "yes",
        "caption_error": "caption is of type dict, neither text nor a list of texts",
        "label_error": "label='jump' is not a whole number of 64 bits",
    }
    assert own["d"] == common | {"key": "d", "bytes": sizes["d"], "captions": 0}


def test_rows_stand_where_their_samples_lie(tmp_path: Path) -> None:
    out = make_set(tmp_path / "set")
    order = [clip.key for clip in listing_of(tmp_path).clips]
    assert {key: (row["shard"], row["row"]) for key, row in rows_of(out).items()} == {
        key: divmod(number, 3) for number, key in enumerate(order)
    }


def test_stats_need_no_tar_and_say_the_same(tmp_path: Path) -> None:
    out = make_set(tmp_path / "set")
    with_file = collect_stats(out)
    replace(load_manifest(out), statistics=None).save(out)
    assert collect_stats(out) == with_file
    upgrade(out)
    for tar in out.glob("*.tar"):
        tar.unlink()
    assert collect_stats(out) == with_file
    assert with_file["label"] == {"jump": 1, "run": 1}
    assert with_file["unusable"] == {"caption is no text": 1, "label is no whole number": 1}


def test_the_file_is_the_same_however_the_set_came_to_be(tmp_path: Path) -> None:
    """In one go; in parts, where clips are refused first; begun by a version that counted nothing; counted again."""
    whole = make_set(tmp_path / "whole")
    expected = (whole / STATISTICS).read_bytes()

    def fails_first(clip: Clip, **_: object) -> Outcome:
        return Refusal(clip.source, "refused") if clip.key in "bd" else made(clip)

    parts = tmp_path / "parts"
    open_plan(parts, name="set", listing=listing_of(tmp_path), store=StoreOptions(per_shard=3))
    for work, retry in ((fails_first, False), (made, True)):
        for shard in (1, 0):
            with go_on(parts, alone=False) as plan:
                todo = plan.pending([shard], retry_failed=retry)
                build_shards(plan, todo, run=RunOptions(workers=1), work=work)
    with go_on(parts, alone=True) as plan:
        close_set(plan)
    assert (parts / STATISTICS).read_bytes() == expected
    for kept in (parts / ".umt-data" / "statistics").iterdir():
        kept.unlink()
    with go_on(parts, alone=True) as plan:
        close_set(plan)
    assert (parts / STATISTICS).read_bytes() == expected
    add_statistics(parts)
    assert (parts / STATISTICS).read_bytes() == expected
    assert hashes_in(parts).items() >= {tar.name: hashes_in(whole)[tar.name] for tar in whole.glob("*.tar")}.items()


def test_a_page_of_another_tar_is_counted_again(tmp_path: Path) -> None:
    """A kill can come after the page of a shard is there and before its tar is."""
    out = make_set(tmp_path / "set")
    expected = (out / STATISTICS).read_bytes()
    pages = out / ".umt-data" / "statistics"
    (pages / "000001.arrow").write_bytes((pages / "000000.arrow").read_bytes())
    (pages / "000000.arrow").write_bytes(b"cut off")
    with go_on(out, alone=True) as plan:
        close_set(plan)
    assert (out / STATISTICS).read_bytes() == expected


def test_no_run_sees_them(tmp_path: Path) -> None:
    manifest = load_manifest(make_set(tmp_path / "set"))
    assert manifest.statistics
    assert replace(manifest, statistics=None).fingerprint == manifest.fingerprint


def test_tars_of_others_are_counted_while_they_are_indexed(tmp_path: Path) -> None:
    out = write_shards(tmp_path / "set", [2, 3])
    adopt(out, force=True)
    whole = pyarrow.feather.read_table(out / STATISTICS)
    assert whole.column("key").to_pylist() == [f"clip-{number:04d}" for number in range(5)]
    assert whole.column("label").to_pylist() == [0, 1, 2, 3, 4]
    before = (out / STATISTICS).read_bytes()
    add_statistics(out)
    assert (out / STATISTICS).read_bytes() == before


def test_a_file_of_another_set_is_refused(tmp_path: Path) -> None:
    out, other = make_set(tmp_path / "set"), make_set(tmp_path / "other", per_shard=2)
    (out / STATISTICS).write_bytes((other / STATISTICS).read_bytes())
    with pytest.raises(DataError, match=r"statistics.arrow (is not the file|has \d+ bytes, its manifest says)"):
        collect_stats(out)
    replace(load_manifest(out), statistics=load_manifest(other).statistics).save(out)
    with pytest.raises(DataError, match=r"does not fit its set: it does not tell of set-000000\.tar") as refused:
        collect_stats(out)
    assert refused.value.hint == f"`umt-data upgrade {out}` makes it again"


def test_half_a_character_becomes_text(tmp_path: Path) -> None:
    record = json.dumps({"label": "\ud83d", "url": "\ud83d", "codec": "\ud83d"}).encode()
    out = write_shards(tmp_path / "set", [1], members=lambda _: {"jpg": b"x", "json": record})
    upgrade(out)
    assert rows_of(out)["clip-0000"]["video"] == "\\ud83d"

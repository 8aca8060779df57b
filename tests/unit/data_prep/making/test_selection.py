"""`umt-data filter`, `split` and `merge` as tables over sets: nothing is copied, and what is read is the same."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from data_prep.cli import umt_data as command
from tests.support.object_store import upload
from tests.support.shards import key_of_sample, png_frames, write_shards
from umt_ds.data.clips import read_clip
from umt_ds.data.loader import Loader, LoaderPlan, SourceSpec
from umt_ds.data.order.frames import FramePolicy
from umt_ds.data.shards.manifest import load_manifest
from umt_ds.data.shards.source import ShardSource
from umt_ds.data.shards.storage import as_path
from umt_ds.errors import ConfigError, DataError


def umt_data(*arguments: object) -> str:
    done: Result = CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def contents(folder: Path) -> dict[str, tuple[int, ...]]:
    """Of each item its key, and what of its sample was read."""
    source = ShardSource(folder)
    clips = (read_clip(source, ref, choose=lambda n: [0, n - 1], with_record=True) for ref in source.refs())
    return {clip.key: clip.crcs for clip in clips}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "base", (5, 4, 6))


def without(tmp_path: Path, *numbers: int) -> Path:
    """A list of keys to leave out."""
    path = tmp_path / "keys.txt"
    path.write_text("".join(f"{key_of_sample(number)}\n" for number in numbers))
    return path


def test_filter_leaves_out_what_a_list_names_and_copies_nothing(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "fewer"
    said = umt_data("filter", base, out, "--exclude", without(tmp_path, 3, 4, 5, 9))
    assert "fewer: 11 items of a set, nothing copied" in said
    assert "4 items left out" in said
    everything = contents(base)
    assert contents(out) == {key_of_sample(n): everything[key_of_sample(n)] for n in range(15) if n not in (3, 4, 5, 9)}
    assert sorted(path.name for path in out.iterdir()) == ["bad.csv", "manifest.json", "rows-0.npy"]
    assert sum(path.stat().st_size for path in out.iterdir()) < 3000
    assert (out / "bad.csv").read_text().count("excluded by keys.txt") == 4


def test_a_table_in_a_store_over_a_table_over_a_set_there(base: Path, tmp_path: Path) -> None:
    store = f"memory://{tmp_path.name}"
    upload(base, f"{store}/base")
    lines = without(tmp_path, 3, 4)
    umt_data("filter", f"{store}/base", f"{store}/fewer", "--exclude", lines)
    umt_data("split", f"{store}/fewer", f"{store}/sides", "--share", "0.3")
    umt_data("merge", f"{store}/all", f"{store}/sides/train", f"{store}/sides/val")
    umt_data("filter", base, tmp_path / "fewer", "--exclude", lines)
    assert contents(as_path(f"{store}/all")) == contents(tmp_path / "fewer")
    umt_data("filter", base, f"{store}/over a disk", "--exclude", lines)
    assert contents(as_path(f"{store}/over a disk")) == contents(tmp_path / "fewer")


def test_the_same_items_are_copied_where_tars_are_asked_for(base: Path, tmp_path: Path) -> None:
    keys = without(tmp_path, 3, 4, 5, 9)
    umt_data("filter", base, tmp_path / "table", "--exclude", keys)
    umt_data("filter", base, tmp_path / "tars", "--exclude", keys, "--copy", "--workers", "1")
    assert contents(tmp_path / "table") == contents(tmp_path / "tars")
    assert list((tmp_path / "tars").glob("*.tar"))


def seconds(number: int) -> dict[str, bytes]:
    record = {"label": number, "duration_s": float(number), "youtube_id": f"video{number // 2}"}
    return {**png_frames(number), "json": json.dumps(record).encode()}


def test_filters_ask_what_the_samples_say_and_follow_each_other(tmp_path: Path) -> None:
    base = write_shards(tmp_path / "base", members=seconds)
    umt_data("filter", base, tmp_path / "long", "--min-seconds", "3")
    umt_data("filter", tmp_path / "long", tmp_path / "between", "--max-seconds", "9")
    assert list(contents(tmp_path / "between")) == [key_of_sample(number) for number in range(3, 10)]
    assert load_manifest(tmp_path / "between").num_samples == 7


def test_split_has_the_sides_that_copies_have_and_merge_joins_them(tmp_path: Path) -> None:
    base = write_shards(tmp_path / "base", members=seconds)
    umt_data("split", base, tmp_path / "parts", "--share", "0.4")
    umt_data("split", base, tmp_path / "copies", "--share", "0.4", "--copy", "--workers", "1")
    for side in ("train", "val"):
        assert contents(tmp_path / "parts" / side) == contents(tmp_path / "copies" / side)
    said = umt_data("merge", tmp_path / "whole", tmp_path / "parts" / "train", tmp_path / "parts" / "val")
    assert "15 items of 2 sets" in said
    assert contents(tmp_path / "whole") == contents(base)
    other = write_shards(tmp_path / "other", (3,), first=20)
    umt_data("merge", tmp_path / "more", tmp_path / "whole", other)
    assert contents(tmp_path / "more") == contents(base) | contents(other)


def test_training_reads_a_table_and_each_table_has_its_own_fingerprint(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "fewer"
    umt_data("filter", base, out, "--exclude", without(tmp_path, *range(12)))
    plan = LoaderPlan(seed=1, global_draws=3, image_side=16, micro=3)
    loader = Loader([SourceSpec("tiny", out, FramePolicy("sparse", 2, 4))], plan)
    for step in range(3):
        assert {key for batch in loader.micro_batches(step) for key in batch.keys} == {
            key_of_sample(number) for number in (12, 13, 14)
        }
    umt_data("filter", base, tmp_path / "other", "--exclude", without(tmp_path, *range(11)))
    fingerprints = {load_manifest(folder).fingerprint for folder in (base, out, tmp_path / "other")}
    assert len(fingerprints) == 3


def test_a_dry_run_writes_nothing_and_what_only_tars_need_is_refused(base: Path, tmp_path: Path) -> None:
    keys = without(tmp_path, 1)
    assert "would write a table of 14 items" in umt_data("filter", base, tmp_path / "x", "--exclude", keys, "--dry-run")
    assert not (tmp_path / "x").exists()
    with pytest.raises(ConfigError, match="--engine slurm: a table is written in a moment"):
        umt_data("filter", base, tmp_path / "x", "--exclude", keys, "--engine", "slurm")
    umt_data("filter", base, tmp_path / "x", "--exclude", keys)
    with pytest.raises(DataError, match="holds a set already"):
        umt_data("filter", base, tmp_path / "x", "--exclude", keys)


@pytest.mark.parametrize("verb", ["filter", "upgrade", "items"])
def test_the_next_command_removes_what_a_killed_one_left_half_made(base: Path, tmp_path: Path, verb: str) -> None:
    (tmp_path / "rows.csv").write_text(f"key,label\n{key_of_sample(1)},1\n")
    options: dict[str, tuple[object, ...]] = {
        "filter": ("--exclude", without(tmp_path, 3)),
        "items": ("--annotations", tmp_path / "rows.csv"),
        "upgrade": (),
    }
    out = base if verb == "upgrade" else tmp_path / "out"
    here = socket.gethostname()
    gone, alive = (out / f".making-{here}-{process}-a" for process in (2**22 + 1, os.getpid()))
    for folder in (gone, alive):
        folder.mkdir(parents=True)
    umt_data(verb, base, *([] if out == base else [out]), *options[verb])
    assert (gone.exists(), alive.exists()) == (False, True)

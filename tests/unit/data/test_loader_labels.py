"""Where a run learns classes, each clip it shows has one of them: what else a label may say, and what comes of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.loading import PLAN, consume, spec
from tests.support.shards import Members, key_of_sample, png_frames, write_shards
from umt_ds.bench.rate import ALONE, plan_of
from umt_ds.config.load import load_run
from umt_ds.data.loader import Loader
from umt_ds.data.shards.items import ITEMS, Item, write_items
from umt_ds.data.shards.manifest import Manifest, Part, SetFile, load_manifest
from umt_ds.data.shards.records import sha256_of
from umt_ds.errors import DataError
from umt_ds.tasks.loader import build_loader


def labelled(labels: Mapping[int, Any], *, otherwise: int = 1) -> Callable[[int], Members]:
    """png_frames of class `otherwise`, where the json of some samples says another label."""

    def members(number: int) -> Members:
        record = {"label": labels.get(number, otherwise), "caption": f"clip {number}"}
        return png_frames(number) | {"json": json.dumps(record).encode()}

    return members


def test_a_sample_without_a_label_is_a_bad_one_where_classes_are_learned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unlabelled = {2: None, 5: -1, 9: "cat"}
    folder = write_shards(tmp_path, [11, 9], members=labelled(unlabelled))
    loader = Loader([spec(folder)], replace(PLAN, num_classes=2), label_field="label")
    batches = [b for step in range(5) for b in loader.micro_batches(step)]
    assert not {key_of_sample(n) for n in unlabelled} & {key for b in batches for key in b.keys}
    assert sum(b.substituted for b in batches) == loader.faults.substituted >= 3 * 2  # more than two passes
    for number in (2, 5):
        assert f"bad sample tiny:{key_of_sample(number)}" in caplog.text
    assert "the sample has no label (label is missing or -1)" in caplog.text
    assert "label='cat' is not a whole number" in caplog.text


@pytest.mark.parametrize(("label", "workers"), [(3, 0), (-2, 0), (3, 2)])
def test_a_label_outside_the_head_ends_the_run(tmp_path: Path, label: int, workers: int) -> None:
    """A class list that does not fit is no bad clip."""
    folder = write_shards(tmp_path, [11, 9], members=labelled({13: label}))
    loader = Loader([spec(folder)], replace(PLAN, num_classes=3, num_workers=workers), label_field="label")
    with closing(loader), pytest.raises(DataError) as caught:
        consume(loader, range(2))
    assert f"source tiny: sample clip-0013 has label {label}, and the head tells 3 classes apart" in str(caught.value)
    assert "task.classes" in str(caught.value)
    with closing(Loader([spec(folder)], PLAN, label_field="label")) as any_label:
        consume(any_label, range(2))


def test_a_source_without_labels_is_one_error_before_anything_is_trained(tmp_path: Path) -> None:
    folder = write_shards(tmp_path, [11, 9], members=labelled({}))
    with pytest.raises(
        DataError, match=r"source tiny: the first 8 samples of .* have no class number in 'verb'"
    ) as caught:
        Loader([spec(folder)], replace(PLAN, num_classes=3), label_field="verb")
    assert "task.label=FIELD; fields with whole numbers: label" in str(caught.value)


def test_a_table_that_says_the_labels_needs_no_json_of_the_clips(tmp_path: Path) -> None:
    """From the first look at a source on: a run that finds no json damaged does not ask for one before it begins."""
    base = write_shards(tmp_path / "base", [4], members=lambda number: {**png_frames(number), "json": b"damaged"})
    (tmp_path / "table").mkdir()
    items = [Item(0, row, key_of_sample(row), None, {"label": row % 2}) for row in range(4)]
    write_items(tmp_path / "table" / ITEMS, items, num_shards=1)
    told = SetFile((tmp_path / "table" / ITEMS).stat().st_size, sha256_of(tmp_path / "table" / ITEMS))
    part = Part("../base", load_manifest(base).fingerprint, 4)
    Manifest("table", "frames", (), items=told, num_items=4, parts=(part,)).save(tmp_path / "table")
    plan = replace(PLAN, num_classes=2)
    with closing(Loader([spec(tmp_path / "table")], plan, label_field="label")) as loader:
        (batch, *_) = loader.micro_batches(0)
    assert batch.substituted == 0
    with pytest.raises(DataError, match="have no class number in 'label'"):
        Loader([spec(base)], plan, label_field="label")


def test_a_recognition_run_takes_the_labels_of_its_head(tmp_path: Path) -> None:
    folder = write_shards(tmp_path, [4, 4], members=labelled({}, otherwise=6))
    settings = [f"data.sources={{demo: {{shards: {folder}}}}}", "task.label=label", "data.workers=0"]
    few, enough = (load_run("demo/recognition", [*settings, f"task.classes={count}"]) for count in (6, 7))
    with (
        closing(build_loader(few, plan_of(4), ALONE, device=torch.device("cpu"))) as loader,
        pytest.raises(DataError, match="has label 6, and the head tells 6 classes apart"),
    ):
        consume(loader, range(1))
    with closing(build_loader(enough, plan_of(4), ALONE, device=torch.device("cpu"))) as loader:
        (batch,) = loader.micro_batches(0)
    assert batch.targets.labels is not None
    assert batch.targets.labels.tolist() == [6] * 4

"""The report of a classifier: what it takes held-out clips for, on which set, and some of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.support.recognition import NAMES, a_set, module_of, run_on
from tests.support.tiny_runs import add_checkpoint, write_run
from umt_ds.config.run import RunConfig
from umt_ds.evaluation.evaluator import Scores
from umt_ds.evaluation.exhibits import Exhibit, NamedClips, NotMade
from umt_ds.report.classes import accuracy_rows, class_rows, confused_pairs
from umt_ds.report.write import write_report
from umt_ds.tasks.recognition.exhibits import named_clips
from umt_ds.tasks.room import ExhibitOptions

torch.set_num_threads(1)


def trained_run(config: RunConfig) -> Path:
    """One that has logged a step and written a checkpoint."""
    run = write_run(config)
    module = module_of(config)
    add_checkpoint(run, config, weights=module.state_dict(), classes=NAMES)
    step = {"step": 1, "draws": 4, "epoch": 0.1, "loss": 1.0, "ce": 1.0, "lr": 1e-3, "grad_norm": 1.0, "attempt": 1,
            "clips_per_s": 10.0, "clips_per_s_per_device": 5.0, "data_stall_percent": 3.0, "mfu_percent": 1.0,
            "gflops_per_clip": 0.1, "peak_memory_gib": 1.0, "bad_samples": 0, "skipped_steps": 0, "digest": "0",
            "digest_total": "0", "mask_digest_total": "0"}  # fmt: skip
    (run / "metrics.jsonl").write_text(json.dumps(step) + "\n")
    return run


def test_a_report_shows_what_held_out_clips_are_taken_for(tmp_path: Path) -> None:
    train, val, out = a_set(tmp_path / "train"), a_set(tmp_path / "held", count=9), tmp_path / "out"
    run = trained_run(run_on(train, val, f"run_dir={tmp_path / 'run'}", "evaluation.val.crops=3"))
    text = write_report(run, out, ExhibitOptions(), say=lambda _: None)
    told = json.loads((out / "confusion.json").read_text())
    confusion = torch.tensor(told["confusion"])
    assert confusion.sum(dim=1).tolist() == [3, 3, 3], "clips of each class"
    assert told["classes"] == list(NAMES)
    right = int(confusion.diag().sum())
    assert told["values"]["top1"] == pytest.approx(100 * right / 9)
    assert (told["items"], told["protocol"]["views"], told["protocol"]["shards"]) == (9, 3, str(val))
    assert f"the model {100 * right / 9:.1f}" in " ".join(text.split())
    for name in ("confusion", "named"):
        with Image.open(out / f"{name}.png") as picture:
            assert picture.width > 500
    page = (out / "index.html").read_text()
    assert all(name in page for name in NAMES)
    assert "55.6 % of these clips are among those of demo, which the run trained on" in page


def exhibit(run: RunConfig, **options: Any) -> Exhibit:
    return named_clips(run.folder, run, ExhibitOptions(**options))


def test_the_set_is_the_one_that_is_named_or_lies_beside_the_training_set(tmp_path: Path) -> None:
    train, other = a_set(tmp_path / "train"), a_set(tmp_path / "other", count=4)
    val = a_set(tmp_path / "val", first=9, count=6)
    run = run_on(train, other, f"run_dir={tmp_path / 'run'}").model_copy(update={"evaluation": {}})
    trained_run(run)
    beside, given = exhibit(run), exhibit(run, val=other, max_clips=2)
    assert isinstance(beside, NamedClips)
    assert isinstance(given, NamedClips)
    assert (beside.scores.items, beside.scores.protocol["shards"]) == (6, str(val))
    assert (given.scores.items, given.scores.protocol["shards"]) == (2, str(other))
    judged = run_on(train, other, f"run_dir={run.folder}")
    for options, shards in (({}, other), ({"train": train}, val)):
        found = exhibit(judged, **options)
        assert isinstance(found, NamedClips)
        assert found.scores.protocol["shards"] == str(shards)


def test_averaged_weights_are_shown_where_the_evaluation_judges_them(tmp_path: Path) -> None:
    averages = (f"run_dir={tmp_path / 'run'}", "optim.ema_decay=0.5", "evaluation.val.ema=true")
    run = run_on(a_set(tmp_path / "train"), a_set(tmp_path / "val"), *averages)
    trained_run(run)
    found = exhibit(run)
    assert isinstance(found, NamedClips)
    assert found.scores.protocol["weights"] == "averaged (decay 0.5)"


def test_right_clips_are_of_different_classes_and_wrong_ones_the_most_confident(tmp_path: Path) -> None:
    run = run_on(a_set(tmp_path / "train"), a_set(tmp_path / "val", count=20), f"run_dir={tmp_path / 'run'}")
    trained_run(run)
    found = exhibit(run)
    assert isinstance(found, NamedClips)
    assert all(clip.is_right for clip in found.right)
    assert len({clip.label for clip in found.right}) == len(found.right) > 1
    confidence = [clip.likeliest[0][1] for clip in found.wrong]
    assert confidence == sorted(confidence, reverse=True)
    assert len(confidence) == 6
    assert not any(clip.is_right for clip in found.wrong)
    assert {clip.frames.shape for clip in (*found.right, *found.wrong)} == {(2, 16, 16, 3)}


def test_a_set_of_another_class_list_is_said_in_its_place(tmp_path: Path) -> None:
    train, val = a_set(tmp_path / "train"), a_set(tmp_path / "val", names=NAMES[::-1])
    run = run_on(train, train, f"run_dir={tmp_path / 'run'}")
    trained_run(run)
    refused = exhibit(run, val=val)
    assert isinstance(refused, NotMade)
    assert "in another order" in refused.error.what


def named(confusion: list[list[int]]) -> NamedClips:
    table, protocol = torch.tensor(confusion), {"chance": {"top1": 40.0}}
    scores = Scores("val", {"top1": 62.5, "mean_class": 50.0}, items=int(table.sum()), protocol=protocol)
    names = tuple(f"class {number}" for number in range(len(table)))
    return NamedClips(Path("step"), names, table, scores, (), ())


def test_tables_name_the_worst_classes_and_the_pairs_that_are_confused_most() -> None:
    found = named([[4, 1, 0, 0], [0, 1, 3, 0], [0, 0, 0, 0], [2, 0, 0, 2]])
    assert class_rows(found, 2) == [["class 1", "4", "25", "class 2 (3)"], ["class 3", "4", "50", "class 0 (2)"]]
    assert [row[0] for row in class_rows(found, 9)] == ["class 1", "class 3", "class 0"], "class 2 does not occur"
    assert confused_pairs(found) == [
        ["class 1", "class 2", "3", "4"], ["class 3", "class 0", "2", "4"], ["class 0", "class 1", "1", "5"],
    ]  # fmt: skip
    assert accuracy_rows(found.scores)[1:] == [["the model", "62.5", "50.0"], ["chance", "40.0", "-"]]

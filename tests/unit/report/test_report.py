"""`umt report` on small run folders: curves, resumption, repeated steps, and what is missing is said."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from tests.support.run_records import metrics_line, scores_line, words_of
from tests.support.shards import noisy_frames, write_shards
from tests.support.tiny_runs import add_checkpoint, make_config, write_run
from umt_ds.cli.report import command
from umt_ds.config.load import load_run
from umt_ds.config.run import RunConfig
from umt_ds.config.tasks.stage1 import Stage1Config
from umt_ds.errors import ConfigError, DataError, UmtError
from umt_ds.evaluation.masked import shade_removed
from umt_ds.report.facts import key_numbers
from umt_ds.report.history import read_history
from umt_ds.report.pictures import draw_scores, draw_speed, draw_training
from umt_ds.report.write import write_report
from umt_ds.tasks.room import ExhibitOptions
from umt_ds.tasks.stage1.probe import Stage1Probe
from umt_ds.tasks.stage1.task import Stage1Task

torch.set_num_threads(1)


FAR = ("loss", "lr", "grad_norm", "clips_per_s", "peak_memory_gib")


KILLED_AND_RESUMED = [
    *(metrics_line(step) for step in (1, 2, 3, 4, 5)),
    *(metrics_line(step, attempt=2) for step in (4, 5, 6)),
    '{"step": 7, "loss": 0.',  # killed while it wrote
]


def make_run(config: RunConfig, lines: list[str]) -> Path:
    write_run(config)
    (config.folder / "metrics.jsonl").write_text("".join(lines))
    return config.folder


def labelled(number: int) -> dict[str, bytes]:
    content = {"motion": "up", "motion_label": number % 2, "caption": f"clip {number}"}
    return {**noisy_frames(number), "json": json.dumps(content).encode()}


# ---------------------------------------------------------------- the log


def test_the_rank_that_the_others_wait_for_most_often_is_named(tmp_path: Path) -> None:
    def line(step: int, rank: int, late_ms: float) -> str:
        record = {**json.loads(metrics_line(step)), "slowest_rank": rank, "slowest_rank_ms": late_ms}
        return json.dumps(record) + "\n"

    config = make_config(tmp_path)
    run = make_run(config, [metrics_line(1), line(2, 5, 8.0), line(3, 1, 2.0), line(4, 5, 9.0)])
    history = read_history(run)
    assert history.loss_names == ["loss"], "numbers of ranks are no losses"
    told = dict(key_numbers(config, history))["slowest rank"]
    assert told == "rank 5 in 67 % of the logged steps; the last one came 8.0 ms a step after the others (median)"


SCORED = [
    metrics_line(2),
    scores_line(2, label=0.25, rankme=9.0),
    metrics_line(4),
    scores_line(4, label=0.75, rankme=8.0, left_out=3),
    scores_line(4, label=0.5, rankme=8.0, attempt=2),  # it was killed, and ran again
    metrics_line(6),
    scores_line(6, label=0.625, rankme=7.5, left_out=3),
    scores_line(6, name="retrieval", r1=0.125),
]


def test_history_tells_last_and_best_of_each_metric_of_the_evaluations(tmp_path: Path) -> None:
    history = read_history(make_run(make_config(tmp_path), SCORED))
    assert history.steps() == [2, 4, 6]
    told = {curve.name: curve for curve in history.scores}
    assert list(told) == ["knn/label", "knn/rankme", "retrieval/r1"]
    assert [(point.step, point.value) for point in told["knn/label"].points] == [(2, 0.25), (4, 0.5), (6, 0.625)]
    assert (told["knn/label"].last.step, told["knn/label"].last.left_out) == (6, 3)
    assert told["knn/label"].best.step == 4, "the larger one does not cover all items"
    assert told["knn/rankme"].best.value == 9.0


def test_the_page_shows_the_last_numbers_of_each_type(tmp_path: Path) -> None:
    lines = [
        metrics_line(2),
        scores_line(2, name="qa", by_type={"motion": {"items": 9, "accuracy": 1.0}}, accuracy=50.0),
        scores_line(4, name="qa", by_type={"<b>": {"items": 3, "accuracy": 12.5}, "color": {"items": 5}}, accuracy=60),
    ]
    run = make_run(make_config(tmp_path), lines)
    write_report(run, tmp_path / "out", ExhibitOptions(probe=False), say=lambda text: None)
    words = words_of(tmp_path / "out" / "index.html")
    assert "qa, last items accuracy &lt;b&gt; 3 12.5 color 5" in words
    assert "motion" not in words


def test_the_page_shows_the_scores_and_marks_what_is_partial(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    run = make_run(config, SCORED)
    best = {"step": 4, "metric": "knn/label", "value": 0.5, "items": 100, "left_out": 0, "protocol": "a"}
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "BEST").write_text(json.dumps(best))
    write_report(run, tmp_path / "out", ExhibitOptions(probe=False), say=lambda text: None)
    words = words_of(tmp_path / "out" / "index.html")
    assert "knn/label 0.625 6 97, partial: 3 left out 0.5 4 100" in words
    assert "retrieval/r1 0.125 6 100 0.125 6 100" in words
    assert "knn: 97 of the 400 clips in /data/val; 50 of the 900 voters in /data/train." in words
    assert "Kept as the best in knn/label: step-00000004 (0.5)." in words
    assert Image.open(tmp_path / "out" / "scores.png").size[0] > 600


def test_a_run_without_evaluations_has_no_section_of_scores(tmp_path: Path) -> None:
    run = make_run(make_config(tmp_path), [metrics_line(1)])
    write_report(run, tmp_path / "out", ExhibitOptions(probe=False), say=lambda text: None)
    assert "Scores" not in words_of(tmp_path / "out" / "index.html")


def test_scores_that_no_picture_can_show_are_left_out_of_it(tmp_path: Path) -> None:
    run = make_run(
        make_config(tmp_path), [metrics_line(2), scores_line(2, huge=1e300), scores_line(3, huge=float("nan"))]
    )
    assert draw_scores(read_history(run).scores, title="scores")[:4] == b"\x89PNG"


def test_history_takes_the_later_record_and_compares_the_repeated_steps(tmp_path: Path) -> None:
    run = make_run(make_config(tmp_path), KILLED_AND_RESUMED)
    history = read_history(run)
    assert history.steps() == [1, 2, 3, 4, 5, 6]
    assert [record["attempt"] for record in history.records] == [1, 1, 1, 2, 2, 2]
    assert history.resumed_at == (4,)
    assert history.loss_names == ["loss"]  # uta is the same number
    assert str(history.rerun) == (
        "2 logged steps ran twice (steps 4 to 5, after a kill): all digests are equal; the losses differ by at most 0."
    )


def test_odd_lines_and_numbers_that_are_missing_cost_no_page(tmp_path: Path) -> None:
    """A disk that lost power, a loss that overflowed, a record of an earlier version."""
    short = json.dumps({"step": 3, "digest": "03", "attempt": 2})
    nan = metrics_line(3).replace("2.0", "NaN")
    config = load_run("demo/teacher", (f"run_dir={tmp_path / 'run'}",))
    lines = [metrics_line(1), "null\n", metrics_line(2), "\0\0\0\n", nan, short, '\n{"st']
    run, said = make_run(config, lines), []
    page = Path(write_report(run, tmp_path / "out", ExhibitOptions(), say=said.append).splitlines()[0])
    told = f"3 lines of {run / 'metrics.jsonl'} are no records, first at line 2"
    assert told in words_of(page)
    assert any(told in line for line in said)
    assert "loss 2.0000 at step 1 → nan at step 3" in words_of(page)
    assert "(not logged)" in words_of(page)


def test_history_names_repeated_steps_that_saw_other_clips(tmp_path: Path) -> None:
    lines = [metrics_line(1), metrics_line(2), metrics_line(2, attempt=2, digest="other", loss=0.75)]
    rerun = read_history(make_run(make_config(tmp_path), lines)).rerun
    assert rerun.different == (2,)
    assert rerun.largest_loss_difference == 0.25
    assert "DIFFER (steps 2)" in str(rerun)


def test_curves_of_one_step_or_with_nan_are_drawn(tmp_path: Path) -> None:
    history = read_history(make_run(make_config(tmp_path), [metrics_line(1, loss=float("nan"))]))
    assert draw_training(history, title="one").startswith(b"\x89PNG")


# ---------------------------------------------------------------- the page


def test_curves_of_numbers_without_room_for_an_axis_are_drawn(tmp_path: Path) -> None:
    """Of a run that diverged: the margins around 1e308 are infinite."""
    lines = [json.dumps(json.loads(metrics_line(step)) | dict.fromkeys(FAR, 1.7e308)) + "\n" for step in (1, 2)]
    history = read_history(make_run(make_config(tmp_path), lines))
    assert draw_training(history, title="far").startswith(b"\x89PNG")
    assert draw_speed(history, title="far").startswith(b"\x89PNG")


def test_report_of_a_stage1_run_measures_and_draws(tmp_path: Path) -> None:
    write_shards(tmp_path / "train", (8,), members=labelled)
    write_shards(tmp_path / "val", (4,), members=labelled)  # the same clips: neighbours at similarity 1
    config = make_config(tmp_path)
    run = make_run(config, KILLED_AND_RESUMED)
    add_checkpoint(run, config)
    result = CliRunner().invoke(command, [str(run)], catch_exceptions=False)
    assert result.exit_code == 0

    path, head, *rows = result.stdout.splitlines()
    assert Path(path) == run / "report" / "index.html"
    assert head.split() == ["kNN", "accuracy,", "%", "motion"]
    assert [row.rsplit(maxsplit=1)[0].strip() for row in rows] == [
        "trained student", "untrained student", "teacher", "chance",
    ]  # fmt: skip
    assert "probe val: 100%" in result.stderr

    probe = json.loads((run / "report" / "probe.json").read_text())
    assert probe["accuracy"]["chance"] == {"motion": 0.5}
    assert probe["accuracy"]["trained student"] == probe["accuracy"]["untrained student"]
    assert (probe["train_clips"], probe["test_clips"], probe["val"]) == (8, 4, str(tmp_path / "val"))

    page = Path(path).read_text()
    assert page.count('src="data:image/png;base64,') == 4
    assert not re.search(r'(src|href)="(?!data:)', page)  # nothing from outside
    for name in ("training", "speed", "masks", "probe"):
        with Image.open(run / "report" / f"{name}.png") as picture:
            assert picture.width > 500
    words = words_of(Path(path))
    for said in (
        "Resumed; first steps logged after it: 4.",
        "2 logged steps ran twice (steps 4 to 5, after a kill): all digests are equal",
        "loss 2.0000 at step 1 → 0.3333 at step 6",
        "shipped recipe demo/stage1 (recipe → this run)",
        "task.teacher.weights runs/demo/teacher → random",
        "step-00000006 2 rank(s), ZeRO 1, fp32",
        "torch 9.9",
        "Of the 2 × 4 patches of a clip the student sees 4",
    ):
        assert said in words, said
    assert not list((run / "report").glob("*.partial"))


def test_what_is_missing_is_said_and_the_rest_stands(tmp_path: Path) -> None:
    run = make_run(make_config(tmp_path), [metrics_line(1)])  # no shards, no checkpoint
    text = write_report(run, tmp_path / "out", ExhibitOptions(), say=lambda _: None)
    assert f"What the features know: there are no held-out clips in {tmp_path / 'val'}" in text
    words = words_of(tmp_path / "out" / "index.html")
    assert f"Not made: there are no held-out clips in {tmp_path / 'val'} hint: name labelled shards" in words
    assert "The run has no checkpoint yet." in words
    assert "Ran without interruption." in words
    assert (tmp_path / "out" / "training.png").is_file()


def test_clips_without_labels_are_said(tmp_path: Path) -> None:
    for name in ("train", "val"):
        write_shards(tmp_path / name, (2,), members=lambda n: {**noisy_frames(n), "json": b"{}"})
    config = make_config(tmp_path)
    run = make_run(config, [metrics_line(1)])
    text = write_report(run, tmp_path / "out", ExhibitOptions(), say=lambda _: None)
    assert f"the clips of {tmp_path / 'train'} have no labels" in text
    assert (tmp_path / "out" / "masks.png").is_file()


def test_a_run_of_another_kind_has_curves_and_facts_only(tmp_path: Path) -> None:
    config = load_run("demo/teacher", (f"run_dir={tmp_path / 'clip'}",))
    run = make_run(config, [metrics_line(1), metrics_line(2)])
    text = write_report(run, tmp_path / "out", ExhibitOptions(), say=lambda _: None)
    assert text == str(tmp_path / "out" / "index.html")
    words = words_of(tmp_path / "out" / "index.html")
    assert "image_text: a CLIP of 4 layers" in words
    assert "How good this CLIP is shows where it teaches" in words


def test_a_folder_that_is_no_run_is_refused_with_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no run folder") as refused:
        write_report(tmp_path, tmp_path / "out", ExhibitOptions(), say=lambda _: None)
    assert refused.value.hint == "name a folder that `umt train` wrote"
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match=f"there is no folder {tmp_path}/nope"):
        write_report(tmp_path / "nope", tmp_path / "out", ExhibitOptions(), say=lambda _: None)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1')
    with pytest.raises(UmtError, match=r"has not logged a step yet \(1 line of .* is no record"):
        write_report(tmp_path, tmp_path / "out", ExhibitOptions(), say=lambda _: None)


def test_shards_that_the_user_names_must_be_there(tmp_path: Path) -> None:
    run = make_run(make_config(tmp_path), [metrics_line(1)])
    with pytest.raises(DataError, match="not a folder of finished shards"):
        write_report(run, tmp_path / "out", ExhibitOptions(val=tmp_path / "nowhere"), say=lambda _: None)


# ---------------------------------------------------------------- the parts


def test_the_untrained_student_is_the_one_that_training_began_with(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    assert isinstance(config.task, Stage1Config)
    study = Stage1Probe(config.folder, config, config.task, None, None, 10)
    task = Stage1Task(config.task, seed=config.seed, device=torch.device("cpu"), precision="fp32")
    began = task.module.encoder.state_dict()
    for name, tensor in study.untrained().state_dict().items():
        assert torch.equal(tensor.cpu(), began[name]), name
    other = replace(study, config=config.model_copy(update={"seed": 1})).untrained()
    assert not torch.equal(other.patch_embed.proj.weight.cpu(), began["patch_embed.proj.weight"])


def test_training_clips_cannot_be_held_out_too(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "train", (2,))
    config = make_config(tmp_path)
    assert isinstance(config.task, Stage1Config)
    with pytest.raises(ConfigError, match="training and held-out clips at once"):
        _ = Stage1Probe(config.folder, config, config.task, None, shards, 10).held_out_shards


def test_kept_patches_keep_their_colour_and_removed_ones_turn_dark_and_grey() -> None:
    pixels = torch.zeros(2, 4, 6, 3, dtype=torch.uint8)
    pixels[..., 0] = 200  # red
    shaded = shade_removed(pixels, torch.tensor([1, 5]), (2, 3)).numpy()  # 2 x 2 pixels a patch
    red, dark = np.array([200, 0, 0]), np.array([15, 15, 15])
    for frame in range(2):
        for row in range(4):
            for column in range(6):
                patch = frame * 6 + row // 2 * 3 + column // 2
                expected = red if patch in (1, 5) else dark
                assert (shaded[frame, row, column] == expected).all()

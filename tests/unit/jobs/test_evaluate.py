"""`umt eval` on small runs: which weights, which evaluations, what it prints and writes, what it refuses."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from pyarrow import parquet

from tests.support.evaluators import Features, features_of
from tests.support.shards import write_shards
from tests.support.tiny_runs import add_checkpoint, make_config, write_run
from umt_ds.cli.eval import command
from umt_ds.config.run import RunConfig
from umt_ds.data.clip_request import ClipRequest, middle_frames
from umt_ds.data.evaluation import EvaluationSet
from umt_ds.distributed.job import start_job
from umt_ds.engine.best import Best, judge
from umt_ds.environment import RANK_VARIABLES
from umt_ds.errors import CheckpointError, ConfigError, DataError, MachineError, UmtError, WeightsError
from umt_ds.evaluation.evaluator import LeftOut
from umt_ds.evaluation.frozen_features import pooled_student
from umt_ds.evaluation.knn import KnnEvaluator
from umt_ds.jobs import evaluate
from umt_ds.jobs.eval_runs import find_runs
from umt_ds.models.vit import VideoViT

torch.set_num_threads(1)

KNN = ("evaluation.val.kind=knn", "evaluation.val.shards=/data/val")


@pytest.fixture(scope="module", autouse=True)
def group() -> Iterator[None]:
    """One process group for all: opening it costs more than a test. It tells its place in variables, as a launcher."""
    with pytest.MonkeyPatch.context() as patch:
        for name in RANK_VARIABLES:
            patch.setenv(name, "set back at the end")
            patch.delenv(name)
        with start_job():
            for name in RANK_VARIABLES:
                patch.delenv(name)
            yield


@pytest.fixture(autouse=True)
def judged(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Evaluations are made by `Features`, with the arguments that the test gives to this; it reads no set."""

    def judge(**more: Any) -> None:
        monkeypatch.setattr(evaluate, "evaluators_of", partial(features_of, **more))

    judge()
    return judge


def tiny_run(folder: Path, *overrides: str, step: int = 6) -> Path:
    config = make_config(folder, *overrides)
    run = write_run(config)
    add_checkpoint(run, config, step=step)
    return run


def umt_eval(*words: object) -> Result:
    return CliRunner().invoke(command, [str(word) for word in words])


def refused(*words: object) -> UmtError:
    error = umt_eval(*words).exception
    assert isinstance(error, UmtError), error
    return error


def scores_in(file: Path) -> Any:
    return json.loads(file.read_text())["runs"]


def by_hand(config: RunConfig, name: str = "val", *, times: int = 1) -> dict[str, float]:
    """What `Features` finds in the student as its seed makes it: the weights of `add_checkpoint`, `times` as large."""
    from umt_ds.distributed.world import find_world
    from umt_ds.models.presets import vit_size

    torch.manual_seed(config.seed)
    module = torch.nn.Module()
    module.encoder = VideoViT(vit_size("pocket"))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(times)
        found = Features(name, *config.task.clip_shape).run(module.eval(), find_world(), beat=lambda: None)
    return dict(found.values)


# ---------------------------------------------------------------- which weights, which evaluations


def test_a_run_is_scored_by_its_newest_checkpoint_and_a_checkpoint_by_itself(tmp_path: Path) -> None:
    config = make_config(tmp_path, *KNN)
    run = tiny_run(tmp_path, *KNN)
    first = run / "checkpoints" / "step-00000006"
    add_checkpoint(run, config.model_copy(update={"seed": 1}), step=8)
    found = umt_eval(run, first, "-o", tmp_path / "scores.json")
    assert found.exit_code == 0, found.exception
    newest, older = scores_in(tmp_path / "scores.json")
    assert (newest["step"], older["step"]) == (8, 6)
    assert newest["fingerprint"] != older["fingerprint"]
    assert older["evaluations"][0]["values"] == pytest.approx(by_hand(config))


AVERAGE = ("optim.ema_decay=0.9", "evaluation.averaged.kind=knn", "evaluation.averaged.shards=/data/val",
           "evaluation.averaged.ema=true")  # fmt: skip


def test_an_evaluation_judges_the_averaged_weights_that_the_checkpoint_holds(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, *AVERAGE, *KNN)
    ended = umt_eval(run, "-o", tmp_path / "scores.json")
    assert ended.exit_code == 0, ended.exception
    (found,) = scores_in(tmp_path / "scores.json")
    averaged, trained = found["evaluations"]
    assert (averaged["evaluation"], trained["evaluation"]) == ("averaged", "val"), "in the order of the settings"
    assert trained["values"] == pytest.approx(by_hand(make_config(tmp_path)))
    assert averaged["values"] == pytest.approx(by_hand(make_config(tmp_path), times=2))
    assert averaged["protocol"] == {"seed": 1, "weights": "averaged (decay 0.9)"}
    assert trained["protocol"] == {"seed": 1}
    assert "weights averaged (decay 0.9)" in ended.stdout


def test_a_run_may_be_scored_as_another_begins_with_its_averaged_weights(tmp_path: Path) -> None:
    run, other = tiny_run(tmp_path, *KNN), tiny_run(tmp_path / "other", "optim.ema_decay=0.9")
    assert umt_eval(run, "--weights", other, "init.ema=true", "-o", tmp_path / "scores.json").exit_code == 0
    (found,) = scores_in(tmp_path / "scores.json")
    assert found["evaluations"][0]["values"] == pytest.approx(by_hand(make_config(tmp_path), times=2))


def test_an_average_that_no_checkpoint_holds_is_one_error_before_anything_is_scored(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, *KNN)
    error = refused(run, "evaluation.val.ema=true")
    assert "evaluation.val.ema: this run keeps no average of its weights" in str(error)
    words = umt_eval(run, "evaluation.val.ema=true", "optim.ema_decay=0.9")
    assert words.exit_code == 1
    assert "step-00000006 holds no averaged weights: its run kept none" in words.stderr


def test_weights_that_are_named_take_the_place_of_those_of_the_run(tmp_path: Path) -> None:
    run, other = tiny_run(tmp_path, *KNN), tiny_run(tmp_path / "other", "seed=1")
    ended = umt_eval(run, "--weights", other, "-o", tmp_path / "scores.json")
    assert ended.exit_code == 0
    assert re.search(rf"{other} into {run}: .*\d+ tensors loaded, 0 left at their start", ended.stdout)
    (found,) = scores_in(tmp_path / "scores.json")
    assert (found["weights"], found["step"]) == (str(other), None)
    assert found["evaluations"][0]["values"] == pytest.approx(by_hand(make_config(tmp_path, "seed=1")))


def test_the_file_of_a_teacher_is_not_needed(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, *KNN)
    settings = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(settings.replace("weights: random", "weights: /gone/clip.safetensors"))
    assert umt_eval(run).exit_code == 0


def test_a_recipe_needs_no_variable_of_its_training_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UMT_DATA", raising=False)
    weights = tiny_run(tmp_path)
    (run,) = find_runs(["stage1/b16_k710"], [*KNN, f"init.weights={weights}", "evaluation.val.voters=/data/k400"])
    assert run.checkpoint is None
    assert run.weights == weights
    assert "${env:UMT_DATA}" in run.config.data.sources["k710"].names[0]


def test_one_evaluation_of_several_can_be_asked_for(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, *KNN, "evaluation.test.kind=knn", "evaluation.test.shards=/data/test")
    assert list(find_runs([str(run)])[0].config.evaluation) == ["val", "test"]
    assert list(find_runs([str(run)], only=["test"])[0].config.evaluation) == ["test"]
    text = umt_eval(run, "--on", "test").stdout
    assert text.startswith("test (knn) ")
    assert "val (knn)" not in text


def test_a_set_named_on_the_command_line_is_the_only_one(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, *KNN)
    text = umt_eval(run, "--kind", "knn", "--shards", "/data/new", "evaluation.knn.limit=7").stdout
    assert text.startswith("knn ")
    assert "val (knn)" not in text


def test_a_best_checkpoint_of_another_evaluation_is_no_hindrance(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, *KNN, "cadence.evaluate=5", "cadence.keep_best=val/label")
    assert umt_eval(run, "--kind", "knn", "--shards", "/data/new").exit_code == 0


def test_the_best_checkpoint_can_be_asked_for(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, *KNN)
    add_checkpoint(run, make_config(tmp_path), step=9)
    (newest,) = find_runs([str(run)])
    assert newest.weights.name == "step-00000009"
    with pytest.raises(CheckpointError, match="has no best checkpoint"):
        find_runs([str(run)], best=True)
    judge(run, Best(step=6, metric="val/label", value=50.0, items=6, left_out=0, protocol="x"))
    (best,) = find_runs([str(run)], best=True)
    assert best.weights == run / "checkpoints" / "step-00000006"
    with pytest.raises(ConfigError, match="is no run folder"):
        find_runs(["demo/stage1"], best=True)


def test_a_folder_with_an_equals_sign_is_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_run(tmp_path, *KNN).rename(tmp_path / "lr=3")
    monkeypatch.chdir(tmp_path)
    assert "./lr=3" in umt_eval("./lr=3").stdout


# ---------------------------------------------------------------- what it prints and writes


def test_runs_of_several_seeds_are_put_together_and_compared_by_what_they_began_from(tmp_path: Path) -> None:
    runs = [
        tiny_run(tmp_path / f"{seed}-{weights}", *KNN, f"seed={seed}", f"init.weights={weights}")
        for weights in ("runs/a", "null")
        for seed in (0, 1)
    ]
    lines = umt_eval(*runs).stdout.splitlines()
    assert lines[0].split() == ["val", "(knn)", "step", "items", "mean", "largest"]
    assert [line.split()[:3] for line in lines[1:5]] == [[str(run), "6", "6"] for run in runs]
    assert [line.partition("  ")[0] for line in lines[5:8]] == [
        "mean ± sd of 2 from runs/a",
        "mean ± sd of 2 from scratch",
        "runs/a less scratch, ± standard error",
    ]
    largest = [by_hand(make_config(tmp_path, f"seed={seed}"))["largest"] for seed in (0, 1)]
    mean, deviation = sum(largest) / 2, abs(largest[0] - largest[1]) / 2**0.5
    assert lines[5].endswith(f"{mean:.2f} ± {deviation:.2f}")
    assert lines[7].endswith(f"+0.00 ± {deviation:.2f}")  # both groups have the same weights here


def test_runs_that_were_trained_longer_are_another_group(tmp_path: Path) -> None:
    runs = [tiny_run(tmp_path / f"{seed}", *KNN, f"seed={seed}", step=6 + seed) for seed in (0, 1)]
    assert "mean ±" not in umt_eval(*runs).stdout


def test_the_json_tells_all_that_is_needed_to_repeat_the_numbers(tmp_path: Path, judged: Callable[..., None]) -> None:
    judged(protocol={"chance": float("nan")})
    run = tiny_run(tmp_path, *KNN)
    umt_eval(run, "-o", tmp_path / "new" / "scores.json")
    content = json.loads((tmp_path / "new" / "scores.json").read_text())
    assert {"format", "date", "versions", "device", "ranks", "runs"} == content.keys()
    assert (content["format"], content["device"], content["ranks"]) == (1, "cpu", 1)
    assert content["versions"]["torch"] in torch.__version__
    (of_run,) = content["runs"]
    assert of_run["weights"] == str(run / "checkpoints" / "step-00000006")
    assert of_run["precision"] == "fp32"
    (found,) = of_run["evaluations"]
    assert (found["evaluation"], found["items"], found["partial"], found["left_out"]) == ("val", 6, False, [])
    assert found["settings"]["shards"] == "/data/val"
    assert found["protocol"] == {"seed": 1, "chance": None}  # JSON knows no NaN
    assert found["values"] == by_hand(make_config(tmp_path))


def test_numbers_of_each_type_stand_below_the_table_and_in_the_file(
    tmp_path: Path, judged: Callable[..., None]
) -> None:
    judged(by_type={"yes/no": {"items": 4, "mean": 0.5}, "\x1b[31m": {"items": 2, "mean": 1.25, "largest": 3.0}})
    run = tiny_run(tmp_path, *KNN)
    told = umt_eval(run, "-o", tmp_path / "scores.json").output
    assert re.search(r"val by type +items +mean +largest\n\S+ +yes/no +4 +0\.50 +-\n\S+ +\S+ +2 +1\.25 +3\.00\n", told)
    assert "\x1b" not in told
    (found,) = scores_in(tmp_path / "scores.json")[0]["evaluations"]
    assert found["by_type"]["yes/no"] == {"items": 4, "mean": 0.5}


def test_a_score_with_items_left_out_is_called_partial_and_says_why(
    tmp_path: Path, judged: Callable[..., None]
) -> None:
    judged(left_out=tuple(LeftOut(f"clip-{n}", "it has no label") for n in range(5)))
    run = tiny_run(tmp_path, *KNN)
    text = umt_eval(run, "-o", tmp_path / "scores.json").stdout
    assert "6 of 11" in text.splitlines()[1]
    three = "; ".join(f"clip-{n} (it has no label)" for n in range(3))
    assert f"partial: 5 of 11 items left out of {run}: {three}; and 2 more" in text
    (found,) = scores_in(tmp_path / "scores.json")[0]["evaluations"]
    assert found["partial"]
    assert found["left_out"][4] == {"key": "clip-4", "reason": "it has no label"}


def test_a_score_of_a_part_of_a_published_split_is_called_partial_and_says_of_which(
    tmp_path: Path, judged: Callable[..., None]
) -> None:
    split = {"name": "msrvtt-1ka", "videos": 9, "texts": 9, "as_published": True, "num_missing": 3}
    judged(protocol={"published": split})
    run = tiny_run(tmp_path, *KNN)
    text = umt_eval(run, "-o", tmp_path / "scores.json").stdout
    assert f"partial: {run}: 3 of the 9 videos of msrvtt-1ka are missing" in text
    assert "published.name msrvtt-1ka" in text
    (found,) = scores_in(tmp_path / "scores.json")[0]["evaluations"]
    assert (found["partial"], found["left_out"]) == (True, [])
    assert found["gaps"] == ["3 of the 9 videos of msrvtt-1ka are missing"]
    assert found["protocol"]["published"] == split


def test_the_fingerprint_of_a_set_stands_whole_below_the_table(tmp_path: Path, judged: Callable[..., None]) -> None:
    judged(protocol={"fingerprint": "0123abcd" * 8})
    assert f"fingerprint {'0123abcd' * 8}" in " ".join(umt_eval(tiny_run(tmp_path, *KNN)).stdout.split())


def test_in_what_the_scores_of_a_table_are_not_alike_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def judge(run: RunConfig, classes: Sequence[str]) -> list[Features]:
        return features_of(run, protocol={"view": "centre", "part": 1 / 3, "antialias": run.seed == 0})

    monkeypatch.setattr(evaluate, "evaluators_of", judge)
    runs = [tiny_run(tmp_path / f"{seed}", *KNN, f"seed={seed}") for seed in (0, 1)]
    *_, common, odd = umt_eval(*runs).stdout.splitlines()
    assert common == "with seed 1; view centre; part 0.333333; precision fp32"
    assert odd == f"not alike: antialias is True of {runs[0]}, False of {runs[1]}"


def test_predictions_are_saved_for_each_run_and_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_run(Path("runs/one"), *KNN)
    text = umt_eval("runs/one/run", "--save-predictions", "answers", "-o", "scores.json").stdout
    file = Path("answers/runs-one-run.val.parquet")
    assert f"the answers of runs/one/run in val: {file}" in text
    assert scores_in(Path("scores.json"))[0]["evaluations"][0]["predictions"] == str(file)
    rows = parquet.read_table(file).to_pylist()
    assert [row["key"] for row in rows] == [f"clip-{n}" for n in range(6)]
    assert sum(row["mean"] for row in rows) / 6 == pytest.approx(by_hand(make_config(tmp_path))["mean"])
    assert rows[0]["pair"][0] == rows[0]["mean"]


def test_a_dry_run_says_what_would_be_evaluated(tmp_path: Path) -> None:
    write_shards(tmp_path / "train", (5, 4))
    write_shards(tmp_path / "val", (5, 6))
    run = tiny_run(
        tmp_path, "evaluation.val.kind=knn", f"evaluation.val.shards={tmp_path / 'val'}", "evaluation.val.batch=2"
    )
    _, weights, voters, asked = umt_eval(
        run, "evaluation.val.limit=10", "--ranks", "2", "--dry-run"
    ).stdout.splitlines()
    assert weights == f"  weights {run / 'checkpoints' / 'step-00000006'}, fp32"
    assert f"voters {tmp_path / 'train'}, 9 of 9 items, 1 view each (2 frames of 16 px); 5 forward passes" in voters
    assert voters.endswith("5 forward passes of 2, 3 on each of 2 ranks")
    assert f"shards {tmp_path / 'val'}, 10 of 11 items" in asked


def test_a_dry_run_refuses_what_an_evaluation_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("train", "val"):
        write_shards(tmp_path / name, (5,))
    run = tiny_run(tmp_path, "evaluation.val.kind=knn", f"evaluation.val.shards={tmp_path / 'val'}")
    averaged = refused(run, "optim.ema_decay=0.9", "evaluation.val.ema=true", "--dry-run")
    assert "holds no averaged weights" in averaged.what
    strange = ClipRequest(middle_frames(2), 16, label_fields=["label"], num_classes=2)

    def judges(config: RunConfig, classes: Sequence[str] = ()) -> list[Any]:
        return [KnnEvaluator("val", EvaluationSet(tmp_path / "val", strange, batch_size=2), None, pooled_student)]

    monkeypatch.setattr(evaluate, "evaluators_of", judges)
    assert "label=2, and the model has classes 0 to 1" in refused(run, "--dry-run").what


def test_a_dry_run_counts_the_views_of_a_clip(tmp_path: Path) -> None:
    write_shards(tmp_path / "val", (5, 6))
    (tmp_path / "weights.pth").touch()
    words = ["demo/recognition", "--weights", tmp_path / "weights.pth", "--kind", "classification"]
    six = ["--shards", tmp_path / "val", "evaluation.classification.segments=2", "evaluation.classification.crops=3"]
    told = [umt_eval(*words, *six, "--dry-run", *more).stdout for more in ([], ["evaluation.classification.batch=4"])]
    for text, passes in zip(told, ("6 forward passes of 12", "11 forward passes of 6"), strict=True):
        assert f"11 of 11 items, 6 views each (4 frames of 16 px); {passes}\n" in text


# ---------------------------------------------------------------- what it refuses


@pytest.mark.parametrize("name", ["/nope", "runs/nope", "./nope.yaml", "s3://bucket/run"])
def test_a_path_with_nothing_there_is_called_that(name: str) -> None:
    error = refused(name)
    assert isinstance(error, ConfigError)
    assert error.what == f"{name}: there is no such folder or file, and no shipped run is called so"
    assert error.hint is not None
    assert "demo/teacher" not in error.hint, "no list of all that is shipped"


def test_what_was_a_subcommand_is_told_its_option() -> None:
    assert "--kind retrieval --shards" in str(refused("retrieval", "runs/demo/stage2-0"))


def test_a_name_that_is_nearly_one_is_told_it() -> None:
    assert refused("demo/stage1x").hint == "did you mean demo/stage1?"


def test_weights_in_the_place_of_a_run_are_told_where_they_go(tmp_path: Path) -> None:
    (tmp_path / "clip.pt").write_bytes(b"x")
    assert refused(tmp_path / "clip.pt").hint == f"umt eval NAME --weights {tmp_path / 'clip.pt'}"
    assert "neither a run folder" in refused(tmp_path).what


def test_a_run_without_checkpoint_is_called_that(tmp_path: Path) -> None:
    run = write_run(make_config(tmp_path, *KNN))
    error = refused(run)
    assert isinstance(error, CheckpointError)
    assert error.what == f"{run} has no checkpoint"


def test_a_recipe_without_weights_is_told_to_name_some(tmp_path: Path) -> None:
    error = refused("demo/stage1", *KNN)
    assert isinstance(error, ConfigError)
    assert "--weights" in str(error.hint)
    assert isinstance(refused("demo/stage1", *KNN, "--weights", tmp_path / "nope"), WeightsError)


def test_a_run_without_evaluations_is_told_how_to_name_one(tmp_path: Path) -> None:
    error = refused(tiny_run(tmp_path))
    assert isinstance(error, ConfigError)
    assert "--shards SHARDS --kind knn or retrieval" in str(error.hint)


def test_an_evaluation_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path) -> None:
    error = refused(tiny_run(tmp_path, *KNN), "--on", "test")
    assert (error.exit_code, error.hint) == (2, "it has: val")


def test_a_variable_that_is_needed_and_not_set_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_SETS", raising=False)
    run = tiny_run(tmp_path, *KNN)
    error = refused(run, "evaluation.val.shards=${env:MY_SETS}/val")
    assert "evaluation.val.shards is ${env:MY_SETS}/val, and that variable is not set" in error.what
    error = refused(run, "data.sources.demo.shards=${env:MY_SETS}/train")  # its clips vote
    assert "evaluation.val.voters is ${env:MY_SETS}/train" in error.what


def test_a_run_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, *KNN)
    assert "named twice" in refused(run, run).what


@pytest.mark.parametrize("again", ["./run", "run/", "link", "run/checkpoints/step-00000006"])
def test_a_run_that_is_named_twice_in_other_spellings_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: str
) -> None:
    tiny_run(tmp_path, *KNN).rename(tmp_path / "run")
    (tmp_path / "link").symlink_to(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    assert f"as run and {again}, is named twice" in refused("run", again).what


def test_a_warning_of_an_evaluator_has_a_line_of_its_own_beside_the_bar(
    tmp_path: Path, judged: Callable[..., None]
) -> None:
    judged(fail=lambda world: logging.getLogger("umt_ds").warning("half of the clips vote on themselves"))
    stderr = umt_eval(tiny_run(tmp_path, *KNN)).stderr
    assert "half of the clips vote on themselves" in [line.strip() for line in re.split(r"[\r\n]", stderr)]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--shards", "/data/val"), "--shards and --kind belong together"),
        (("--kind", "knn"), "--shards and --kind belong together"),
        (("other", "--weights", "w.pt"), "of one RUN"),
        (("",), "a RUN is empty text"),
        (("-o", "s3://bucket/scores.json"), "s3://bucket/scores.json is a URL"),
    ],
)
def test_options_that_do_not_go_together_are_a_mistake(more: tuple[str, ...], said: str) -> None:
    ended = umt_eval("run", *more)
    assert ended.exit_code == 2
    assert said in ended.output


def test_settings_alone_are_no_run() -> None:
    ended = umt_eval(*KNN)
    assert ended.exit_code == 2
    assert "Missing argument 'RUN...'" in ended.output


def test_a_kind_that_nobody_knows_is_answered_with_those_that_are(tmp_path: Path) -> None:
    error = refused(tiny_run(tmp_path), "--kind", "knm", "--shards", "/data/val")
    assert error.exit_code == 2
    assert "`knn`" in str(error)


def test_what_cannot_be_written_is_found_before_anything_is_evaluated(
    tmp_path: Path, judged: Callable[..., None]
) -> None:
    judged(fail=lambda world: pytest.fail("evaluated"))
    run = tiny_run(tmp_path, *KNN)
    for option in ("-o", "--save-predictions"):
        error = refused(run, option, run / "config.yaml" / "scores")
        assert isinstance(error, MachineError)
        assert "config.yaml" in error.what


def test_a_damaged_checkpoint_is_found_before_anything_is_evaluated(
    tmp_path: Path, judged: Callable[..., None]
) -> None:
    judged(fail=lambda world: pytest.fail("evaluated"))
    runs = [tiny_run(tmp_path / name, *KNN) for name in ("good", "bad")]
    with (runs[1] / "checkpoints" / "step-00000006" / "weight-00000.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    ended = umt_eval(*runs)
    assert ended.exit_code == 1
    assert f"error: {runs[1]}: step-00000006: weight-00000.safetensors was altered" in ended.stderr
    assert f"a folder of {runs[1] / 'checkpoints'}" in ended.stderr


def test_weights_that_do_not_fit_end_with_one_error(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, *KNN)
    ended = umt_eval(run, "task.teacher.layers=1")
    assert ended.exit_code == 1
    assert "do not fit" in ended.stderr


def test_an_error_of_an_evaluator_is_one_message_with_its_exit_code(
    tmp_path: Path, judged: Callable[..., None]
) -> None:
    def fail(world: Any) -> None:
        raise DataError("7 of 9 clips cannot be read", hint="umt-data verify")

    judged(fail=fail)
    ended = umt_eval(tiny_run(tmp_path, *KNN))
    assert ended.exit_code == 1
    assert ended.stderr.endswith("error: 7 of 9 clips cannot be read\n  hint: umt-data verify\n")


# ---------------------------------------------------------------- ranks


def test_each_rank_gets_the_same_command_without_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, started = tiny_run(tmp_path, *KNN), []

    def start(words: list[str], ranks: int) -> int:
        started.append((words[2:], ranks))
        return 3

    monkeypatch.setattr("umt_ds.distributed.local.run_local_ranks", start)
    words = [str(run), "seed=3", "--on", "val", "--out", str(tmp_path / "a.json"), "--weights", str(run)]
    ended = umt_eval(*words, "--ranks", 2)
    assert ended.exit_code == 3
    (told,) = started
    assert told[1] == 2
    assert told[0][:2] == ["umt_ds", "eval"]
    assert sorted(told[0][2:]) == sorted(words)


def test_ranks_under_a_launcher_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny_run(tmp_path, *KNN)
    monkeypatch.setattr("umt_ds.cli.ranks.sign_of_launcher", lambda: "RANK=0")
    monkeypatch.setattr("umt_ds.cli.eval.sign_of_launcher", lambda: "RANK=0")
    assert "a launcher has already done so (RANK=0)" in refused(run, "--ranks", 2).what

"""Evaluation in the loop, on one rank without DeepSpeed. With DeepSpeed: tests/distributed/test_training.py."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from tests.support.checkpoints import folder as checkpoint
from tests.support.checkpoints import names_in
from tests.support.toy_run import STEPS, ToyEvaluator, ToyModule, ToyStop, toy_run
from umt_ds.engine import report as report_module
from umt_ds.engine.best import Best, best_of, hash_of, read_best
from umt_ds.engine.checkpoint_files import read_tensors
from umt_ds.engine.deepspeed import Engine
from umt_ds.engine.evaluations import check_keep_best
from umt_ds.engine.manifest import read_checkpoint_manifest
from umt_ds.engine.metrics_file import METRICS, read_metrics, read_scores
from umt_ds.engine.protocol import Ended
from umt_ds.errors import CheckpointError, ConfigError


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_module, "peak_flops", lambda device: (1e12, "a test"))
    monkeypatch.setattr(logging.getLogger("umt_ds"), "propagate", True)


class Killed(BaseException):
    """The process ends here."""


def kill(module: nn.Module) -> None:
    raise Killed


def evaluated(run: Path, name: str = "toy") -> list[int]:
    return [found.step for found in read_scores(run / METRICS) if found.evaluation == name]


def same_training(one: Path, two: Path) -> None:
    """Same clips, losses, weights and moments, bit for bit."""
    names = ("digest", "digest_total", "mask_digest_total", "loss", "lr", "draws")
    a, b = ({s: {n: r[n] for n in names} for s, r in read_metrics(run).items()} for run in (one, two))
    assert a == b
    assert sorted(a) == list(range(1, STEPS + 1))
    manifests = [read_checkpoint_manifest(checkpoint(run, STEPS)) for run in (one, two)]
    assert manifests[0].files == manifests[1].files
    assert manifests[0].progress == manifests[1].progress


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without evaluations."""
    folder = tmp_path_factory.mktemp("unbroken")
    assert toy_run(folder)[0] is Ended.FINISHED
    return folder


@pytest.mark.parametrize("ahead", [False, True])
def test_evaluations_change_no_bit_of_training(tmp_path: Path, unbroken: Path, ahead: bool) -> None:
    toy_run(tmp_path, ToyEvaluator(), ToyEvaluator("other"), evaluate=1, ahead=ahead)
    same_training(unbroken, tmp_path)


def test_it_evaluates_at_its_cadence_and_at_the_end_what_is_saved_then(tmp_path: Path) -> None:
    seen = []

    def note(module: nn.Module) -> None:
        newest = max(name for name in names_in(tmp_path) if name.startswith("step-"))
        stored = dict(read_tensors(tmp_path / "checkpoints" / newest, "weight"))
        seen.append((newest, all(stored[name].equal(weight) for name, weight in module.state_dict().items())))

    assert toy_run(tmp_path, ToyEvaluator(also=note), evaluate=2)[0] is Ended.FINISHED
    assert seen == [("step-00000002", True), ("step-00000004", True), ("step-00000005", True)]
    assert evaluated(tmp_path) == [2, 4, 5]
    assert {3, 5} <= {int(name[5:]) for name in names_in(tmp_path) if name.startswith("step-")}, "cadence.save too"


def test_weights_made_elsewhere_are_evaluated_before_the_first_step_and_not_again(tmp_path: Path) -> None:
    toy_run(tmp_path / "fresh", ToyEvaluator(), evaluate=4)
    assert evaluated(tmp_path / "fresh") == [4, 5]
    run = tmp_path / "fine-tuned"
    assert toy_run(run, ToyEvaluator(), evaluate=4, starts_from_weights=True, stop=ToyStop(stop_at=1))[1].step == 1
    toy_run(run, ToyEvaluator(), evaluate=4, starts_from_weights=True)
    assert evaluated(run) == [0, 4, 5]


def test_a_run_killed_inside_an_evaluation_loses_no_step_and_evaluates_first_what_is_missing(
    tmp_path: Path, unbroken: Path
) -> None:
    with pytest.raises(Killed):
        toy_run(tmp_path, ToyEvaluator("first"), ToyEvaluator("second", also=kill), evaluate=2)
    assert (evaluated(tmp_path, "first"), evaluated(tmp_path, "second")) == ([2], [])
    assert sorted(read_metrics(tmp_path)) == [1, 2]
    toy_run(tmp_path, ToyEvaluator("first"), ToyEvaluator("second"), evaluate=2)
    assert evaluated(tmp_path, "first") == evaluated(tmp_path, "second") == [2, 4, 5]
    assert [record["attempt"] for record in read_metrics(tmp_path).values()] == [1, 1, 2, 2, 2], "no step ran twice"
    same_training(unbroken, tmp_path)
    toy_run(tmp_path / "whole", ToyEvaluator("second"), evaluate=2)
    values = [[found.values for found in read_scores(run / METRICS) if found.evaluation == "second"]
              for run in (tmp_path, tmp_path / "whole")]  # fmt: skip
    assert values[0] == values[1]


def test_a_kill_in_the_evaluation_before_step_0_is_followed_by_another_one(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        toy_run(tmp_path, ToyEvaluator(also=kill), evaluate=4, starts_from_weights=True)
    assert not (tmp_path / "checkpoints").exists()
    toy_run(tmp_path, ToyEvaluator(), evaluate=4, starts_from_weights=True)
    assert evaluated(tmp_path) == [0, 4, 5]


def test_other_weights_are_evaluated_too_where_a_run_begins_again_before_its_first_save(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        toy_run(tmp_path, ToyEvaluator(), ToyEvaluator("second", also=kill), evaluate=4, starts_from_weights=True)
    toy_run(tmp_path, ToyEvaluator(), ToyEvaluator("second"), evaluate=4, starts_from_weights=True)
    assert evaluated(tmp_path) == [0, 0, 4, 5], "init.weights may have been another file"


def test_scores_of_a_step_that_was_trained_again_do_not_count(tmp_path: Path) -> None:
    toy_run(tmp_path, ToyEvaluator(), evaluate=2, stop=ToyStop(stop_at=4))
    (tmp_path / "checkpoints").rename(tmp_path / "moved away")  # to begin again, perhaps with other settings
    with pytest.raises(Killed):
        toy_run(tmp_path, ToyEvaluator(also=kill), evaluate=2)
    toy_run(tmp_path, ToyEvaluator(), evaluate=2)
    assert evaluated(tmp_path) == [2, 4, 2, 4, 5]


@pytest.mark.parametrize(("evaluate", "stops_at"), [(2, 2), (9, STEPS)])
def test_a_wish_to_stop_is_honoured_between_two_evaluations_and_the_next_start_makes_the_rest(
    tmp_path: Path, unbroken: Path, evaluate: int, stops_at: int
) -> None:
    stop = ToyStop()

    def wish(module: nn.Module) -> None:
        stop.after = 0

    first, second = ToyEvaluator("first", also=wish), ToyEvaluator("second")
    ended, progress = toy_run(tmp_path, first, second, evaluate=evaluate, stop=stop)
    assert (ended, progress.step) == (Ended.STOPPED, stops_at)
    assert (evaluated(tmp_path, "first"), evaluated(tmp_path, "second")) == ([stops_at], [])
    assert toy_run(tmp_path, ToyEvaluator("first"), ToyEvaluator("second"), evaluate=evaluate)[0] is Ended.FINISHED
    assert evaluated(tmp_path, "first") == evaluated(tmp_path, "second")
    same_training(unbroken, tmp_path)


def test_a_stop_that_was_wished_in_a_step_leaves_its_evaluation_to_the_next_start(tmp_path: Path) -> None:
    stop = ToyStop(after=2)  # the second step tells of it
    assert toy_run(tmp_path, ToyEvaluator(), evaluate=2, stop=stop)[0] is Ended.STOPPED
    assert evaluated(tmp_path) == []
    toy_run(tmp_path, ToyEvaluator(), evaluate=2)
    assert evaluated(tmp_path) == [2, 4, 5]


def test_an_evaluation_that_is_added_to_a_finished_run_is_made_by_starting_it_again(tmp_path: Path) -> None:
    toy_run(tmp_path, ToyEvaluator(), evaluate=9)
    assert toy_run(tmp_path, ToyEvaluator(), ToyEvaluator("new"), evaluate=9)[0] is Ended.FINISHED
    assert (evaluated(tmp_path), evaluated(tmp_path, "new")) == ([5], [5])


def test_each_part_of_a_module_is_put_back_into_its_mode() -> None:
    module = ToyModule()
    module.layers[2].eval()  # a frozen part
    engine: Any = SimpleNamespace(module=module, stage=0, _forget_order=lambda: None, _exact_gathered=nullcontext)
    with Engine.evaluating(engine):
        assert not any(part.training for part in module.modules())
    assert [part.training for part in module.modules()] == [True, True, True, True, False]


# ---------------------------------------------------------------- what is told


def test_a_partial_score_is_marked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "umt_ds")
    toy_run(tmp_path, ToyEvaluator(left_out=[0, 20, 20]), evaluate=2)
    assert [found.left_out for found in read_scores(tmp_path / METRICS)] == [0, 20, 20]
    lines = [message for message in caplog.messages if message.startswith("evaluation toy | step")]
    assert len(lines) == 3
    assert "partial" not in lines[0]
    assert "| step 4/5 | mean " in lines[1]
    assert "| 10 items | partial: 20 left out |" in lines[1]


# ---------------------------------------------------------------- the best


def best_run(run: Path, values: list[float], *, left_out: list[int] | None = None, **more: Any) -> None:
    """A value after each step; only the newest checkpoint is kept beside the best."""
    toy = ToyEvaluator(values=values, left_out=left_out or [])
    toy_run(run, toy, evaluate=1, keep=1, keep_best="toy/mean", **more)


def test_the_best_checkpoint_outlives_newer_ones(tmp_path: Path) -> None:
    best_run(tmp_path, [0.1, 0.5, 0.4, 0.5, 0.3])
    assert names_in(tmp_path) == {"step-00000002", "step-00000005", "LATEST", "BEST"}
    best = read_best(tmp_path)
    assert best is not None
    assert (best.checkpoint, best.metric, best.value, best.items) == ("step-00000002", "toy/mean", 0.5, 30)


def test_which_one_is_best_survives_a_stop(tmp_path: Path) -> None:
    best_run(tmp_path, [0.1, 0.5, 0.4], stop=ToyStop(stop_at=3))
    best_run(tmp_path, [0.45, 0.3])
    assert names_in(tmp_path) == {"step-00000002", "step-00000005", "LATEST", "BEST"}


def test_a_score_that_leaves_out_more_items_is_never_the_best_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "umt_ds")
    best_run(tmp_path, [0.1, 0.9, 0.2, 0.1, 0.1], left_out=[0, 4, 0, 0, 0])
    best = read_best(tmp_path)
    assert best is not None
    assert best.step == 3
    assert (
        "the best so far stays step-00000001 (0.1000): toy/mean 0.9000 at step 2, partial: 4 left out does not replace "
        "it, because it covers fewer items" in caplog.messages
    )


def test_a_metric_that_is_nan_is_not_the_best(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    best_run(tmp_path, [float("nan"), 0.2, float("nan"), 0.1, 0.1])
    best = read_best(tmp_path)
    assert best is not None
    assert best.step == 2
    assert "toy/mean is nan at step 3: it cannot be the best" in caplog.text


def test_a_best_checkpoint_that_is_gone_does_not_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    best_run(tmp_path, [0.1, 0.5, 0.4], stop=ToyStop(stop_at=3))
    checkpoint(tmp_path, 2).rename(tmp_path / "elsewhere")
    best_run(tmp_path, [0.3, 0.2])
    best = read_best(tmp_path)
    assert best is not None
    assert best.step == 4
    assert "the best checkpoint so far, step-00000002, is gone" in caplog.text


@pytest.mark.parametrize("text", ["", "{}", "[1]", "step-00000002", '{"step": "2"}', "[" * 9000])
def test_a_damaged_best_is_one_error_before_anything_is_trained(tmp_path: Path, text: str) -> None:
    best_run(tmp_path, [0.1, 0.5], stop=ToyStop(stop_at=2))
    (tmp_path / "checkpoints" / "BEST").write_text(text)
    with pytest.raises(CheckpointError, match=r"checkpoints/BEST is damaged") as raised:
        best_run(tmp_path, [0.1] * 3)
    assert "remove it" in str(raised.value.hint)
    assert len(read_metrics(tmp_path)) == 2


def judged(step: int, value: float, **more: Any) -> Best:
    return Best(
        **{"step": step, "metric": "knn/label", "value": value, "items": 9, "left_out": 0, "protocol": "a", **more}
    )


@pytest.mark.parametrize(
    ("old", "new", "is_better"),
    [
        (None, judged(4, 0.1), True),
        (judged(2, 0.3), judged(4, 0.4), True),
        (judged(2, 0.3), judged(4, 0.3), False),  # equal: the older
        (judged(2, 0.3, items=7, left_out=2), judged(4, 0.1, items=8, left_out=1), True),  # covers more
        (judged(2, 0.3, items=8, left_out=1), judged(4, 0.9, items=7, left_out=2), False),
        (judged(2, 0.3, items=7, left_out=2), judged(4, 0.1, items=7, left_out=2), False),
        (judged(2, 0.3), judged(4, 0.1, metric="knn/other"), True),  # another metric: no comparison
        (judged(2, 0.3), judged(4, 0.1, protocol="b"), True),  # another set
        (judged(4, 0.3), judged(4, 0.1), True),  # the step was trained again
        (judged(6, 0.3), judged(4, 0.1), True),
    ],
)
def test_which_of_two_scores_is_better(old: Best | None, new: Best, is_better: bool) -> None:
    assert (best_of(new, old) is new) == is_better


def test_scores_of_equal_sets_compare_wherever_they_lie_and_whatever_was_missing() -> None:
    found = {"fingerprint": "1", "k": 20, "shards": "/a", "left_out": 0, "voters": {"fingerprint": "2", "shards": "/b"}}
    assert hash_of(found) == hash_of(found | {"shards": "/c", "left_out": 3})
    assert hash_of(found) == hash_of(found | {"voters": {"fingerprint": "2", "shards": "/d"}})
    assert hash_of(found) != hash_of(found | {"fingerprint": "3"})
    assert hash_of(found) != hash_of(found | {"voters": {"fingerprint": "4", "shards": "/b"}})


def test_a_metric_that_no_evaluation_reports_is_one_error_that_lists_those_that_are() -> None:
    two: Any = [ToyEvaluator("knn", ("label", "rankme")), ToyEvaluator("retrieval", ("r1",))]
    check_keep_best("knn/rankme", two)
    check_keep_best(None, two)
    with pytest.raises(ConfigError, match="no evaluation of this run reports knn/r1") as raised:
        check_keep_best("knn/r1", two)
    assert raised.value.hint == "one of knn/label, knn/rankme, retrieval/r1"

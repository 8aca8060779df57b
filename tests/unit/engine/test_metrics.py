"""RUN/metrics.jsonl: what a logged step writes, and what is read back after a kill."""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from umt_ds.config.batching import RunPlan
from umt_ds.config.load import load_run
from umt_ds.distributed.world import World
from umt_ds.engine import report as report_module
from umt_ds.engine.metrics_file import METRICS, OddLines, ScoresRecord, read_metrics, read_records, read_scores
from umt_ds.engine.protocol import Progress
from umt_ds.engine.report import Report, start_logging
from umt_ds.engine.speed import Lap
from umt_ds.engine.step_stats import GlobalStepStats, RankTimes
from umt_ds.errors import MachineError
from umt_ds.evaluation.evaluator import LeftOut, Scores

CPU = torch.device("cpu")
# draws of two views each; the rate is 0, 5e-4, 1e-3 in the three steps of the warm-up
PLAN = RunPlan(
    world=2, micro=4, chunk=4, accumulation=1, draws_per_step=8, views_per_step=16, steps_per_epoch=10,
    total_steps=100, warmup_steps=3, peak_lr=1e-3, min_lr=0.0,
)  # fmt: skip
HEARD = GlobalStepStats(
    step=0, losses={"loss": 0.5, "uta": 0.25}, grad_norm=1.5, skipped=False, digest=0xABC, mask_digest=0,
    substituted=0, wants_stop=False, wrote_snapshot=False,
    times=RankTimes(data_s=(0.25, 1.0), own_s=(1.5, 1.25)),
)  # fmt: skip
FOUND = Scores(
    "knn", {"label": 0.5, "rankme": 23.0}, items=97, left_out=(LeftOut("a", "cannot be decoded"),),
    protocol={"views": 1},
)  # fmt: skip
LAP = Lap(seconds=4.0, data_s=0.25, own_s=1.5, steps=5)


@pytest.fixture(autouse=True)
def _known_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_module, "peak_flops", lambda device: (1e12, "a test"))
    monkeypatch.setattr(logging.getLogger("umt_ds"), "propagate", True)


def open_report(run: Path, *overrides: str, rank: int = 0) -> Report:
    config = load_run("demo/stage1", ["report.tensorboard=false", *overrides])
    world = World(rank, 2, rank, "127.0.0.1", 1, "env")
    return Report(run, world=world, device=CPU, config=config, plan=PLAN, flops_per_view=2e9)


@pytest.fixture
def report(tmp_path: Path) -> Iterator[Report]:
    opened = open_report(tmp_path)
    yield opened
    opened.close()


def log_step(report: Report, step: int, **heard: Any) -> None:
    progress = Progress(
        step=step, draws=8 * step, digest=2**64 - 1, mask_digest=7, skipped=1, substituted=3,
    )  # fmt: skip
    report.step(progress, replace(HEARD, step=step, **heard), LAP)


def lines(run: Path) -> list[str]:
    return (run / METRICS).read_text().splitlines()


# ---------------------------------------------------------------- writing


def test_a_logged_step_is_one_json_object_with_everything_one_asks_for(tmp_path: Path, report: Report) -> None:
    log_step(report, 2)
    (line,) = lines(tmp_path)
    record = json.loads(line)
    peak = record.pop("peak_memory_gib")
    assert 0.01 < peak < 1000
    assert record == {
        "step": 2,
        "draws": 16,
        "epoch": 0.2,
        "loss": 0.5,
        "uta": 0.25,
        "lr": 5e-4,  # the rate of the step that ended, not of the one to come
        "grad_norm": 1.5,
        "clips_per_s": 20.0,  # 5 steps × 16 views in 4 s
        "clips_per_s_per_device": 10.0,
        "data_stall_percent": 25.0,  # of the rank that waited longest
        "data_stall_rank": 1,
        "slowest_rank": 0,
        "slowest_rank_ms": 25.0,  # 1.5 s in 5 steps, the median 1.375 s
        "mfu_percent": 2.0,  # 10 views/s × 2 GFLOP of 1 TFLOP/s
        "gflops_per_clip": 2.0,
        "bad_samples": 3,
        "skipped_steps": 1,
        "digest": "0000000000000abc",
        "digest_total": "ffffffffffffffff",
        "mask_digest_total": "0000000000000007",
        "attempt": 1,
    }


def test_a_step_that_a_stop_logs_says_nothing_of_waits_that_were_not_told(
    tmp_path: Path, report: Report, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "umt_ds"):
        log_step(report, 2, times=None)
    assert not {"data_stall_percent", "slowest_rank"} & json.loads(lines(tmp_path)[0]).keys()
    assert "views/s, 10.0 a device | mfu" in caplog.text


def test_a_step_is_on_disk_when_it_is_logged(tmp_path: Path, report: Report) -> None:
    """A run that is killed leaves the records of all logged steps."""
    for step in (1, 2, 3):
        log_step(report, step)
        assert len(lines(tmp_path)) == step


def test_the_console_line_tells_losses_rate_and_speed(report: Report, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="umt_ds")
    log_step(report, 3)
    (line,) = caplog.messages
    for fact in (
        "step 3/100",
        "loss 0.5000 (uta 0.2500)",
        "lr 1.00e-03",
        "20.0 views/s",
        "data 25 %",
        "mfu 2 %",
        "draws",
        "bad",
        "GFLOP a view",
    ):
        assert fact in line


@pytest.mark.parametrize("norm", ["inf", "nan"])
def test_every_line_is_strict_json_even_when_a_gradient_overflowed(tmp_path: Path, report: Report, norm: str) -> None:
    """fp16 skips such a step and goes on. JSON knows no infinity; readers other than Python's would fail."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    log_step(report, 3, grad_norm=float(norm))
    record = json.loads(lines(tmp_path)[0], parse_constant=refuse)
    assert "grad_norm" not in record
    assert record["skipped_steps"] == 1


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    second = open_report(tmp_path, rank=1)
    log_step(second, 3)
    second.close()
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_started_again_counts_its_attempts(tmp_path: Path) -> None:
    for _ in range(3):
        opened = open_report(tmp_path)
        log_step(opened, 1)
        opened.close()
    assert [record["attempt"] for record in read_records(tmp_path / METRICS)] == [1, 2, 3]


def test_a_record_never_continues_the_half_line_of_a_killed_run(tmp_path: Path) -> None:
    first = open_report(tmp_path)
    log_step(first, 1)
    first.close()
    path = tmp_path / METRICS
    path.write_text(path.read_text() + '{"step": 2, "dr')
    again = open_report(tmp_path)
    log_step(again, 2)
    again.close()
    assert {step: record["attempt"] for step, record in read_metrics(tmp_path).items()} == {1: 1, 2: 2}


def test_tensorboard_gets_the_numbers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    opened = open_report(tmp_path, "report.tensorboard=true")
    log_step(opened, 3)
    opened.close()
    events = EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    assert {"loss", "uta", "lr", "grad_norm", "clips_per_s", "mfu_percent"} <= set(events.Tags()["scalars"])
    (loss,) = events.Scalars("loss")
    assert (loss.step, loss.value) == (3, 0.5)


def test_an_evaluation_is_a_record_of_its_own_kind_and_none_of_a_step(tmp_path: Path, report: Report) -> None:
    log_step(report, 2)
    report.scores(2, FOUND, seconds=1.25)
    assert json.loads(lines(tmp_path)[1]) == {
        "kind": "scores",
        "step": 2,
        "evaluation": "knn",
        "values": {"label": 0.5, "rankme": 23.0},
        "items": 97,
        "left_out": 1,
        "seconds": 1.25,
        "protocol": {"views": 1},
        "attempt": 1,
    }
    odd = OddLines()
    assert sorted(read_metrics(tmp_path, odd)) == [2]
    assert list(read_scores(tmp_path / METRICS, odd)) == [
        ScoresRecord(2, "knn", {"label": 0.5, "rankme": 23.0}, 97, 1, 1.25, {"views": 1}, attempt=1)
    ]
    assert odd.count == 0


def test_numbers_of_each_type_are_written_where_an_evaluation_tells_types_apart(tmp_path: Path, report: Report) -> None:
    report.scores(2, replace(FOUND, by_type={"color": {"items": 3, "accuracy": float("nan")}}), seconds=1.25)
    (found,) = read_scores(tmp_path / METRICS)
    assert found.by_type.keys() == {"color"}
    assert found.by_type["color"]["items"] == 3


def test_scores_go_to_tensorboard_under_the_name_of_their_evaluation(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    opened = open_report(tmp_path, "report.tensorboard=true")
    opened.scores(3, FOUND, seconds=1)
    opened.close()
    events = EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    assert {"eval/knn/label", "eval/knn/rankme"} <= set(events.Tags()["scalars"])
    (value,) = events.Scalars("eval/knn/rankme")
    assert (value.step, value.value) == (3, 23.0)


def test_scores_and_steps_go_to_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []

    class Wandb:
        def init(self, **settings: Any) -> Wandb:
            return self

        def log(self, numbers: dict[str, float], *, step: int) -> None:
            sent.append((step, numbers))

        def finish(self) -> None: ...

    monkeypatch.setitem(sys.modules, "wandb", Wandb())
    opened = open_report(tmp_path, "report.wandb=project")
    log_step(opened, 3)
    opened.scores(3, FOUND, seconds=1)
    opened.close()
    assert sent[0][0] == 3
    assert sent[0][1]["loss"] == 0.5
    assert sent[1] == (3, {"eval/knn/label": 0.5, "eval/knn/rankme": 23.0})


def test_an_attempt_that_only_evaluated_counts(tmp_path: Path) -> None:
    for _ in range(2):
        opened = open_report(tmp_path)
        opened.scores(0, FOUND, seconds=1)
        opened.close()
    assert [found.attempt for found in read_scores(tmp_path / METRICS)] == [1, 2]


def test_without_wandb_installed_a_run_goes_on_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    opened = open_report(tmp_path, "report.wandb=project")
    log_step(opened, 1)
    opened.close()
    assert "wandb is not installed" in caplog.text
    assert len(lines(tmp_path)) == 1


# ---------------------------------------------------------------- reading


def record(step: int, **more: Any) -> dict[str, Any]:
    return {"step": step, "digest": f"{step:016x}", "attempt": 1, **more}


def write(run: Path, *records: dict[str, Any], rest: str = "") -> None:
    (run / METRICS).write_text("".join(json.dumps(r) + "\n" for r in records) + rest)


def test_a_half_written_last_line_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path, record(1), record(2), rest='{"step": 3, "dig')
    assert list(read_records(tmp_path / METRICS)) == [record(1), record(2)]
    assert sorted(read_metrics(tmp_path)) == [1, 2]


ODD_LINES: dict[str, bytes] = {
    "half a record": b'{"step": 2, "dig',
    "null": b"null",
    "a number": b"7",
    "a list": b"[1, 2]",
    "text": b'"step"',
    "no UTF-8": b'{"step": 2, "digest": "\xff\xfe"}',
    "zeros of a disk that lost power": bytes(4096),
    "zeros before a record": bytes(100) + b'{"step": 2, "digest": "02"}',
    "UTF-16": '{"step": 2, "digest": "02"}'.encode("utf-16"),
    "nothing known in it": b"{}",
    "no step": b'{"digest": "02"}',
    "no digest": b'{"step": 2}',
    "a step that is text": b'{"step": "2", "digest": "02"}',
    "a step that is true": b'{"step": true, "digest": "02"}',
    "half a step": b'{"step": 2.5, "digest": "02"}',
    "a step below zero": b'{"step": -1, "digest": "02"}',
    "a step that is NaN": b'{"step": NaN, "digest": "02"}',
    "a step of forty digits": b'{"step": 1' + b"0" * 40 + b', "digest": "02"}',
    "a number of five thousand digits": b'{"step": 2, "digest": "02", "loss": 1' + b"0" * 5000 + b"}",
    "a loss that no float holds": b'{"step": 2, "digest": "02", "loss": 1' + b"0" * 400 + b"}",
    "a loss that is text": b'{"step": 2, "digest": "02", "loss": "low"}',
    "a loss that is null": b'{"step": 2, "digest": "02", "loss": null}',
    "a rate that is a list": b'{"step": 2, "digest": "02", "lr": [0.1]}',
    "a digest that is a number": b'{"step": 2, "digest": 2}',
    "a digest that no terminal takes": b'{"step": 2, "digest": "\\ud83d"}',
    "a digest that writes in red": b'{"step": 2, "digest": "\\u001b[31m"}',
    "a name that no page takes": b'{"step": 2, "digest": "02", "\\ud83d": 1}',
    "an attempt that is null": b'{"step": 2, "digest": "02", "attempt": null}',
    "draws that are text": b'{"step": 2, "digest": "02", "draws": "8"}',
    "two records": b'{"step": 2, "digest": "02"}{"step": 3, "digest": "03"}',
    "nested without end": b"[" * 100_000,
    "longer than any record": b'{"step": 2, "digest": "02"}' + b" " * (3 << 20),
}


@pytest.mark.parametrize("line", ODD_LINES.values(), ids=ODD_LINES.keys())
def test_a_line_that_is_no_record_costs_that_line_and_is_counted(tmp_path: Path, line: bytes) -> None:
    write(tmp_path, record(1))
    with (tmp_path / METRICS).open("ab") as out:
        out.write(b"\n \r\n" + line + b"\n" + json.dumps(record(9)).encode() + b"\r\n" + line)
    odd = OddLines()
    assert list(read_records(tmp_path / METRICS, odd)) == [record(1), record(9)]
    assert (odd.count, odd.first) == (2, 4), "blank lines hold nothing that is lost"
    assert odd.told(Path("F")) == "2 lines of F are no records, first at line 4: passed over"


GOOD_SCORES: dict[str, Any] = {
    "kind": "scores", "step": 4, "evaluation": "knn", "values": {"label": 0.5}, "items": 9, "left_out": 0,
}  # fmt: skip


def test_scores_may_lack_what_older_versions_did_not_write_and_hold_more_than_we_know(tmp_path: Path) -> None:
    write(tmp_path, {**GOOD_SCORES, "ema": True, "values": {"label": 1, "Größe": float("nan")}})
    (found,) = read_scores(tmp_path / METRICS)
    assert (found.step, found.evaluation, found.items, found.left_out, found.attempt) == (4, "knn", 9, 0, 1)
    assert found.values["label"] == 1.0
    assert str(found.values["Größe"]) == "nan"
    assert found.protocol == {}


@pytest.mark.parametrize(
    "odd_part",
    [
        {"step": -1}, {"step": "4"}, {"step": True}, {"evaluation": 3}, {"evaluation": "\x1b[31m"}, {"values": None},
        {"values": {"label": "high"}}, {"values": {"label": None}}, {"values": {"\ud83d": 1.0}}, {"values": [0.5]},
        {"items": 1.5}, {"left_out": -1}, {"left_out": None}, {"seconds": "1"}, {"protocol": []}, {"attempt": None},
        {"kind": "other"}, {"by_type": []}, {"by_type": {"color": 1.0}}, {"by_type": {"color": {"items": "3"}}},
    ],
    ids=str,
)  # fmt: skip
def test_scores_that_are_none_cost_their_line_and_are_counted(tmp_path: Path, odd_part: dict[str, Any]) -> None:
    write(tmp_path, GOOD_SCORES, {**GOOD_SCORES, **odd_part}, record(5))
    odd = OddLines()
    assert len(list(read_scores(tmp_path / METRICS, odd))) == 1
    assert (odd.count, odd.first) == (1, 2)
    assert [found["step"] for found in read_records(tmp_path / METRICS)] == [5]


def test_a_record_may_have_more_than_we_know_and_numbers_that_are_none(tmp_path: Path) -> None:
    """A later version says more; NaN is no JSON, but who wrote it meant that step."""
    made = record(1, ranks=[1, 2], host="a", none=None, loss=float("inf"))
    write(tmp_path, made, rest='{"step": 2, "digest": "02", "loss": NaN, "lr": 1}')
    first, second = read_records(tmp_path / METRICS)
    assert first == made
    assert (second["step"], second["attempt"], second["lr"]) == (2, 1, 1)
    assert second["loss"] != second["loss"]


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_one_error_and_nobody_waits_for_it(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / METRICS)
    with pytest.raises(MachineError, match=f"{METRICS} is no file"):
        open_report(tmp_path)


def test_a_run_starts_in_spite_of_odd_lines_and_says_how_many_there_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, record(1, attempt=4), rest='null\n{"step": 2, "attempt": "x"}')
    opened = open_report(tmp_path)
    log_step(opened, 2)
    opened.close()
    assert f"2 lines of {tmp_path / METRICS} are no records, first at line 2" in caplog.text
    assert {step: told["attempt"] for step, told in read_metrics(tmp_path).items()} == {1: 4, 2: 5}


def test_nothing_is_said_of_a_file_without_odd_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, record(1))
    open_report(tmp_path).close()
    assert caplog.text == ""


def test_a_full_disk_is_one_error_that_names_the_file(tmp_path: Path, report: Report) -> None:
    class Full:
        name = str(tmp_path / METRICS)

        def write(self, text: str) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        close = flush = write

    whole, report._file = report._file, Full()  # type: ignore[assignment]
    with pytest.raises(MachineError, match=f"{METRICS} cannot be written: No space left on device"):
        log_step(report, 2)
    report._file = whole


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_a_log_that_is_no_file_is_one_error(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "log.txt")
    with pytest.raises(MachineError, match=r"log\.txt is no file"):
        start_logging(tmp_path, World.alone())


def test_of_a_step_that_ran_twice_the_later_record_counts(tmp_path: Path) -> None:
    write(tmp_path, record(1, loss=1.0), record(2, loss=2.0), record(2, loss=2.5, attempt=2), record(3, attempt=2))
    metrics = read_metrics(tmp_path)
    assert sorted(metrics) == [1, 2, 3]
    assert metrics[2] == record(2, loss=2.5, attempt=2)
    assert len(list(read_records(tmp_path / METRICS))) == 4, "both are still there for who compares them"


def test_a_run_without_metrics_has_none(tmp_path: Path) -> None:
    assert list(read_records(tmp_path / METRICS)) == []
    assert read_metrics(tmp_path) == {}

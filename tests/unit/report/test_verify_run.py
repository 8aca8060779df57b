"""`umt verify-run`: what it calls equal, which difference it names first, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from umt_ds.cli import umt
from umt_ds.cli.verify_run import command
from umt_ds.errors import ConfigError
from umt_ds.report.compare_runs import compare_runs

NO_CHECKPOINTS = "weights, moments and averages are not compared: there is no step of which both have a checkpoint\n"


def records(steps: int = 4, **changes: dict[int, Any]) -> list[dict[str, Any]]:
    """The records of a run; `loss={3: 0.5}` changes that field in step 3."""
    made = []
    for step in range(1, steps + 1):
        record = {
            "step": step, "draws": 8 * step, "loss": 2.0 - 0.1 * step, "lr": 1e-3, "grad_norm": 0.5,
            "digest": f"{step:016x}", "digest_total": f"{step * 7:016x}", "mask_digest_total": f"{step * 9:016x}",
        }  # fmt: skip
        made.append(record | {name: by_step[step] for name, by_step in changes.items() if step in by_step})
    return made


def write(folder: Path, rows: list[dict[str, Any]]) -> str:
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def verify(folder: Path, one: list[dict[str, Any]], other: list[dict[str, Any]], *options: str) -> tuple[int, str]:
    """Exit code and output of comparing two runs with these records."""
    done = CliRunner().invoke(command, [write(folder / "a", one), write(folder / "b", other), *options])
    return done.exit_code, done.output


def test_runs_with_equal_records_are_equal_bit_for_bit(tmp_path: Path) -> None:
    assert verify(tmp_path, records(), records(), "--rtol", "0") == (
        0,
        "4 of 4 common steps agree: 4 bit for bit, 0 within rtol 0\n" + NO_CHECKPOINTS,
    )


def test_losses_may_differ_by_rounding_and_it_says_by_how_much(tmp_path: Path) -> None:
    rounded = records(loss={2: 1.8 * (1 + 8e-6)}, grad_norm={4: 0.5 * (1 - 3e-6)})
    code, said = verify(tmp_path, records(), rounded)
    assert (code, said) == (
        0,
        "4 of 4 common steps agree: 2 bit for bit, 2 within rtol 1e-05 (losses and norms differ by at most 8e-06)\n"
        + NO_CHECKPOINTS,
    )


def test_rtol_0_asks_for_equal_bits(tmp_path: Path) -> None:
    code, said = verify(tmp_path, records(), records(loss={3: 1.7 * (1 + 1e-9)}), "--rtol", "0")
    assert code == 1
    assert "first difference: step 3, loss" in said


@pytest.mark.parametrize(
    ("changes", "meaning"),
    [
        ({"digest": {3: "f" * 16}, "digest_total": {3: "f" * 16}, "loss": {3: 9.0}}, "other clips or other frames"),
        ({"digest_total": {3: "f" * 16}}, "in an earlier step"),
        ({"mask_digest_total": {3: "f" * 16}, "loss": {3: 9.0}, "grad_norm": {3: 9.0}}, "other masks"),
        ({"lr": {3: 1.0000001e-3}, "loss": {4: 9.0}}, "another learning rate"),
        ({"loss": {3: 9.0}, "grad_norm": {3: 9.0}}, "but other numbers"),
        ({"grad_norm": {3: 9.0}}, "other gradients"),
        ({"draws": {3: 25}}, "batch.global"),
    ],
)
def test_the_first_difference_is_named_with_its_cause(
    changes: dict[str, dict[int, Any]], meaning: str, tmp_path: Path
) -> None:
    code, said = verify(tmp_path, records(), records(**changes))
    name = next(iter(changes))
    assert code == 1
    assert f"first difference: step 3, {name}: {records()[2][name]} in A, {changes[name][3]} in B\n" in said
    assert meaning in said


def test_of_a_step_that_ran_twice_the_later_attempt_counts(tmp_path: Path) -> None:
    other = records(loss={3: 9.0, 4: 9.0}) + records()[2:]
    assert verify(tmp_path, records(), other)[0] == 0


def test_steps_that_only_one_run_logged_are_told_and_not_compared(tmp_path: Path) -> None:
    code, said = verify(tmp_path, records(4), records(6)[1:])
    assert code == 0
    assert "3 of 3 common steps agree" in said
    assert "only one of them logged: 1 in A, 2 in B" in said


def test_a_norm_that_one_run_lacks_is_a_difference(tmp_path: Path) -> None:
    skipped = records()
    del skipped[1]["grad_norm"]  # as the report does where it is infinite
    code, said = verify(tmp_path, records(), skipped)
    assert code == 1
    assert "step 2, grad_norm: 0.5 in A, None in B" in said


def test_json_says_the_same(tmp_path: Path) -> None:
    code, said = verify(tmp_path, records(), records(loss={3: 9.0}), "--json")
    found = json.loads(said)
    assert code == 1
    assert (found["common_steps"], found["bit_equal"], found["different"]) == (4, 3, 1)
    assert found["first_difference"] == {
        "step": 3, "field": "loss", "a": records()[2]["loss"], "b": 9.0,
        "meaning": "same clips, masks and learning rate, but other numbers",
    }  # fmt: skip


def test_a_run_agrees_with_itself_whatever_it_logged(tmp_path: Path) -> None:
    odd = records(
        loss={1: float("nan"), 2: float("inf"), 3: 10**300}, grad_norm={1: float("nan")}, lr={3: float("nan")}
    )
    del odd[3]["loss"], odd[3]["lr"], odd[3]["digest_total"]
    assert verify(tmp_path, odd, odd, "--rtol", "0") == (
        0,
        "4 of 4 common steps agree: 4 bit for bit, 0 within rtol 0\n" + NO_CHECKPOINTS,
    )


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
def test_a_number_that_is_none_in_one_run_only_is_a_difference_and_the_json_is_strict(
    tmp_path: Path, number: str
) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    code, said = verify(tmp_path, records(), records(loss={3: float(number)}), "--json")
    found = json.loads(said, parse_constant=refuse)
    assert code == 1
    assert (found["first_difference"]["field"], found["first_difference"]["b"]) == ("loss", number)
    assert found["largest_relative_difference"] == 0


def test_lines_that_are_no_records_are_counted_and_the_rest_is_compared(tmp_path: Path) -> None:
    one, other = write(tmp_path / "a", records()), write(tmp_path / "b", records())
    with Path(one, "metrics.jsonl").open("ab") as out:
        out.write(b'null\n\0\0\0\n{"step": 5, "digest')
    done = CliRunner().invoke(command, [one, other])
    assert (done.exit_code, done.output.splitlines()[0]) == (
        0,
        "4 of 4 common steps agree: 4 bit for bit, 0 within rtol 1e-05",
    )
    assert f"3 lines of {one}/metrics.jsonl are no records, first at line 5" in done.output
    told = json.loads(CliRunner().invoke(command, [one, other, "--json"]).output)["passed_over"]
    assert len(told) == 1
    assert one in told[0]


def test_where_no_line_is_a_record_there_is_nothing_to_compare_and_it_says_why(tmp_path: Path) -> None:
    run = write(tmp_path / "a", [])
    Path(run, "metrics.jsonl").write_bytes(bytes(9000))
    with pytest.raises(ConfigError, match=r"nothing to compare.*1 line of .* is no record"):
        CliRunner().invoke(command, [run, run], standalone_mode=False, catch_exceptions=False)


def test_without_a_common_step_there_is_nothing_to_compare_and_the_exit_code_is_2(tmp_path: Path) -> None:
    words = ["verify-run", write(tmp_path / "a", records(4)), write(tmp_path / "b", records(6)[4:])]
    with pytest.raises(ConfigError, match=r"nothing to compare: .* 4 steps .* 2, none") as raised:
        CliRunner().invoke(umt, words, standalone_mode=False, catch_exceptions=False)
    assert raised.value.exit_code == 2


def test_a_folder_without_metrics_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no run folder"):
        CliRunner().invoke(command, [str(tmp_path), str(tmp_path)], standalone_mode=False, catch_exceptions=False)
    with pytest.raises(ConfigError, match=f"there is no folder {tmp_path}/nope"):
        compare_runs(tmp_path / "nope", tmp_path, rtol=0)


@pytest.mark.parametrize("rtol", ["nan", "inf", "-1", "2"])
def test_a_tolerance_that_tells_nothing_apart_is_refused(tmp_path: Path, rtol: str) -> None:
    code, said = verify(tmp_path, records(), records(), "--rtol", rtol, "--json")
    assert code == 2
    assert "--rtol" in said

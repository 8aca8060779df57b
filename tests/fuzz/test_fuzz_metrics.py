"""Whatever RUN/metrics.jsonl holds: records of the promised types, in order, and a count of the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umt_ds.engine.metrics_file import METRICS, OddLines, is_number, read_metrics, read_records, read_scores
from umt_ds.errors import UmtError
from umt_ds.report.compare_runs import compare_runs
from umt_ds.report.history import read_history

NAMES = [
    "step", "digest", "attempt", "loss", "lr", "draws", "grad_norm", "digest_total", "uta", "kind", "evaluation",
    "values", "items", "left_out", "protocol", "seconds",
]  # fmt: skip
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
)
true_records = st.fixed_dictionaries(
    {"step": st.integers(0, 99), "digest": st.sampled_from(["0a", "0b"]), "attempt": st.integers(1, 3)},
    optional={"loss": st.floats(), "lr": st.floats(), "draws": st.integers(0, 999), "uta": st.floats(width=32)},
)
true_scores = st.fixed_dictionaries(
    {
        "kind": st.just("scores"),
        "step": st.integers(0, 99),
        "evaluation": st.sampled_from(["knn", "retrieval"]),
        "values": st.dictionaries(st.sampled_from(["label", "rankme"]), st.floats()),
        "items": st.integers(0, 99),
        "left_out": st.integers(0, 9),
    },
    optional={"protocol": st.just({"views": [1]}), "attempt": st.integers(1, 3), "seconds": st.floats()},
)
objects = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), values, max_size=9)
odd_objects = st.builds(lambda record, more: {**record, **more}, true_records | true_scores, objects)
lines = (
    st.one_of(true_records, true_scores, odd_objects, values).map(lambda value: json.dumps(value).encode())
    | st.binary()
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


def read(run: Path, content: bytes) -> tuple[list[dict[str, Any]], OddLines]:
    (run / METRICS).write_bytes(content)
    odd = OddLines()
    return list(read_records(run / METRICS, odd)), odd


@given(content=st.lists(lines, max_size=6).map(b"\n".join))
def test_every_record_has_the_promised_types_and_every_other_line_is_counted(run: Path, content: bytes) -> None:
    records, odd = read(run, content)
    scores = list(read_scores(run / METRICS))
    assert len(records) + len(scores) + odd.count == sum(bool(line.strip()) for line in content.split(b"\n"))
    for found in scores:
        assert all(type(n) is int and n >= 0 for n in (found.step, found.items, found.left_out, found.attempt))
        assert all(type(value) is float for value in found.values.values())
        assert isinstance(found.protocol, dict)
        "".join([found.evaluation, *found.values]).encode()
    assert (odd.first > 0) == (odd.count > 0)
    for record in records:
        assert all(type(record[name]) is int and record[name] >= 0 for name in ("step", "attempt"))
        assert all(type(record.get(name, 0)) is int for name in ("draws", "bad_samples", "skipped_steps"))
        assert all(is_number(record.get(name, 0.0)) for name in ("loss", "lr", "grad_norm", "epoch"))
        assert all(isinstance(record.get(name, ""), str) for name in ("digest", "digest_total"))
        "".join(record).encode()


@given(records=st.lists(true_records, max_size=4), garbage=st.binary(max_size=80) | lines)
def test_what_is_appended_never_changes_the_records_before_it(
    run: Path, records: list[dict[str, Any]], garbage: bytes
) -> None:
    whole = "".join(json.dumps(record) + "\n" for record in records).encode()
    alone, odd = read(run, whole)
    assert json.dumps(alone) == json.dumps(records)
    assert odd.count == 0
    together, _ = read(run, whole + garbage)
    assert json.dumps(together[: len(records)]) == json.dumps(records)


@given(content=st.lists(lines, max_size=5).map(b"\n".join))
def test_a_run_equals_itself_and_its_history_can_be_told(run: Path, content: bytes) -> None:
    (run / METRICS).write_bytes(content)
    if not read_metrics(run):
        for look in (read_history, lambda run: compare_runs(run, run, rtol=0)):
            with pytest.raises(UmtError, match=r"nothing to compare|has not logged a step"):
                look(run)
        return
    comparison = compare_runs(run, run, rtol=0)
    assert comparison.bit_equal == comparison.common_steps == len(read_metrics(run))
    comparison.text().encode()
    history = read_history(run)
    str(history.rerun).encode()
    assert len(history.steps()) == comparison.common_steps
    assert all(isinstance(value, float) for name in history.loss_names for value in history.values(name))

"""Whatever RUN/checkpoints/BEST holds: which checkpoint is the best, or one error."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umt_ds.engine.best import BEST, read_best
from umt_ds.errors import CheckpointError

values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just([[]])
fields = ["step", "metric", "value", "items", "left_out", "protocol"]
true_ones = st.fixed_dictionaries(
    {
        "step": st.integers(1, 99),
        "metric": st.just("knn/label"),
        "value": st.floats(allow_nan=False, allow_infinity=False),
        "items": st.integers(0, 99),
        "left_out": st.integers(0, 9),
        "protocol": st.just("a"),
    }
)
objects = st.dictionaries(st.sampled_from(fields) | st.text(max_size=3), values, max_size=6)
odd_ones = st.builds(lambda one, more: {**one, **more}, true_ones, objects) | objects | values
contents = odd_ones.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=40)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "checkpoints").mkdir()
    return folder


@given(content=contents)
def test_anything_is_a_best_or_one_error(run: Path, content: bytes) -> None:
    (run / "checkpoints" / BEST).write_bytes(content)
    try:
        best = read_best(run)
    except CheckpointError:
        return
    assert best is not None
    assert all(type(count) is int and count >= 0 for count in (best.step, best.items, best.left_out))
    assert math.isfinite(best.value)
    assert best.checkpoint.startswith("step-")


@given(one=true_ones)
def test_what_was_written_is_read(run: Path, one: dict[str, object]) -> None:
    (run / "checkpoints" / BEST).write_text(json.dumps(one))
    assert vars(read_best(run)) == one

"""Whatever a file for `umt report --scores` holds: scores that a page can show, or one error."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umt_ds.errors import DataError
from umt_ds.report.evaluated import read_evaluated

scalars = st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(max_size=5)
values = scalars | st.lists(scalars, max_size=2) | st.dictionaries(st.text(max_size=3), scalars, max_size=2)
evaluations = st.fixed_dictionaries(
    {
        "evaluation": st.just("test") | values,
        "values": st.dictionaries(st.sampled_from(["top1", "top5"]), values, max_size=2) | values,
        "protocol": st.just({"frames": 8}) | values,
    },
    optional={"items": values, "left_out": values},
)
runs = st.fixed_dictionaries(
    {
        "weights": st.sampled_from(["runs/a", "~", "~nobody/x", "a\0b", ""]) | values,
        "evaluations": st.lists(evaluations | values, max_size=2) | values,
    },
    optional={"step": values},
)
files = st.fixed_dictionaries({"format": st.just(1) | values, "runs": st.lists(runs | values, max_size=2) | values})
contents = (files | values).map(lambda value: json.dumps(value).encode()) | st.binary(max_size=40)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scores") / "scores.json"


@given(content=contents)
def test_anything_is_scores_or_one_error(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    try:
        found = read_evaluated(file)
    except DataError:
        return
    for one in found:
        assert one.where.is_absolute()
        assert all(math.isfinite(value) for value in one.values.values())
        assert one.step is None or (type(one.step) is int and one.step >= 0)
        assert type(one.items) is int
        assert one.items >= 0

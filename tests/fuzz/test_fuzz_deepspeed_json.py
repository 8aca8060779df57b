"""The DeepSpeed JSON: whatever a file holds, it is one ConfigError or settings that DeepSpeed would be given."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.test_fuzz_run_yaml import is_clear
from umt_ds.config.deepspeed_json import load_deepspeed_json, precision_of, zero_stage_of
from umt_ds.config.deepspeed_keys import NOT_HONOURED, OWNED_BY_RUN, DeepSpeedSettings
from umt_ds.config.key_paths import flatten
from umt_ds.config.running import EngineConfig
from umt_ds.errors import ConfigError

HONOURED = ["zero_optimization", "bf16", "fp16", "data_types", "aio", "communication_data_type", "enabled", "stage",
            "loss_scale", "reduce_bucket_size", "offload_param", "device", "grad_accum_dtype", "leaf_module",
            "classes"]  # fmt: skip
names = st.sampled_from([*HONOURED, *NOT_HONOURED, *OWNED_BY_RUN, *(key.rpartition(".")[2] for key in NOT_HONOURED)])
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from([0, 1, 3, 5e8, "auto", "bf16", "cpu", "2"])
    | st.text()
)
trees = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | st.text(), inner, max_size=4),
    max_leaves=10,
)


def settings_of(data: bytes) -> dict[str, Any] | None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mine.json"
        path.write_bytes(data)
        try:
            settings = load_deepspeed_json(EngineConfig(deepspeed=str(path)))
        except ConfigError as error:
            is_clear(error)
            return None
    DeepSpeedSettings.model_validate(settings)
    assert not {*settings} & ({*OWNED_BY_RUN} | {*NOT_HONOURED})
    assert 0 <= zero_stage_of(settings) <= 3
    assert precision_of(settings) in ("fp32", "bf16", "fp16")
    assert not any(value == "auto" or value is None for value in flatten(settings).values())
    assert all(math.isfinite(value) for value in flatten(settings).values() if isinstance(value, float))
    return settings


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_settings_or_one_error(data: bytes) -> None:
    settings_of(data)


@given(trees)
def test_any_json_is_settings_or_one_error(tree: Any) -> None:
    settings_of(json.dumps(tree).encode())


@given(st.dictionaries(st.sampled_from(["zero_optimization", "bf16", "fp16", "data_types"]), trees, max_size=3))
def test_settings_that_are_written_down_are_the_same_settings(tree: dict[str, Any]) -> None:
    settings = settings_of(json.dumps(tree).encode())
    if settings is not None:
        assert settings_of(json.dumps(settings).encode()) == settings

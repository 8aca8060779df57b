"""Overrides: whatever is typed after a run's name is one ConfigError or a run, and what is printed is that run."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.test_fuzz_run_yaml import KEYS, is_clear, words
from umt_ds.config.key_paths import flatten
from umt_ds.config.load import load_run
from umt_ds.config.run import RunConfig
from umt_ds.config.show import as_tree, as_yaml
from umt_ds.errors import ConfigError

BASES = st.sampled_from(["demo/stage1", "demo/stage2"])
keys = st.sampled_from(
    [*KEYS, "task", "data.sources", "batch", "extends", "name.x", "engine.deepspeed_set.bf16.enabled"]
)


def loaded(base: str, *overrides: str) -> RunConfig | None:
    try:
        return load_run(base, overrides)
    except ConfigError as error:
        is_clear(error)
        return None


@given(base=BASES, key=keys, value=words, more=st.lists(st.tuples(keys, words), max_size=2))
def test_what_is_typed_is_a_run_or_one_error_and_is_printed_as_itself(
    base: str, key: str, value: str, more: list[tuple[str, str]]
) -> None:
    config = loaded(base, f"{key}={value}", *(f"{k}={v}" for k, v in more))
    if config is not None:
        with tempfile.TemporaryDirectory() as folder:
            printed = Path(folder) / "run.yaml"
            printed.write_text(as_yaml(as_tree(config)), encoding="utf-8")
            assert load_run(str(printed)) == config


@given(base=BASES, text=st.text(max_size=30))
def test_any_word_is_a_run_or_one_error(base: str, text: str) -> None:
    loaded(base, text)
    loaded(text)


@given(
    key=st.sampled_from(KEYS), value=words.filter(lambda text: text.strip() and "\0" not in text and "$" not in text)
)
def test_a_variable_means_what_its_value_means(key: str, value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        return  # a surrogate: the environment cannot hold it
    with patch.dict(os.environ, {"UMT_FUZZ": value}):
        typed, filled = loaded("demo/stage2", f"{key}={value}"), loaded("demo/stage2", f"{key}=${{env:UMT_FUZZ}}")
    assert (typed and flatten(as_tree(typed))) == (filled and flatten(as_tree(filled)))

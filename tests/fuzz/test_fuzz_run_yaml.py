"""Run YAMLs: whatever a file holds, it is one ConfigError or a run, and a run that is written down is the same run."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from umt_ds.config.key_paths import flatten
from umt_ds.config.load import load_run
from umt_ds.config.show import as_tree, as_yaml
from umt_ds.config.yaml_text import dump_yaml, parse_yaml
from umt_ds.errors import ConfigError

TRICKY = (
    "0100", "010", "08", "0o10", "0x10", "1:30", "1_000", "1e3", "12e03", "1e-4", ".5", ".inf", ".nan", "yes", "on",
    "true", "null",
    "~", "", "2024-01-01", "=", "<<", "#1", "a #b", "a: b", "- a", "*a", "&a", "!a", "!!int 3", "[", "]", "{", "[1, 2]",
    "{a: 1}", "'", '"', "${env:HOME}", "${env:NOT_THERE}", "$HOME/x", "~/x", "~nobody/x", "s3://a/b", "pipe:cat x",
    "é", "\u2028",
    "\ufeff", "\x00", "\t", "random", "stage2", "9" * 30, "-1",
)  # fmt: skip
words = st.sampled_from(TRICKY) | st.text(max_size=8)
KEYS = sorted({key for name in ("demo/stage1", "demo/stage2") for key in flatten(as_tree(load_run(name)))})
plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | words
trees = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=8
)


def is_clear(error: ConfigError) -> None:
    """One line, in the user's words."""
    assert "\n" not in error.what
    assert not any(word in str(error) for word in ("lax-or-strict", "[key]", "function-", "tuple["))


def outcome(data: bytes) -> None:
    """The law: a clear error, or a run that is the same when what it resolved to is read again."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.yaml"
        path.write_bytes(data)
        try:
            config = load_run(str(path))
        except ConfigError as error:
            is_clear(error)
            return
        written = as_yaml(as_tree(config))
        path.write_text(written, encoding="utf-8")
        assert load_run(str(path)) == config
        assert as_yaml(yaml.safe_load(written)) == written, "a reader of YAML 1.1 takes it for the same"


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_a_run_or_one_error(data: bytes) -> None:
    outcome(data)
    outcome(b"extends: [demo/stage1]\n" + data)


@given(key=st.sampled_from(KEYS), text=words, base=st.sampled_from(["demo/stage1", "demo/stage2"]))
def test_any_text_at_any_key_is_a_run_or_one_error(key: str, text: str, base: str) -> None:
    *sections, leaf = key.split(".")
    lines = [f"{'  ' * depth}{section}:" for depth, section in enumerate(sections)]
    lines.append(f"{'  ' * len(sections)}{leaf}: {text}")
    outcome("\n".join([f"extends: [{base}]", *lines]).encode("utf-8", "surrogatepass"))


@given(key=st.sampled_from(KEYS), tree=trees)
def test_any_value_at_any_key_is_a_run_or_one_error(key: str, tree: Any) -> None:
    for part in reversed(key.split(".")):
        tree = {part: tree}
    outcome(dump_yaml({"extends": ["demo/stage2"], **tree}).encode("utf-8", "surrogatepass"))


@given(trees)
def test_what_is_written_is_read_back_the_same(tree: Any) -> None:
    assert parse_yaml(dump_yaml(tree), where="x") == tree


@given(st.text(alphabet="[]{}:,-?*&!|>'\"%@#\n\t ab01.~", max_size=40))
def test_any_punctuation_is_a_value_or_one_error(text: str) -> None:
    try:
        value = parse_yaml(text, where="x")
    except ConfigError:
        return
    assert parse_yaml(dump_yaml(value), where="x") == value

"""YAML means what its reader thinks: 1.2's rules, one line with file, line and text for what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from umt_ds.config.yaml_text import dump_yaml, parse_yaml, read_text, scalar, typed
from umt_ds.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0100", 100), ("010", 10), ("08", 8), ("+3", 3), ("-0", 0), ("1e-4", 1e-4), ("12e03", 12000.0),
        ("1.5E3", 1500.0),
        (".5", 0.5), ("5.", 5.0), ("1e4", 1e4), ("true", True), ("FALSE", False), ("null", None), ("~", None),
        ("", None),
        (".inf", float("inf")), ("-.INF", float("-inf")),
        *((text, text) for text in ("0o10", "0x10", "1:30", "1:30.5", "1_000", "yes", "no", "on", "off", "y", "tRUE",
          "2024-01-01", "2024-01-01 10:00:00", "=", "1e", ".", "e5", "inf", "nan", "1 000", "9" * 5000, "٣")),
    ],
)  # fmt: skip
def test_plain_text_is_a_decimal_number_a_truth_null_or_text(text: str, value: object) -> None:
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)
    assert text == "" or parse_yaml(f"k: {text}", where="x") == {"k": value}
    assert parse_yaml(f"k: '{text}'", where="x") == {"k": text}, "in quotes it is text"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: {b: 1, b: 2}", "'b' is given twice"),
        ("a: 1\nb:\n  c: 1\n  c: 2\n", "line 4: `c: 2`: 'c' is given twice"),
        ("a:\n  400: 1\n  on: 2\n", "line 2: `400: 1`: a.400 and a.on: names must be strings, quote them"),
        ("2024-01-01: 1", "2024-01-01: names must be strings"),
        ("[1]: 2", "names must be strings"),
        ("? {a: b}\n: 2", "names must be strings"),
        ("<<: {a: b}", "merge keys"),
        ("a: !!python/object/apply:os.system [ls]", "no tags"),
        ("a: !!int 3", "no tags"),
        ("a: ! 3", "no tags"),
        ("a: &x [*x]", "contains itself"),
        ("a: &x {b: *x}", "contains itself"),
        ("a: *nobody", "undefined alias"),
        ("a: 1\n---\na: 2\n", "single document"),
        ("a:\n\tb: 1\n", "indent with spaces"),
        ("a: [1", "line 1|expected"),
        ("a: b: c", "not allowed here"),
        ("[" * 3000, "nested too deeply"),
        ("{a: " * 3000, "nested too deeply"),
        ("a: \0", "U\\+0000"),
        ("a: \x07", "U\\+0007"),
        ('a: "\\UFFFFFFFF"', "not valid YAML"),
        ('a: "\\uD800"', "surrogate"),
        ('"\\uD800": a', "names must be strings"),
    ],
    ids=lambda text: text[:25],
)  # fmt: skip
def test_what_is_wrong_is_one_line_that_quotes_the_text(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        parse_yaml(text, where="run.yaml")
    assert raised.value.what.startswith("run.yaml")
    assert "\n" not in raised.value.what


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("seed: !!int 5", "line 1: `seed: !!int 5`"),
        ("a: 1\nseed:5\n", "line 2: `seed:5`"),
        ("a: 1\nseed:5\nb: 2\n", "line 2: `seed:5`"),
        ("a: 1\nb: 'x\nc: 3\nd: 4\n", "line 2: `b: 'x`"),
        ("a: 1\nb: [1,\nc: 3", "line 2: `b: [1,`"),
        ("a: 1\nb: {\n", "line 2: `b: {`"),
        ("a: 1\nb: [1, 2\n", "line 2: `b: [1, 2`"),
        ("a: 1\nb\n", "line 2: `b`"),
    ],
)
def test_the_line_is_the_one_to_mend_also_where_it_is_noticed_only_at_the_end(text: str, line: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_yaml(text, where="run.yaml")
    assert raised.value.what.startswith(f"run.yaml, {line}: ")


def test_an_override_is_quoted_once() -> None:
    with pytest.raises(ConfigError) as raised:
        typed("[1", where="override 'data.skip_draws=[1'")
    assert raised.value.what.count("[1") == 1


def test_aliases_stand_for_their_value_and_cannot_stand_for_billions() -> None:
    assert parse_yaml("a: &x [1, 2]\nb: *x", where="x") == {"a": [1, 2], "b": [1, 2]}
    lines = ["a0: &a0 [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    with pytest.raises(ConfigError, match="more than 200000 values"):
        parse_yaml("\n".join(lines), where="x")


def test_the_habits_of_a_cluster_can_be_read_as_they_are_written() -> None:
    assert parse_yaml("a: 010\nb: [on, null]", where="x", as_text=True) == {"a": "010", "b": ["on", None]}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("/data/#1", "/data/#1"), ("/data #1", "/data #1"), ("#1", "#1"), ("a: b", "a: b"), ("*.tar", "*.tar"),
        ("!x", "!x"), ("- x", "- x"), ("%d", "%d"), ("[1, 2]", [1, 2]), ("{a: 010}", {"a": 10}), ('"08"', "08"),
        ("'a #b'", "a #b"), (" 3 ", 3),
    ],
)  # fmt: skip
def test_what_is_typed_in_a_shell_is_taken_whole_unless_it_begins_like_yaml(text: str, value: object) -> None:
    assert typed(text, where="override") == value


# ---------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("name: caf\u00e9".encode("latin-1"), r"run\.yaml is not UTF-8 \(line 1\)\n  hint: .*LATIN1"),
        ("a: 1\nb: \u00e9".encode("latin-1"), r"not UTF-8 \(line 2\)"),
        ("name: x".encode("utf-16"), r"not UTF-8 \(line 1\)\n  hint: .*UTF-16"),
        (b"\xed\xa0\x80", "not UTF-8"),
        (b"x" * 2_000_001, "no file of settings"),
    ],
    ids=["latin-1", "latin-1 on line 2", "utf-16", "surrogate", "huge"],
)
def test_a_file_that_is_no_utf_8_is_refused_by_name_and_line(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "run.yaml").write_bytes(data)
    with pytest.raises(ConfigError, match=said):
        read_text(tmp_path / "run.yaml")


def test_a_byte_order_mark_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes(b"\xef\xbb\xbfname: x\n")
    assert parse_yaml(read_text(tmp_path / "run.yaml"), where="run.yaml") == {"name": "x"}


@pytest.mark.parametrize("name", ["folder", "nothing", "n" * 300, "zero\0byte", "file/below"])
def test_what_is_no_readable_file_is_one_error_by_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=name[:10].partition("\0")[0]):
        read_text(tmp_path / name)


# ---------------------------------------------------------------- writing


@pytest.mark.parametrize(
    "text",
    ["08", "0100", "1e5", "12e03", ".5", "5.", "on", "yes", "1:30", "2024-01-01", "0o10", "0x1F", "1_000", "=", "<<",
    "null",
     "~", "", " x ", "a\nb", "# x", "a: b", "- x", "\u2028", "\ufeff", "é", "'", '"', "true", ".inf", "!x", "*x",
     "&x", "%"],
)  # fmt: skip
def test_text_that_is_written_is_read_back_by_readers_of_either_version(text: str) -> None:
    written = dump_yaml({"value": text, text: [1e-5, 100, 1e16, None, True]})
    for read in (parse_yaml(written, where="x"), yaml.safe_load(written)):
        assert read == {"value": text, text: [1e-5, 100, 1e16, None, True]}

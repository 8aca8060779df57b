"""Each example of a help text and of the pages is a command that there is, with options that it has."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from data_prep.cli import umt_data
from tests.support.paths import REPO

PAGES = ("data_prep/README.md", "README.md")


def examples_in(text: str) -> Iterator[str]:
    """The lines that begin with `umt-data`, with those that a backslash joins to them; `;` parts two commands."""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        for command in line.split(";"):
            if command.strip().startswith("umt-data "):
                yield re.sub(r"\s+(#|>) .*", "", command.strip())


def of_help() -> list[str]:
    texts = (command.help or "" for command in (umt_data, *umt_data.commands.values()))
    return [example for text in texts for example in examples_in(text)]


def of_pages() -> list[str]:
    lines = [line for page in PAGES for line in examples_in((REPO / page).read_text())]
    return [line for line in lines if "…" not in line]


def parsed(example: str) -> click.Context:
    """The context of a command, of which all files and folders are there that its parameters want to find."""
    name, *words = shlex.split(example.replace("~/", "home/"))[1:]
    command = umt_data.commands[name]
    assert isinstance(command, click.Command)
    with command.make_context(name, list(words), resilient_parsing=True) as context:
        given, _, _ = command.make_parser(context).parse_args(list(words))
    for parameter in command.params:
        values = given.get(str(parameter.name))
        several = isinstance(values, list) or parameter.nargs == -1
        for value in values if several else [values]:
            make(parameter.type, value)
    return command.make_context(name, list(words))


def make(kind: click.ParamType, value: object) -> None:
    """What a parameter of this type has to find."""
    if isinstance(kind, click.Tuple) and isinstance(value, (tuple, list)):
        for each, one in zip(kind.types, value, strict=True):
            make(each, one)
    if not isinstance(value, str) or kind.name not in ("file", "folder", "path", "directory"):
        return
    path = Path(value)
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind.name == "file" or path.suffix:
        path.touch()
    else:
        path.mkdir(parents=True, exist_ok=True)


@pytest.mark.parametrize("example", [*dict.fromkeys([*of_help(), *of_pages()])])
def test_an_example_is_understood(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "s3://" in example:
        pytest.skip("the address would be looked up")
    monkeypatch.chdir(tmp_path)
    assert parsed(example).params


def test_the_search_finds_examples_and_a_wrong_one_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {example.split()[1] for example in of_help()} == set(umt_data.commands)
    assert len(of_pages()) > 15
    monkeypatch.chdir(tmp_path)
    with pytest.raises(click.NoSuchOption):
        parsed("umt-data index tars --no-such-thing")

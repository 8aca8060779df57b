"""Each example of a help text and of the pages is a command that there is, with options that it has."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from data_prep.cli import umt_data
from data_prep.protocols.known import PROTOCOLS
from tests.support.files import touch
from tests.support.paths import REPO
from tests.support.shards import write_shards
from tests.support.umt_data import Umt

PAGES = (
    "data_prep/README.md",
    "data_prep/CORPORA.md",
    "README.md",
    "MIGRATING.md",
    "umt_ds/tasks/README.md",
    "umt_ds/configs/README.md",
)


def examples_in(text: str) -> Iterator[str]:
    """The lines that begin with `umt-data`, with those that a backslash joins to them; `;` parts two commands."""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        for command in line.split(";"):
            if command.strip().startswith("umt-data "):
                yield re.sub(r"\s+((#|>) |\().*", "", command.strip())


def of_help() -> list[str]:
    texts = (command.help or "" for command in (umt_data, *umt_data.commands.values()))
    return [example for text in texts for example in examples_in(text)]


def of_pages() -> list[str]:
    lines = [line for page in PAGES for line in examples_in((REPO / page).read_text())]
    # the body of a function of a script is tried where it is called (`of_scripts`)
    return [line for line in lines if "…" not in line and "${@" not in line]


def of_scripts() -> list[str]:
    """The commands of the page of corpora, of whose loops and functions bash makes them."""
    code = "".join(re.findall(r"^```(?:sh|bash)\n(.*?)^```", (REPO / PAGES[1]).read_text(), re.MULTILINE | re.DOTALL))
    told = 'umt-data() { printf umt-data; printf " %q" "$@"; echo; }; umt() { :; }\n'
    home = {"HOME": "home", "PATH": os.defpath}
    with tempfile.TemporaryDirectory() as folder:
        ran = subprocess.run(["bash", "-c", told + code], cwd=folder, env=home, capture_output=True, text=True)
    return ran.stdout.splitlines()


def words_of(example: str) -> list[str]:
    """Its words, of which all files and folders are there that the parameters of the command want to find."""
    name, *words = shlex.split(example.replace("~/", "home/"))[1:]
    command = umt_data.commands[name]
    assert isinstance(command, click.Command)
    with command.make_context(name, list(words), resilient_parsing=True) as context:
        given, _, _ = command.make_parser(context).parse_args(list(words))
    for parameter in command.params:
        values = given.get(str(parameter.name))
        several = isinstance(values, list) or parameter.nargs == -1
        for value in values if several else [values]:
            make(parameter.type, value, name, str(parameter.name))
    return [name, *words]


def make(kind: click.ParamType, value: object, command: str, parameter: str) -> None:
    """What a parameter of this type has to find."""
    if isinstance(kind, click.Tuple) and isinstance(value, (tuple, list)):
        for each, one in zip(kind.types, value, strict=True):
            make(each, one, command, parameter)
    if not isinstance(value, str) or kind.name not in ("file", "folder", "path", "directory"):
        return
    path = Path(value)
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind.name == "file" or path.suffix:
        path.write_text(FILES.get((command, parameter), ""))
    elif parameter in ("set_", "sets", "train", "against") or (parameter == "out" and command == "sheet"):
        write_shards(path, [40], first=100 * (ord(value[-1]) % 50))
    elif parameter in ("videos", "folder") or command == "index":
        touch(path, "a.mp4", "1.mp4", "a.jpg", "abcdefghijk_000001_000002.mp4", "0.tar")
    else:
        path.mkdir(parents=True, exist_ok=True)


# What the files of examples hold, where the command reads them in a dry run
FILES = {
    ("folder", "captions"): "file,caption\na.mp4,one\n",
    ("folder", "labels"): "file,label\na.mp4,walk\n",
    ("folder", "spans"): "file,start,end\na.mp4,0,1\n",
    ("list", "rows"): "a.mp4,0\n",
    ("list", "classes"): "walk\n",
    ("kinetics", "csv"): "label,youtube_id,time_start,time_end,split\nwalk,abcdefghijk,1,2,val\n",
    ("kinetics", "classes"): "walk\n",
    ("webvid", "csv"): "videoid,name,page_dir\n1,a young woman drinks a coffee in a small cafe,x\n",
    ("pairs", "annotations"): '[{"image": "a.jpg", "caption": "one"}]',
    ("filter", "exclude"): "gone\n",
}
READ = ("folder", "list", "kinetics", "webvid", "pairs", "scenes", "index", "demo", "sheet", "filter", "split", "merge")
DRY = [example for example in of_help() if example.split()[1] in READ and "s3://" not in example]


@pytest.mark.parametrize("example", dict.fromkeys(DRY))
def test_an_example_of_a_help_text_has_a_dry_run_that_writes_nothing(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, umt: Umt
) -> None:
    if "--language" in example:
        pytest.importorskip("py3langid")
    monkeypatch.chdir(tmp_path)
    words = words_of(example)
    before = sorted(tmp_path.rglob("*"))
    done = umt(*words, "--dry-run")
    assert (done.code, "would" in done.out) == (0, True), done.text
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("example", [*dict.fromkeys([*of_help(), *of_pages(), *of_scripts()])])
def test_an_example_is_understood(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "s3://" in example:
        pytest.skip("the address would be looked up")
    monkeypatch.chdir(tmp_path)
    name, *words = words_of(example)
    command = umt_data.commands[name]
    assert len(command.make_context(name, words).params) == len(command.params)


def test_the_page_of_corpora_makes_a_table_of_every_protocol_but_those_of_other_splits() -> None:
    named = re.findall(r"--protocol (\S+)", "\n".join(of_scripts()))
    assert set(named) <= set(PROTOCOLS)
    assert {name.rpartition("-")[0] for name in PROTOCOLS} == {name.rpartition("-")[0] for name in named}


def test_the_search_finds_examples_and_a_wrong_one_is_seen(tmp_path: Path) -> None:
    assert {example.split()[1] for example in of_help()} == set(umt_data.commands)
    assert len(of_pages()) > 15
    with pytest.raises(click.NoSuchOption):
        umt_data.commands["index"].make_context("index", [str(tmp_path), "--no-such-thing"])

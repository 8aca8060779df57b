"""The commands that pages show in blocks: each is there with its options, each shipped run takes its settings, and
what is cheap is run. (Those of `umt-data` are tried in data_prep/cli/test_prep_examples.py.)"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from data_prep.cli import umt_data
from launchers.cli import launch
from tests.support.paths import REPO
from umt_ds.cli import umt
from umt_ds.config.load import load_run, run_names
from umt_ds.errors import ConfigError

PROGRAMS = {"umt": umt, "umt-data": umt_data, "umt-launch": launch}
PAGES = sorted(
    path.relative_to(REPO).as_posix()
    for pattern in ("*.md", "umt_ds/**/*.md", "data_prep/*.md", "launchers/*.md", "ds_configs/*.md")
    for path in REPO.glob(pattern)
    if path.name not in ("RESULTS.md", "METHOD.md")
)
BLOCK = re.compile(r"^```(?:sh|bash)?\n(.*?)^```|^((?:    .*\n)+)", re.MULTILINE | re.DOTALL)
STARTED = re.compile(r"^.*?(?:-m umt_ds|--module umt_ds)(?= )")  # by torchrun, deepspeed or srun
RUNS = frozenset(run_names())
VARIABLES = {
    name: "random" if "CLIP" in name or "BERT" in name else "/nowhere"
    for path in (REPO / "umt_ds" / "configs").rglob("*.yaml")
    for name in re.findall(r"\$\{env:(\w+)\}", path.read_text())
}


@dataclass(frozen=True)
class Shown:
    """A command of a page. words: of the shell, the program's name first."""

    page: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)}"

    @property
    def program(self) -> str:
        return self.words[0]


def commands_in(page: str, text: str) -> Iterator[Shown]:
    """The commands of ours in its blocks of shell code, without what stands before the program and after a comment; and
    those in backquotes."""
    blocks = [fenced or indented for fenced, indented in BLOCK.findall(text)]
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    inline = [
        one for one in inline if not re.search(r"^[\w-]+ (--|COMMAND)| --[a-z-]+$", one)
    ]  # an option is mentioned
    for block in [*blocks, *inline]:
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            own = re.sub(r"^(\w+=\S+ +)+", "", STARTED.sub("umt", line.strip()))
            if re.match(rf"({'|'.join(PROGRAMS)}) ", own) and "…" not in own and not re.search(r" {3,}[a-z]", own):
                words = tuple(re.sub(r"\$\w+", "/nowhere", word) for word in shlex.split(own, comments=True))
                yield Shown(page, words[: words.index(">")] if ">" in words else words)


SHOWN = [shown for page in PAGES for shown in commands_in(page, (REPO / page).read_text())]


def parsed(shown: Shown) -> list[str]:
    """The words of the command that are no options. Raises click.UsageError for a command or option that is not
    there, and for an option's missing value."""
    command: click.Command = PROGRAMS[shown.program]
    words = list(shown.words[1:])
    while isinstance(command, click.Group):
        inner = command.get_command(click.Context(command), words[0])
        if inner is None and shown.program == "umt-launch":
            words.insert(0, "submit")
            continue
        if inner is None:
            raise click.UsageError(f"{command.name} has no {words[0]}")
        command, words = inner, words[1:]
    given, _, _ = command.make_parser(click.Context(command)).parse_args(words)
    plain = [given.get(str(one.name)) for one in command.params if isinstance(one, click.Argument)]
    return [
        word for one in plain for word in (one if isinstance(one, (list, tuple)) else [one]) if isinstance(word, str)
    ]


def run_of(words: list[str]) -> tuple[str, list[str]] | None:
    """The shipped run that a command names, and the settings after it."""
    names = [word for word in words if word in RUNS]
    return (names[0], [word for word in words if re.match(r"[a-z_.0-9]+=", word)]) if names else None


def added_by_options(shown: Shown) -> list[str]:
    """`umt eval --kind KIND --shards SET` is an evaluation of the name KIND."""
    if "--kind" not in shown.words:
        return []
    kind = shown.words[shown.words.index("--kind") + 1]
    return [f"evaluation.{kind}.kind={kind}", f"evaluation.{kind}.shards=/nowhere"]


def test_the_pages_show_many_commands() -> None:
    found = [shown.program for shown in SHOWN]
    assert found.count("umt") > 100
    assert found.count("umt-launch") > 5
    assert found.count("umt-data") > 80


def test_each_goal_of_make_that_a_page_names_is_there() -> None:
    goals = set(re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text(), re.MULTILINE))
    text = "\n".join((REPO / page).read_text() for page in PAGES)
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE))
    assert {"demo", "test"} < named
    assert named - goals == set()


@pytest.mark.parametrize("page", sorted({shown.page for shown in SHOWN}))
def test_each_command_of_a_page_is_one_of_ours_and_its_run_takes_the_settings(page: str) -> None:
    for shown in (one for one in SHOWN if one.page == page):
        try:
            named = run_of(parsed(shown))
            if named is not None:
                load_run(named[0], [*added_by_options(shown), *named[1]], keep_unset=True)
        except (click.UsageError, ConfigError) as error:
            pytest.fail(f"{shown}\n{error}")


@pytest.mark.parametrize(
    "wrong",
    ["umt trian demo/stage1", "umt train demo/stage1 --rank 2", "umt train demo/stage1 optim.rl=1", "umt eval r --on"],
)
def test_a_command_that_cannot_work_is_seen(wrong: str) -> None:
    (shown,) = commands_in("PAGE.md", f"```sh\nX=1 {wrong}   # why\n```\n")
    with pytest.raises((click.UsageError, ConfigError)):
        load_run(*(run_of(parsed(shown)) or ("", [])), keep_unset=True)


def is_cheap(shown: Shown) -> bool:
    """What prints without data, GPU or minutes."""
    named = run_of(list(shown.words[1:])) is not None
    match shown.words[:2]:
        case ("umt", "config") | ("umt-data", "classes"):
            return "NAME" not in shown.words
        case ("umt-launch", _):
            return named and "--hosts" not in shown.words
    return False


CHEAP = {shlex.join(shown.words): shown for shown in SHOWN if is_cheap(shown)}


@pytest.mark.parametrize("command", CHEAP)
def test_a_cheap_command_of_a_page_does_what_it_says(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`umt-launch` with --dry-run, which submits nothing."""
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("UMT_CLUSTER", str(tmp_path / "cluster.yaml"))
    (tmp_path / "cluster.yaml").write_text("gpus_per_node: 8\n")
    shown = CHEAP[command]
    dry = ["--dry-run"] if shown.program == "umt-launch" else []
    done = CliRunner().invoke(PROGRAMS[shown.program], [*shown.words[1:], *dry])
    assert done.exit_code == 0, f"{shown}\n{done.output}\n{done.exception}"
    assert done.output.strip()

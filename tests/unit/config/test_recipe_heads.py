"""The head of each shipped YAML: where its numbers are from, a command that runs it, and the variables it wants."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from data_prep.cli import umt_data
from launchers.cli import launch
from umt_ds.cli.eval import command as evaluate
from umt_ds.cli.train import command as train
from umt_ds.config.batching import plan_run
from umt_ds.config.load import CONFIGS, load_run, load_tree, run_names

FILES = sorted(path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.yaml"))
ENOUGH = 10_000_000  # samples: an epoch has steps


def head_of(name: str) -> str:
    """The comment that a file begins with, without its signs."""
    lines = (CONFIGS / f"{name}.yaml").read_text().splitlines()
    comment = lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))]
    return "\n".join(line.removeprefix("#").strip() for line in comment)


def run_line(name: str) -> tuple[list[list[str]], str]:
    """The words of each command after `Run:`, and the remark in parentheses after them."""
    (text,) = re.findall(r"^Run:(.*?)^Source:", head_of(name), re.M | re.S)
    commands, _, remark = text.partition("(")
    return [shlex.split(part) for part in commands.split("&&")], remark


def wanted(name: str) -> set[str]:
    """The environment variables in a recipe's settings; of one that is evaluated only, without those of its teacher."""
    tree = load_tree(name)[0]
    if is_evaluated(run_line(name)[0][-1]):
        del tree["task"]["teacher"]
    return set(re.findall(r"\$\{env:(\w+)\}", str(tree)))


def is_evaluated(words: list[str]) -> bool:
    """Whether a command trains nothing."""
    return words[:2] == ["umt", "eval"]


@pytest.fixture
def with_variables(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Exactly those that the recipe's head names are set."""
    name: str = request.param
    for variable in re.findall(r"UMT_\w+", run_line(name)[1]):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.setenv("UMT_CLUSTER", str(tmp_path / "cluster.yaml"))
    (tmp_path / "cluster.yaml").touch()
    monkeypatch.chdir(tmp_path)
    return name


@pytest.mark.parametrize("name", FILES)
def test_each_file_says_what_it_is_and_where_its_numbers_are_from(name: str) -> None:
    head = head_of(name)
    assert re.match(r"[A-Z0-9].*\.", head), "a sentence"
    assert "Source:" in head


@pytest.mark.parametrize("name", run_names())
def test_the_variables_of_a_head_are_those_that_its_settings_want(name: str) -> None:
    assert set(re.findall(r"UMT_\w+", run_line(name)[1])) == wanted(name)


@pytest.mark.parametrize("with_variables", run_names(), indirect=True)
def test_the_command_of_a_head_runs_its_recipe(with_variables: str) -> None:
    name = with_variables
    commands, _ = run_line(name)
    worlds = [world_of(words, name) for words in commands]
    config = load_run(name, keep_unset=is_evaluated(commands[-1]))
    if is_evaluated(commands[-1]):
        assert config.evaluation
        return
    plan = plan_run(config, world=worlds[-1], num_samples=ENOUGH)
    assert plan.total_steps > plan.warmup_steps


def world_of(words: list[str], name: str) -> int:
    """The ranks that a command starts; it is parsed by its own parser, and launched as far as to the queue."""
    match words:
        case ["torchrun", "--nproc-per-node", ranks, "-m", "umt_ds", "train", *rest]:
            assert train.make_context("train", rest).params["name"] == name
            return int(ranks)
        case ["umt", "train", *rest]:
            parsed = train.make_context("train", rest).params
            assert parsed["name"] == name
            return int(parsed["ranks"] or 1)
        case ["umt", "eval", *rest]:
            parsed = evaluate.make_context("eval", rest).params
            assert parsed["words"] == (name,)
            return int(parsed["ranks"] or 1)
        case ["umt-launch", *rest]:
            assert rest[0] == name
            done = CliRunner().invoke(launch, [*rest, "--dry-run"], catch_exceptions=False)
            assert done.exit_code == 0
            return int(re.findall(r"UMT_EXPECTED_WORLD=(\d+)", done.stdout)[0])
        case ["umt-data", which, *rest]:
            command = umt_data.get_command(click.Context(umt_data), which)
            assert command is not None
            command.make_context(which, rest)
            return 1
    raise AssertionError(f"{words} is no command of ours")


def test_recipes_that_commands_in_readmes_and_helps_name_are_shipped() -> None:
    repository = CONFIGS.parents[1]
    texts = [*repository.glob("*.md"), *repository.glob("[a-z]*/README.md"), *repository.glob("*/cli/*.py")]
    command = r"(?:umt train|umt_ds train|umt eval|umt-launch|umt plan|umt doctor|umt config|umt bench [a-z0-9]+) "
    recipe = rf"((?:{'|'.join(sorted({name.partition('/')[0] for name in run_names()}))})/[a-z0-9_/]+)"
    named = {name for path in texts for name in re.findall(command + recipe, path.read_text())}
    assert len(named) >= 4
    assert named <= set(run_names())

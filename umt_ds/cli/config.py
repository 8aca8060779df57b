"""`umt config`: what a run really says, or how two runs differ."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

import click

from umt_ds.config.effect import without_effect
from umt_ds.config.load import load_run, run_names
from umt_ds.config.run import RunConfig
from umt_ds.config.show import as_tree, as_yaml, diff_lines


@click.command("config")
@click.argument("name", required=False)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--against", metavar="NAME", help="Show only what differs from this run, as key: other → this.")
def command(name: str | None, overrides: tuple[str, ...], against: str | None) -> None:
    """Print the resolved configuration of run NAME as YAML; without NAME, list the shipped runs, folder by folder:
    `retrieval/msrvtt/  b16_5m …` is run retrieval/msrvtt/b16_5m, and others.

    A value that begins with [, { or a quote is YAML; any other is taken whole, with its # and spaces. null is nothing,
    ~ your home folder. Variables that are not set stay as ${env:NAME}.

    \b
    For example:
      umt config
      umt config stage1/b16_k710 batch.micro=32
      umt config stage1/l16_k710 --against stage1/b16_k710
    """
    if name is None:
        click.echo(listing(run_names()))
        return
    run = _resolve(name, overrides)
    for line in without_effect(run):
        click.echo(line, err=True)
    if against is None:
        click.echo(as_yaml(as_tree(run)), nl=False)
        return
    for line in diff_lines(as_tree(_resolve(against, ())), as_tree(run)):
        click.echo(line)


def listing(names: Sequence[str], *, width: int = 118) -> str:
    """Runs by their folders, a line a folder; sizes in their order: 5m, 17m, 25m."""
    folders: dict[str, list[str]] = {}
    for folder, _, run in sorted(
        (name.rpartition("/") for name in names), key=lambda name: (name[0], _by_number(name[2]))
    ):
        folders.setdefault(f"{folder}/", []).append(run)
    margin = max(map(len, folders)) + 2
    return "\n".join(
        textwrap.fill(
            " ".join(runs),
            width,
            initial_indent=folder.ljust(margin),
            subsequent_indent=" " * margin,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for folder, runs in folders.items()
    )


def _by_number(name: str) -> list[tuple[int, str]]:
    """Words as they are, numbers by their value."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _resolve(name: str, overrides: tuple[str, ...]) -> RunConfig:
    """Checked, defaults included; variables that are not set stay as `${env:NAME}`, so that one can look first."""
    return load_run(name, overrides, keep_unset=True)

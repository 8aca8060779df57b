"""`umt config`: what a run really says, or how two runs differ."""

from __future__ import annotations

from typing import Any

import click

from umt_ds.config.load import load_run, run_names
from umt_ds.config.show import as_tree, as_yaml, diff_lines


@click.command("config")
@click.argument("name", required=False)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--against", metavar="NAME", help="Show only what differs from this run, as key: other → this.")
def command(name: str | None, overrides: tuple[str, ...], against: str | None) -> None:
    """Print the resolved configuration of run NAME as YAML; without NAME, list the shipped runs.

    A value that begins with [, { or a quote is YAML; any other is taken whole, with its # and spaces. Variables that
    are not set stay as ${env:NAME}.

    \b
    For example:
      umt config
      umt config stage1/b16_k710 batch.micro=32
      umt config stage1/l16_k710 --against stage1/b16_k710
    """
    if name is None:
        click.echo("\n".join(run_names()))
        return
    tree = _resolve(name, overrides)
    if against is None:
        click.echo(as_yaml(tree), nl=False)
        return
    for line in diff_lines(_resolve(against, ()), tree):
        click.echo(line)


def _resolve(name: str, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Checked, defaults included; variables that are not set stay as `${env:NAME}`, so that one can look first."""
    return as_tree(load_run(name, overrides, keep_unset=True))

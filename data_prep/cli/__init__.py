"""umt-data: from videos to shards. Commands parse, call one function, and print what came out.

Each command imports what it needs when it runs, so that --help answers at once.
"""

from __future__ import annotations

import sys

import click

from data_prep.cli import captioned, check, corpora, demo, reshape, scenes, tasks
from umt_ds.data.shards.store_answers import told_of_store
from umt_ds.environment import print_anything
from umt_ds.errors import EXIT_FAILED, EXIT_INTERRUPTED, UmtError, shown
from umt_ds.refused import told_of_machine

_BEGIN_ANEW = ("classes", *(str(command.name) for command in check.COMMANDS))  # they leave nothing half done


class _Grouped(click.Group):
    """The commands in the order of a user's work instead of the alphabet's."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            anew = ctx.invoked_subcommand in _BEGIN_ANEW
            told = "the same command begins anew" if anew else "what is finished is kept, and the same command goes on"
            click.echo(f"\nstopped: {told}", err=True)
            sys.exit(EXIT_INTERRUPTED)


@click.group(cls=_Grouped, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def umt_data() -> None:
    """From videos to shards (plain WebDataset tars with an index), and what to do with shards.

    \b
    Example:
      umt-data folder ~/videos ~/shards/mine --captions captions.csv
      umt-data verify ~/shards/mine
      umt-data sheet ~/shards/mine
    """


for module in (corpora, demo, captioned, scenes, check, reshape, tasks):
    for command in module.COMMANDS:
        umt_data.add_command(command)


_MOST_LINES, _MOST_LETTERS = 40, 2000  # of an error; the longest path has 4096 bytes, and nobody has it


def _told(error: UmtError) -> str:
    """An error for a terminal. Strangers' words are cut where they are taken up; this holds where one forgot."""
    lines = (shown(line, _MOST_LETTERS) for line in str(error).split("\n")[:_MOST_LINES])
    return "\n".join(lines)


def main() -> None:
    """The program. Exit code 0: done; 1: something is wrong with data or machine; 2: wrong command or options; 130:
    ended by Ctrl-C."""
    print_anything()
    try:
        umt_data()
    except UmtError as error:
        click.echo(f"error: {_told(error)}", err=True)
        sys.exit(error.exit_code)
    except Exception as error:
        told = told_of_store(error) or told_of_machine(error)
        if told is None:
            raise
        click.echo(f"error: {told}", err=True)
        sys.exit(EXIT_FAILED)

"""The command `umt`: thin subcommands, each imported when it is called. `umt --help` loads no torch."""

from __future__ import annotations

import errno
import importlib
import sys

import click

from umt_ds import __version__
from umt_ds.environment import Environment, print_anything
from umt_ds.errors import EXIT_BAD_CONFIG, EXIT_INTERRUPTED, UmtError
from umt_ds.refused import refused_by_machine

# subcommand → (module, one line of help); the module's `command` is a click command of that name
_COMMANDS = {
    "train": ("umt_ds.cli.train", "Train a run: umt train stage1/b16_k710 run_dir=… key=value …"),
    "config": ("umt_ds.cli.config", "Show a run's resolved configuration, or compare two."),
    "eval": ("umt_ds.cli.eval", "Score models on held-out data: umt eval RUN --ranks 2"),
    "predict": ("umt_ds.cli.predict", "Say what is in videos: umt predict RUN VIDEO..."),
    "import": ("umt_ds.cli.import_", "Say what a weight file is, and make a folder of it: umt import b16_25m.pth"),
    "probe": ("umt_ds.cli.probe", "Ask frozen features what they know: umt probe RUN --train S --val S"),
    "embed": ("umt_ds.cli.embed", "Turn clips into vectors: umt embed RUN SET -o INDEX"),
    "search": ("umt_ds.cli.search", 'Find clips by a text or a video: umt search INDEX "a man opens a box"'),
    "export": ("umt_ds.cli.export", "Write a model for other programs: umt export RUN --to published -o FOLDER"),
    "report": ("umt_ds.cli.report", "Make one HTML page of a run, or of several beside each other."),
    "verify-run": ("umt_ds.cli.verify_run", "Compare two runs step by step: clips, masks, numbers."),
    "doctor": ("umt_ds.cli.doctor", "Look at this machine: what is there, what will be used, what to install."),
    "plan": ("umt_ds.cli.plan", "Say what a run costs on the GPUs you name: memory, cores, disk, hours."),
    "bench": ("umt_ds.cli.bench", "Measure a part of the system on this machine."),
}


# What the same command does after Ctrl-C. A run that trains catches it: it saves, and leaves with 75
_BEGINNING_ANEW = "the same command begins anew"
_GOING_ON = {
    "train": "the same command goes on from the run's last checkpoint, if there is one",
    "embed": "the same command goes on with the parts that are not finished",
}


class _Lazy(click.Group):
    """Knows its commands by name and imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(_COMMANDS[cmd_name][0]).command
        return command

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            if Environment().number("RANK", 0) == 0:
                click.echo(f"\nstopped: {_GOING_ON.get(str(ctx.invoked_subcommand), _BEGINNING_ANEW)}", err=True)
            sys.exit(EXIT_INTERRUPTED)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--local_rank", type=int, hidden=True, help="The deepspeed launcher adds it; the environment says the same."
)
@click.version_option(__version__, prog_name="umt")
def umt(local_rank: int | None) -> None:
    """Pretraining of video foundation models: Unmasked Teacher on DeepSpeed.

    \b
    For example:
      umt config stage1/b16_k710
      umt train demo/stage1 run_dir=runs/mine --ranks 2
      torchrun --nproc-per-node 8 -m umt_ds train stage1/b16_k710
      umt report runs/mine
    """


def main() -> None:
    """Run a command; errors that users can act on end with one message and their exit code."""
    print_anything()
    try:
        umt(standalone_mode=False)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(EXIT_INTERRUPTED)
    except UmtError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except (OSError, RuntimeError, MemoryError, ImportError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            click.echo(f"error: no file can have this name, it is too long: {error.filename!r:.200}", err=True)
            sys.exit(EXIT_BAD_CONFIG)
        told = refused_by_machine(error, doing="the command cannot go on")
        if told is None:
            raise
        click.echo(f"error: {told}", err=True)
        sys.exit(told.exit_code)

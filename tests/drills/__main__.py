"""`make drills`: break training jobs in every way we know, and see that each goes on to the same result.

    python -m tests.drills                      all, four to eight minutes on two cores
    python -m tests.drills --short              six of them, as in CI
    python -m tests.drills --only flip-a-byte --only kill-a-rank --rounds 10

Linux only: processes are found in /proc.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click

from tests.drills.drill import AVERAGED, CannotBeDone, Drill
from tests.drills.faults import FAULTS, SHORT
from tests.support.jobs import start_job, write_clips

BY_NAME = {fault.__name__.replace("_", "-"): fault for fault in FAULTS}
SHORT_NAMES = [fault.__name__.replace("_", "-") for fault in SHORT]
HEADER = ("fault", "outcome", "steps lost", "seconds")


@click.command()
@click.option("--only", multiple=True, type=click.Choice(list(BY_NAME)), help="Only this drill; can be repeated.")
@click.option("--short", is_flag=True, help="Six drills, in under three minutes on two cores.")
@click.option("--list", "as_list", is_flag=True, help="Print the names of the drills.")
@click.option("--rounds", type=click.IntRange(1), default=1, show_default=True, help="Repeat, at other moments.")
@click.option("--seed", type=int, default=None, help="Of the random moments; printed, so that it can be given again.")
@click.option("--folder", type=click.Path(path_type=Path), help="Keep the runs here; default: a folder removed later.")
def main(only: tuple[str, ...], short: bool, as_list: bool, rounds: int, seed: int | None, folder: Path | None) -> None:
    """Break training jobs, start them again, compare with an unbroken run; print a table; exit code 1 if one failed."""
    names = list(only) or (SHORT_NAMES if short else list(BY_NAME))
    if as_list:
        for name in names:
            click.echo(f"{name:24} {BY_NAME[name].__doc__}")
        return
    seed = random.randrange(1000) if seed is None else seed
    random.seed(seed)
    click.echo(f"{len(names)} drills, {rounds} round(s), --seed {seed}", err=True)
    with tempfile.TemporaryDirectory() as temporary:
        rows, failed = rehearse(names * rounds, folder or Path(temporary))
    click.echo(as_table([HEADER, *rows]))
    sys.exit(1 if failed else 0)


def rehearse(names: Sequence[str], folder: Path) -> tuple[list[tuple[str, ...]], int]:
    """All drills one after another against one unbroken run; the rows of the table, and how many failed."""
    shards = write_clips(folder / "shards")
    click.echo("the unbroken run", err=True)
    start_job(folder / "unbroken", shards, AVERAGED).wait(code=0)
    rows, failed = [], 0
    for number, name in enumerate(names):
        click.echo(name, err=True)
        began = time.monotonic()
        drill = Drill(shards, folder / "unbroken", folder / f"{number:02d}-{name}")
        lost = ""
        try:
            outcome = BY_NAME[name](drill)
            text, lost = outcome.text, str(outcome.steps_lost)
        except CannotBeDone as reason:
            text = f"skipped: {reason}"
        except AssertionError as problem:
            failed += 1
            text = f"FAILED: {problem}".splitlines()[0]
            for job in drill.jobs:
                click.echo(f"--- {job.console.name}\n{job.output()[-6000:]}", err=True)
        finally:
            for job in drill.jobs:
                job.kill()
        rows.append((str(BY_NAME[name].__doc__), text, lost, f"{time.monotonic() - began:.0f}"))
        click.echo(f"  {text} ({rows[-1][-1]} s)", err=True)
    return rows, failed


def as_table(rows: Sequence[tuple[str, ...]]) -> str:
    """Markdown, with columns of equal width."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

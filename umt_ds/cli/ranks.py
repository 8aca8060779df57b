"""Ranks of a command: started on this machine for `--ranks`, or told of an error that one of them meets too early."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta

from umt_ds.distributed.world import find_world, sign_of_launcher
from umt_ds.errors import ConfigError, MachineError, UmtError


def start_ranks(ranks: int | None, words: Sequence[str]) -> None:
    """Where `--ranks` asks for several ranks: run `umt WORDS` on each of them, and leave with the exit code of all.

    Returns where this process is the only rank, or one of a launcher's. Raises ConfigError for `--ranks` under a
    launcher.
    """
    if ranks is not None and (sign := sign_of_launcher()):
        raise ConfigError(
            f"--ranks starts ranks, but a launcher has already done so ({sign})",
            hint="leave --ranks away; or unset that variable, if there is none",
        )
    if ranks is not None and ranks > 1:
        from umt_ds.distributed.local import run_local_ranks

        sys.exit(run_local_ranks([sys.executable, "-m", "umt_ds", *words], ranks))


def tell_the_others(error: UmtError) -> None:
    """Raises SystemExit on all ranks of a job, which may have read a configuration and wait for this one to join them;
    what all of them meet is said once. Does nothing on a rank that is alone, or that nobody joins in a minute."""
    if not sign_of_launcher() or find_world().size == 1:
        return
    from umt_ds.distributed.alarm import ending_together
    from umt_ds.distributed.job import start_job

    with suppress(MachineError), start_job(patience=timedelta(minutes=1)) as job, ending_together(job.world):
        raise error

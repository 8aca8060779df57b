"""A job that hangs at the same place again and again is not started for ever.

RUN/restarts.json     the newest checkpoint, and how many jobs in a row the watchdog ended without a newer one
RUN/stacks-TIME/      the stacks that it left, moved here from RUN/stacks by the next start
"""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from pathlib import Path

from umt_ds.distributed.collectives import broadcast_object
from umt_ds.distributed.world import World
from umt_ds.engine.manifest import checkpoint_folders, step_of
from umt_ds.engine.readback import parse_json, read_back
from umt_ds.engine.watchdog import STACKS
from umt_ds.errors import MachineError, UmtError

log = logging.getLogger("umt_ds")

RESTARTS = "restarts.json"
MOST_ENDS = 3  # by the watchdog, without a newer checkpoint


class HangError(UmtError):
    """The job hangs at the same place again and again. Exit code 1, never 75. Every rank raises it, or none."""


def check_restarts(run: Path, world: World) -> None:
    """At the start of a job: has the watchdog ended the jobs before it too often? Every rank calls it.

    Raises HangError on every rank after MOST_ENDS ends without a newer checkpoint; the start after that one counts
    anew, because a person has given it. Raises MachineError on every rank where the disk does not show the checkpoints.
    """
    problem: UmtError | None = None
    if world.is_first:
        try:
            problem = _count_ends(run)
        except UmtError as error:  # the checkpoints cannot be looked at: every rank must hear of it
            problem = error
        except OSError as error:  # counting is a service: a full disk has better places to be told
            log.warning("restarts could not be counted in %s: %s", run / RESTARTS, error)
    problem = broadcast_object(problem)
    if problem is not None:
        raise problem


def _count_ends(run: Path) -> HangError | None:
    """RUN/restarts.json brought up to date; what is wrong, if it is."""
    path, stacks = run / RESTARTS, run / STACKS
    newest = checkpoint_folders(run)
    step = step_of(newest[0]) if newest else 0
    before = _read(path)
    no_newer = before.get("step") == step  # than when the last job started
    ends = before.get("watchdog_ends", 0) if no_newer else 0
    problem = None
    if stacks.is_dir():
        kept = stacks.rename(stacks.with_name(f"{STACKS}-{datetime.now(UTC):%Y%m%dT%H%M%S}"))
        ends += no_newer
        log.warning("the watchdog ended the last job (%d of %d since step %d): %s", ends, MOST_ENDS, step, kept)
        if ends >= MOST_ENDS:
            problem = HangError(
                f"{ends} jobs in a row made no progress after step {step}: the watchdog ended each, without a newer "
                "checkpoint",
                hint=f"the stacks in {run / STACKS}-* say where it hangs (a rank that waits in a collective waits for "
                "another one); when the cause is gone, the same command starts again",
            )
            ends = 0
    partial = path.with_name(RESTARTS + ".partial")
    partial.write_text(json.dumps({"step": step, "watchdog_ends": ends}) + "\n")
    os.replace(partial, path)
    return problem


def _read(path: Path) -> dict[str, int]:
    """What was counted; nothing at a first start, or where the file holds something else: then it counts anew."""
    try:
        found = parse_json(read_back(path))
    except (FileNotFoundError, ValueError, MachineError):
        return {}
    if not isinstance(found, dict) or any(type(count) is not int for count in found.values()):
        return {}
    return found


def ended_by_watchdog(run: Path) -> bool:
    """Has the watchdog ended a rank of this job?"""
    return (run / STACKS).is_dir()

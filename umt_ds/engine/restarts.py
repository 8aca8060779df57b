"""A job that fails at the same place again and again is not started for ever.

RUN/restarts.json     the newest checkpoint; how many jobs in a row the watchdog ended without a newer one; and the
                      steps in which jobs since then met a NaN
RUN/stacks-TIME/      the stacks that the watchdog left, moved here from RUN/stacks by the next start
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from umt_ds.distributed.collectives import broadcast_object
from umt_ds.distributed.world import World
from umt_ds.engine.manifest import checkpoint_folders, step_of
from umt_ds.engine.readback import parse_json, read_back
from umt_ds.engine.watchdog import STACKS
from umt_ds.errors import MachineError, UmtError
from umt_ds.whole_file import write_whole

log = logging.getLogger("umt_ds")

RESTARTS = "restarts.json"
MOST_ENDS = 3  # of one kind, without a newer checkpoint


class NoProgressError(UmtError):
    """The job ends again and again without a newer checkpoint. Exit code 1, never 75. Every rank raises it, or none."""


@dataclass(frozen=True)
class Ends:
    """How jobs ended since the checkpoint at `step` (-1: nothing is known). failed_steps: counted from 0, one for each
    job that met a NaN."""

    step: int = -1
    watchdog_ends: int = 0
    failed_steps: tuple[int, ...] = ()


def check_restarts(run: Path, world: World) -> frozenset[int]:
    """At the start of a job: did the jobs before it get anywhere? The steps in which they met a NaN, the same on every
    rank. Every rank calls it.

    Raises NoProgressError on every rank after MOST_ENDS ends of a kind without a newer checkpoint; the start after that
    one counts anew, because a person has given it. Raises MachineError on every rank where the disk does not show the
    checkpoints.
    """
    answer: frozenset[int] | UmtError = frozenset()
    if world.is_first:
        try:
            answer = _count_ends(run)
        except UmtError as error:  # the checkpoints cannot be looked at: every rank must hear of it
            answer = error
        except OSError as error:  # counting is a service: a full disk has better places to be told
            log.warning("restarts could not be counted in %s: %s", run / RESTARTS, error)
    answer = broadcast_object(answer)
    if isinstance(answer, UmtError):
        raise answer.by_all_ranks()
    return answer


def note_failed_step(run: Path, world: World, step: int) -> None:
    """A NaN was met in `step`; the next start must know. The first rank writes."""
    if not world.is_first:
        return
    try:
        ends = _read(run / RESTARTS)
        _write(run / RESTARTS, replace(ends, failed_steps=(*ends.failed_steps, step)))
    except OSError as error:
        log.warning("the step that failed could not be noted in %s: %s", run / RESTARTS, error)


def _count_ends(run: Path) -> frozenset[int] | NoProgressError:
    """RUN/restarts.json brought up to date."""
    path, stacks = run / RESTARTS, run / STACKS
    newest = checkpoint_folders(run)
    step = step_of(newest[0]) if newest else 0
    ends = _read(path)
    got_on = ends.step != step  # since the last start; what lies before the checkpoint went well in the end
    if got_on:
        ends = Ends(step, failed_steps=tuple(failed for failed in ends.failed_steps if failed >= step))
    if stacks.is_dir():
        kept = stacks.rename(stacks.with_name(f"{STACKS}-{datetime.now(UTC):%Y%m%dT%H%M%S}"))
        ends = replace(ends, watchdog_ends=ends.watchdog_ends + (not got_on))
        log.warning(
            "the watchdog ended the last job (%d of %d since step %d): %s", ends.watchdog_ends, MOST_ENDS, step, kept
        )
    problem = _hangs(run, ends) or _fails(ends)
    _write(path, Ends(step) if problem else ends)
    return problem or frozenset(ends.failed_steps)


def _hangs(run: Path, ends: Ends) -> NoProgressError | None:
    if ends.watchdog_ends < MOST_ENDS:
        return None
    return NoProgressError(
        f"{ends.watchdog_ends} jobs in a row made no progress after step {ends.step}: the watchdog ended each, without "
        "a newer checkpoint",
        hint=f"the stacks in {run / STACKS}-* say where it hangs (a rank that waits in a collective waits for "
        "another one); when the cause is gone, the same command starts again",
    )


def _fails(ends: Ends) -> NoProgressError | None:
    if len(ends.failed_steps) < MOST_ENDS:
        return None
    return NoProgressError(
        f"{len(ends.failed_steps)} jobs met a NaN or infinity after step {ends.step}, without a newer checkpoint, in "
        f"the steps {', '.join(map(str, ends.failed_steps))}",
        hint="in different steps: look for a faulty GPU (`nvidia-smi -q`, other nodes), or a learning rate at its "
        "limit (optim.lr, optim.clip_grad); when the cause is gone, the same command starts again",
    )


def _read(path: Path) -> Ends:
    """What was counted; nothing at a first start, or where the file holds something else: then it counts anew."""
    try:
        found: Any = parse_json(read_back(path))
        ends = Ends(found["step"], found["watchdog_ends"], tuple(found.get("failed_steps", ())))
        numbers = (ends.step, ends.watchdog_ends, *ends.failed_steps)
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError, MachineError):
        return Ends()
    return ends if all(type(number) is int for number in numbers) else Ends()


def _write(path: Path, ends: Ends) -> None:
    write_whole(path, json.dumps(asdict(ends)) + "\n")


def ended_by_watchdog(run: Path) -> bool:
    """Has the watchdog ended a rank of this job?"""
    return (run / STACKS).is_dir()

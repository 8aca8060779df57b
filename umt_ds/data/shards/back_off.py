"""Not to storm a store: how long a request waits before it is made again, and how many a node has on their way.

A store that does not serve is away: for PATIENCE_S after the first request that failed since it served one. Then all
requests of a process give up together. Until then whoever watches this process (`is_waiting`) knows that it waits.

A store that asks for fewer requests gets fewer. Each request that failed waits for a random time, up to a bound that
doubles with each try (AWS: "exponential backoff and full jitter"), or as long as the store says. It keeps its slot
meanwhile, so that a node whose requests all wait makes no others. Torch-free.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import random
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from umt_ds.data.shards.store_answers import retry_after_s, said
from umt_ds.environment import temporary_folder

log = logging.getLogger(__name__)

PATIENCE_S = 600.0  # for a store that is overloaded or away
_FIRST_S, _LONGEST_S = 0.5, 30.0  # bounds of the pause after the first try, and after many
_ANSWER_S = 120.0  # the longest that an answer takes
_SAY_EACH_S = 60.0  # of a node

REQUESTS_OF_A_NODE = 64  # on their way at a time: at 30 ms for an answer two thousand a second
_SLOT_WAIT_S = 60.0  # then without one for as long: those who hold them may have been stopped
_LOOKS = 4  # slots that are tried before a pause
_looking = threading.Lock()
_without_until_s = 0.0

# in time.monotonic(), which all processes of a machine share
_away: tuple[float, float] | None = None  # the first and the last of the failures since a store served this process
_waiting_until = mmap.mmap(-1, 8)  # one number, also of the processes that this one forks: the workers of a trainer


def _after_fork() -> None:
    """A thread of the parent may have been looking."""
    global _looking
    _looking = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)

# forked workers have one state of `random` in common, on all nodes: their pauses would be the same
_chance = random.SystemRandom()


class Outage:
    """The pauses of one request for `what` while its store does not serve it, PATIENCE_S in all."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._begin = time.monotonic()
        self._paused_s = 0.0
        self._tries = 0

    def next_pause_s(self, error: OSError) -> float | None:
        """How long to wait before the next try; None: no longer. `error`: what came of the last one."""
        now = time.monotonic()
        waited_s = max(now - min(self._begin, _note_failure(now)), self._paused_s)
        if waited_s >= PATIENCE_S:
            return None
        bound_s = min(_LONGEST_S, _FIRST_S * 2**self._tries)
        pause_s = min(retry_after_s(error) + _chance.uniform(0, bound_s), PATIENCE_S - waited_s)
        self._tries += 1
        self._paused_s += pause_s
        struct.pack_into("d", _waiting_until, 0, now + pause_s + _ANSWER_S)
        if self._tries > 1 and _is_first_to_say():  # one answer of many that is refused is nothing to tell
            log.warning(
                "the store does not keep up: %s was asked for %d times in %.0f s (%s). This node waits for it, "
                "%.0f minutes at most",
                *(self._what, self._tries, waited_s, said(error), PATIENCE_S / 60),
            )
        return pause_s


def note_served() -> None:
    """A store has served this process: what fails from now on is another outage."""
    global _away
    _away = None


def _note_failure(now: float) -> float:
    """When the outage of a failure began; one long after the others is another outage."""
    global _away
    known = _away
    first = known[0] if known and now - known[1] < _LONGEST_S + _ANSWER_S else now
    _away = (first, now)
    return first


def is_waiting() -> bool:
    """Whether this process, or one that it has forked, waits for a store at the moment."""
    until: float
    (until,) = struct.unpack_from("d", _waiting_until)
    return time.monotonic() < until


def _is_first_to_say() -> bool:
    """Whether no process of this node has said so for a minute."""
    path = _node_folder() / "said"
    with suppress(OSError):
        _node_folder().mkdir(mode=0o700, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            now, before = time.time(), float(os.pread(file, 32, 0) or 0)
            if not before <= now < before + _SAY_EACH_S:  # a clock may have been set back
                os.pwrite(file, f"{now:<32f}".encode(), 0)
                return True
        except ValueError:
            os.ftruncate(file, 0)
        finally:
            os.close(file)
    return False


@contextmanager
def request_slot() -> Iterator[None]:
    """Inside, this thread has one of the node's requests; with REQUESTS_OF_A_NODE on their way it waits for one to end.

    A slot is the lock on a file, which the kernel lets go of however a process ends. Where there are no locks to be
    had there is no bound.
    """
    slot = _free_slot()
    try:
        yield
    finally:
        if slot is not None:
            fcntl.flock(slot, fcntl.LOCK_UN)  # a process that was forked meanwhile holds the file open
            os.close(slot)


def _free_slot() -> int | None:
    """A slot, locked. None: there are none to be had, or all have been held by others for long."""
    global _without_until_s
    with _looking:  # of a process one thread looks at a time: thousands would take whole cores
        if time.monotonic() < _without_until_s:
            return None
        try:
            _node_folder().mkdir(mode=0o700, exist_ok=True)
            deadline_s = time.monotonic() + _SLOT_WAIT_S
            while (slot := _one_of(_chance.sample(range(REQUESTS_OF_A_NODE), _LOOKS))) is None:
                if time.monotonic() > deadline_s:
                    _without_until_s = time.monotonic() + _SLOT_WAIT_S
                    return None
                time.sleep(_chance.uniform(0.002, 0.01))
            return slot
        except OSError:
            return None


def _one_of(numbers: list[int]) -> int | None:
    return next((slot for number in numbers if (slot := _locked(_node_folder() / f"slot-{number}")) is not None), None)


def _locked(path: Path) -> int | None:
    """The file, locked; None where another has it. Raises OSError where it cannot be had at all."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    except OSError:
        os.close(file)
        raise
    return file


def _node_folder() -> Path:
    """Shared by all processes of this user on this machine."""
    return temporary_folder() / f"umt-requests-{os.getuid()}"

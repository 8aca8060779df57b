"""When one rank ends with an error the others leave too, within seconds, and the cause is said once.

A rank that fails alone (its disk, its copy of a file, its part of the data) leaves the others waiting in a collective:
with gloo until a connection breaks, with NCCL until somebody kills them. So the rank that fails leaves a word in the
store through which the group met, and a thread of every other rank looks there. Nothing here is a collective.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

import torch.distributed as dist

from umt_ds.distributed.world import World
from umt_ds.errors import EXIT_FAILED, UmtError

log = logging.getLogger("umt_ds")

_LOOK_S = 0.5  # how often a rank looks whether another one has failed
_LEAVE_S = 5.0  # then it may come to its end by itself, and is ended after that
_HEARD_S = 5.0  # the longest that a failing rank waits for the others to hear of it: the store may be its own
_SAME_S = 2.0  # so much later at most the first rank fails as this one did, where all do
# The first rank may have been ended by its watchdog, with 75: then this rank's own does the same within that time
_STORE_GONE_S = 15.0

_LOST = "look for a rank that was killed (out of memory?) or a node that went away; the same command goes on"

_jobs = 0  # of this process, one after another in the same group: each has its own words in the store


@dataclass(frozen=True)
class Word:
    """What a rank that ends leaves behind for the others."""

    rank: int
    host: str
    error: str
    code: int


class Alarm:
    """One rank's end of it; every rank of a job makes one. Alone, it does nothing.

    leave: how the process is ended when its main thread cannot (it waits for a rank that is gone).
    """

    def __init__(self, world: World, *, leave: Callable[[int], None] = os._exit) -> None:
        global _jobs
        _jobs += 1
        self._world, self._leave = world, leave
        self._name = f"umt/alarm/{_jobs}"
        self._closed = threading.Event()
        self._store: Any = _own_client() if world.size > 1 else None
        self._word: Word | None = None
        self._heard = threading.Event()
        if self._store is not None:
            threading.Thread(target=self._watch, name="alarm", daemon=True).start()

    def ring(self, error: str, code: int) -> None:
        """This rank ends with `code` because of `error`. Returns when all others have heard of it, or after seconds."""
        if self._store is None or self._closed.is_set():
            return
        self._closed.set()  # first: the own thread need not hear of it
        word = json.dumps(asdict(Word(self._world.rank, socket.gethostname(), error, code)))
        with suppress(RuntimeError):  # the store is gone, and whoever could hear of it with it
            self._store.set(f"{self._name}/{self._world.rank}", word)
            self._store.compare_set(f"{self._name}/first", "", word)
            self._store.add(f"{self._name}/heard", int(self._word is None))  # else it has heard of another's end
            _wait(lambda: self._store.add(f"{self._name}/heard", 0) >= self._world.size, _HEARD_S)

    def said_by_the_first_rank(self, error: str) -> bool:
        """Whether rank 0 ends with the same error, in a moment at the latest."""
        if self._store is None:
            return False
        key = f"{self._name}/0"
        with suppress(RuntimeError):
            said = _wait(lambda: self._store.check([key]), _SAME_S)
            return said and json.loads(self._store.get(key))["error"] == error
        return False

    def heard(self, *, within_s: float) -> Word | None:
        """What another rank left behind, if one has ended or does so in a moment."""
        self._heard.wait(within_s if self._store is not None else 0)
        return self._word

    def close(self) -> None:
        """This rank is at its end, and listens no longer."""
        self._closed.set()

    # ---------------------------------------------------------------- the thread

    def _watch(self) -> None:
        try:
            while not self._closed.wait(_LOOK_S):
                if self._store.check([f"{self._name}/first"]):
                    word = Word(**json.loads(self._store.get(f"{self._name}/first")))
                    self._store.add(f"{self._name}/heard", 1)
                    self._end(word)
                    return
        except RuntimeError as error:  # the first rank keeps the store; a client of it never connects again
            if not self._closed.wait(_STORE_GONE_S):
                log.error("error: %s\n  hint: %s", f"rank 0 is gone, without a word: {_first_line(error)}", _LOST)
                self._leave_now(EXIT_FAILED)

    def _end(self, word: Word) -> None:
        self._word = word
        self._heard.set()
        if self._world.is_first:
            log.error("rank %d of %d (%s) ended: %s", word.rank, self._world.size, word.host, word.error)
        if not self._closed.wait(_LEAVE_S):
            self._leave_now(word.code)

    def _leave_now(self, code: int) -> None:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        self._leave(code)


@contextmanager
def ending_together(world: World, *, leave: Callable[[int], None] = os._exit) -> Iterator[Alarm]:
    """What is inside is the work of one rank of a job. An error of it is said, the others are told, and it becomes
    SystemExit with the error's code; so does the end of another rank, which shows here as a broken connection.

    An error that all ranks raise is said by the first one. Any other is said by the rank that it happens to, and the
    first rank says which one that is.
    """
    alarm = Alarm(world, leave=leave)
    try:
        yield alarm
    except UmtError as error:
        if world.is_first:
            log.error("error: %s", error)
        alarm.ring(str(error), error.exit_code)
        if not (world.is_first or error.agreed or alarm.said_by_the_first_rank(str(error))):
            log.error("error: %s", error)
        raise SystemExit(error.exit_code) from error
    except Exception as error:
        broken = _is_broken_connection(error)
        cause = alarm.heard(within_s=2.0) if broken else None
        if cause is not None:  # the first rank says what it was
            raise SystemExit(cause.code) from error
        if broken:
            gone = f"a rank that this one talks to is gone, without a word: {_first_line(error)}"
            log.error("error: %s\n  hint: %s", gone, _LOST)
        alarm.ring(f"{type(error).__name__}: {error}", EXIT_FAILED)
        if broken:
            raise SystemExit(EXIT_FAILED) from error
        raise
    finally:
        alarm.close()


def _is_broken_connection(error: Exception) -> bool:
    """Of a collective whose other end is gone. gloo raises a bare RuntimeError (torch 2.14)."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _first_line(error: Exception) -> str:
    """Without the stack of C++ that torch prints below."""
    return str(error).partition("\n")[0]


def _own_client() -> Any:
    """The store through which the group met, by a connection of its own: who waits for an answer holds up all that
    share one (torch ≥ 2.8). Made while the first rank is there: a new one would wait for it for minutes."""
    store = dist.distributed_c10d._get_default_store()
    return store.clone() if hasattr(store, "clone") else store


def _wait(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True

"""A rank that makes no progress ends itself with exit code 75, so that the job can be started again.

One rank that died, was stopped, or waits for a disk leaves all others waiting in a collective. So each rank watches
itself: when nothing has been done for `cadence.watchdog` seconds it tells where it stands, keeps the stacks of all its
threads, and leaves. The others do the same a moment later, and the launcher ends those that cannot.

To wait for a store that is away is no hang: it ends by itself (`data.shards.back_off`). A rank whose workers wait so
says it in a file, and all ranks look there. Such time does not count.

    RUN/stacks/rank-00001.txt     of each rank that the watchdog ended; see `engine.restarts` for what comes then
    RUN/waiting.txt               which rank waits for a store, and when it last said so
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from umt_ds.data.shards import back_off
from umt_ds.distributed.world import World
from umt_ds.errors import EXIT_STOPPED

log = logging.getLogger("umt_ds")

STACKS, WAITING = "stacks", "waiting.txt"
_START_S = 1800.0  # at least, from the start to the end of the first step: imports, loading, compiling
_LOOKS = 10  # at files of other ranks in the time that is allowed: each rank asks the file system for all of them
_SAY_EACH_S = 60.0  # at least: who waits for a store
_TELLING_S = 10.0  # then it leaves, told or not: the disk of the log may be what hangs


@dataclass(frozen=True, eq=False)
class _Beat:
    """A sign of life: after what, and for how long it is enough."""

    after: str
    allowed_s: float


class Watchdog:
    """Ends this process with 75 when no `beat` comes for `limit_s` seconds; with 0 it watches nothing.

    Time in which the whole process was stopped (a suspended job) does not count. Native code that hangs with Python's
    lock in hand stops the watchdog too: then the other ranks' end the job.
    """

    def __init__(self, run: Path, *, world: World, limit_s: float) -> None:
        self._run, self._world, self._limit_s = run, world, limit_s
        self._beat = _Beat("the start", max(limit_s, _START_S))
        self._tick_s = min(1.0, limit_s / 5)
        self._waits = 0  # looks that have found a rank waiting for a store
        self._closed = threading.Event()
        if limit_s:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
            threading.Thread(target=self._look_for_waits, name="watchdog, of stores", daemon=True).start()

    def beat(self, step: int) -> None:
        """This rank got on: it ended step `step`."""
        self._beat = _Beat(f"step {step}", self._limit_s)

    @contextmanager
    def during(self, what: str) -> Iterator[Callable[[], None]]:
        """Inside, this rank does something that may take longer than any step, such as an evaluation, and calls what it
        is given as it gets on: after each batch. Afterwards the time that was allowed before begins anew."""
        before = self._beat

        def beat() -> None:
            self._beat = _Beat(f"{before.after}, in {what}", self._limit_s)

        beat()
        yield beat
        self._beat = _Beat(before.after, before.allowed_s)

    @contextmanager
    def while_growing(self, folder: Path) -> Iterator[None]:
        """Inside, this rank waits for files that it or others write below `folder`: as long as they grow, all is well.
        A large checkpoint on a slow disk may take longer than any step. Afterwards as `during`."""
        before, ended = self._beat, threading.Event()
        after = f"{before.after}, in a save"

        def look() -> None:  # in a thread of its own: a disk that hangs must not stop the watchdog
            size = -1
            while not ended.wait(self._limit_s / _LOOKS):
                now = _bytes_below(folder)
                if now != size:
                    size, self._beat = now, _Beat(after, self._limit_s)

        if self._limit_s:
            threading.Thread(target=look, name="watchdog, of a save", daemon=True).start()
        try:
            yield
        finally:
            ended.set()
        self._beat = _Beat(before.after, before.allowed_s)

    def close(self) -> None:
        """Watch no longer."""
        self._closed.set()
        with contextlib.suppress(OSError):
            (self._run / WAITING).unlink(missing_ok=True)

    def _watch(self) -> None:
        seen, quiet_s = (self._beat, self._waits), 0.0
        while not self._closed.wait(self._tick_s):  # ticks and not the clock: a stopped process has none
            now = (self._beat, self._waits)
            quiet_s = quiet_s + self._tick_s if now == seen else 0.0
            seen = now
            if quiet_s >= seen[0].allowed_s:
                self._end(seen[0])

    def _look_for_waits(self) -> None:
        """In a thread of its own: the disk of the run may hang, and must not stop the watchdog."""
        path = self._run / WAITING
        told = _text_of(path)  # by an earlier job
        while not self._closed.wait(min(_SAY_EACH_S, self._limit_s / _LOOKS)):
            if back_off.is_waiting():
                self._waits += 1
                who = f"rank {self._world.rank} of {self._world.size} on {socket.gethostname()}"
                with contextlib.suppress(OSError):
                    path.write_text(f"{who} waits for a store ({datetime.now(UTC).isoformat()})\n")
            elif (now := _text_of(path)) not in (told, ""):  # ranks write over each other: new is what counts
                told = now
                self._waits += 1
                if self._world.is_first:
                    log.warning("%s: so do the others for it", now.strip())

    def _end(self, beat: _Beat) -> None:
        telling = threading.Thread(target=self._tell, args=(beat,), daemon=True)
        telling.start()
        telling.join(_TELLING_S)
        os._exit(EXIT_STOPPED)

    def _tell(self, beat: _Beat) -> None:
        path = self._run / STACKS / f"rank-{self._world.rank:05d}.txt"
        headline = (
            f"rank {self._world.rank} of {self._world.size} on {socket.gethostname()} made no progress for "
            f"{beat.allowed_s:g} s after {beat.after} (cadence.watchdog)"
        )
        main = sys._current_frames()[threading.main_thread().ident or 0]
        log.error(
            "%s; it leaves with %d, to be started again. All its threads: %s; the main thread stands in\n%s",
            headline,
            EXIT_STOPPED,
            path,
            "".join(traceback.format_stack(main)).rstrip(),
        )
        with contextlib.suppress(OSError):  # it is told above; the run folder may be what is gone
            path.parent.mkdir(exist_ok=True)
            with path.open("w") as file:
                print(f"{datetime.now(UTC):%FT%TZ} {headline}\n", file=file, flush=True)
                faulthandler.dump_traceback(file)


def _text_of(path: Path) -> str:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return path.read_text()
    return ""


def _bytes_below(folder: Path) -> int:
    """Of all files; what comes and goes meanwhile counts or not."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size
    return total

"""Stopping: one mechanism, whoever asks. All ranks leave at the same step, with a checkpoint.

Asked by SIGTERM, SIGUSR1 or SIGINT to any rank, by the file RUN/stop (which a batch shell can touch for
all ranks at once), or by the setting `stop_at`. A second signal, half a second later or more, ends the process
at once.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType

from umt_ds.distributed.world import World
from umt_ds.errors import MachineError

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
# One wish may come twice: Ctrl-C and `timeout` signal the whole process group, and a launcher passes its own on
_SAME_WISH_S = 0.5
_CLOSED = 0  # no signal has that number


class Stop:
    """Collects wishes to stop. Make one in the main process before loader workers start.

    Python runs a signal's handler when the main thread comes back to Python: seconds late, while a step waits for other
    ranks. So when signals came is told by a thread, which reads their numbers from a pipe that they are written to as
    they come (`signal.set_wakeup_fd`).
    """

    def __init__(self, run: Path, *, world: World, stop_at: int | None = None) -> None:
        self._file = run / "stop"
        self._world = world
        self._stop_at = stop_at
        self._signalled = False
        if world.is_first:
            self._forget()  # a wish of an earlier job
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)  # as set_wakeup_fd demands
        self._previous = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        self._previous_pipe = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        self._listener = threading.Thread(target=self._listen, name="stop", daemon=True)
        self._listener.start()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True

    def _listen(self) -> None:
        first: float | None = None
        while (number := os.read(self._pipe[0], 1)[0]) != _CLOSED:
            now = time.monotonic()
            if number not in SIGNALS:  # of another handler of this process
                continue
            if first is None:
                first = now
            elif now - first >= _SAME_WISH_S:
                os._exit(128 + number)

    def _forget(self) -> None:
        try:
            self._file.unlink(missing_ok=True)
        except OSError as error:  # a folder, or another user's
            raise MachineError(
                f"{self._file} asks to stop and cannot be removed: {error.strerror}", hint="remove it, then start again"
            ) from error

    def is_due(self, step: int) -> bool:
        """Is `stop_at` reached after `step`? The same answer on every rank."""
        return step == self._stop_at

    def wanted(self) -> bool:
        """Has this rank been asked to stop? The others learn of it with the numbers of the step (`step_stats.py`)."""
        return self._signalled or (self._world.is_first and self._file.exists())

    def close(self) -> None:
        """Give the signals back to whoever had them. After one has come they are ignored instead: the process takes
        leave, and the same wish once more would end it as if it had not saved."""
        signal.set_wakeup_fd(self._previous_pipe)
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_IGN if self._signalled else handler)
        os.write(self._pipe[1], bytes([_CLOSED]))
        self._listener.join()
        for end in self._pipe:
            os.close(end)

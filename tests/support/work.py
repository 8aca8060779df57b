"""Stand-ins for make_sample and other work, which misbehave; in a module of its own so that workers can import it."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from data_prep.clip import Clip, Outcome, Refusal
from data_prep.decode import make_sample
from data_prep.engines import take_longer


def troubled(clip: Clip, **options: Any) -> Outcome:
    """Hangs, crashes or is killed on the clips that say so in their names; decodes the others."""
    if "hang" in clip.source:
        time.sleep(3600)
    if "crash" in clip.source:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "memory" in clip.source:
        os.kill(os.getpid(), signal.SIGKILL)
    return make_sample(clip, **options)


def slow(clip: Clip, **options: Any) -> Outcome:
    """Decodes, but not before 50 ms have passed."""
    time.sleep(0.05)
    return make_sample(clip, **options)


def uneven(clip: Clip, **options: Any) -> Outcome:
    """Decodes; every third clip takes much longer, so that results come in another order than asked for."""
    time.sleep(0.2 if hash(clip.key[-1]) % 3 == 0 else 0)
    return make_sample(clip, **options)


def buggy(clip: Clip, **options: Any) -> Outcome:
    """Has a bug of ours."""
    raise TypeError("a bug")


def modules(clip: Clip, **options: Any) -> Outcome:
    """Decodes, then reports as a refusal whether the worker has torch loaded."""
    make_sample(clip, **options)
    return Refusal(clip.source, f"torch loaded: {'torch' in sys.modules}")


def long_item(times: int) -> str:
    """Asks for so many times its seconds, and takes one."""
    take_longer(times=times)
    time.sleep(1.0)
    return "done"


def tells(number: int, tell: Callable[[int], None]) -> None:
    """A job beside others, that says a number so many times."""
    for _ in range(number):
        tell(number)


def fails(error: Exception, tell: Callable[[int], None]) -> None:
    """A job that raises an error."""
    raise error


def is_killed(tell: Callable[[int], None]) -> None:
    """A job whose process is killed."""
    os.kill(os.getpid(), signal.SIGKILL)


def never_ends(tell: Callable[[int], None]) -> None:
    """A job that hangs."""
    time.sleep(600)

"""Processes that must not outlive the one that started them (on Linux; other kernels do not tell them). Torch-free.

The kernel tells a process of the end of the *thread* that forked it: start such processes from one that lasts.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing import parent_process
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
# found now: a child between fork and exec should not load libraries
_PRCTL = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def die_with_the_parent() -> None:
    """At the start of a multiprocessing.Process: be killed when the one that started it ends, or now if it has."""
    parent = parent_process()
    assert parent is not None, "multiprocessing has started this process"
    _tell_me(signal.SIGKILL)
    if os.getppid() != parent.pid:  # it ended before we asked, so the kernel will not tell us
        os.kill(os.getpid(), signal.SIGKILL)


def stopping_with_this_process() -> Callable[[], None]:
    """A preexec_fn: the child gets SIGTERM when this process ends, and does not begin if it has ended already."""
    parent = os.getpid()

    def in_the_child() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # until exec it has our handlers, and would act for us
        _tell_me(signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return in_the_child


def _tell_me(number: signal.Signals) -> None:
    if _PRCTL is not None:
        _PRCTL(_PR_SET_PDEATHSIG, int(number))


def beginning(pid: int) -> str | None:
    """When a process began, in ticks since the machine did; None where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[19]  # proc(5): field 22
    except (OSError, IndexError):
        return None

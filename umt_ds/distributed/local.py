"""Ranks on this machine, without a launcher: `umt train --ranks N`. Torch-free."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

from umt_ds.distributed.parent import stopping_with_this_process
from umt_ds.distributed.world import free_port
from umt_ds.environment import Environment
from umt_ds.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED

_GRACE_S = 20.0  # for the other ranks after one has failed or stopped: they notice by themselves, or are ended
_FORWARDED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


def run_local_ranks(command: Sequence[str], ranks: int) -> int:
    """Run `command` once per rank and wait; signals are passed on. The exit code of the whole job:
    0 if all are done, 75 if all stopped resumably, else the code of the first that failed."""
    common = {
        **os.environ,
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    if Environment().text("OMP_NUM_THREADS") is None:
        common["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // ranks))
    children: list[subprocess.Popen[bytes]] = []

    def forward(number: int, frame: FrameType | None) -> None:
        for child in children:
            if child.poll() is None:
                child.send_signal(number)

    previous = {number: signal.signal(number, forward) for number in _FORWARDED}
    try:
        for rank in range(ranks):
            env = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            children.append(subprocess.Popen(command, env=env, preexec_fn=stopping_with_this_process()))
        return _wait(children)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _wait(children: list[subprocess.Popen[bytes]]) -> int:
    failed: int | None = None
    deadline = float("inf")
    while any(child.poll() is None for child in children):
        for rank, child in enumerate(children):
            code = child.poll()
            if failed is None and code not in (None, EXIT_DONE, EXIT_STOPPED):
                failed, deadline = code, time.monotonic() + _GRACE_S
                print(f"rank {rank} ended with {_describe(code)}; ending the others", file=sys.stderr)
            if code == EXIT_STOPPED:  # ranks stop together; one that does not hangs (see engine.watchdog)
                deadline = min(deadline, time.monotonic() + _GRACE_S)
        if time.monotonic() > deadline:
            late = [child for child in children if child.poll() is None]
            for child in late:
                child.kill()
                child.wait()
            children = [child for child in children if child not in late]
        time.sleep(0.05)
    codes = {child.returncode for child in children}
    if failed is None:
        failed = next((code for code in codes if code not in (EXIT_DONE, EXIT_STOPPED)), None)
    if failed is not None:
        return failed if failed > 0 else EXIT_FAILED
    return EXIT_STOPPED if EXIT_STOPPED in codes else EXIT_DONE


def _describe(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"

"""Run functions on several ranks: a few processes that do one call after another.

    results = run_ranks(2, [call("tests.distributed.calls:train", overrides=[...]), ...])   # one process group for all
    results[rank][number] is what the call returned (JSON) on that rank

A hang ends after `timeout_s` with the output of all ranks.

torch and DeepSpeed are imported once for all launches of a pytest process, and ranks are forks of the process that did
it. So all have one hash seed: what differs by the order of a set shows only in jobs that `jobs.py` starts as users do.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from umt_ds.distributed.world import free_port

REPO = Path(__file__).resolve().parents[2]
Call = dict[str, Any]


def call(target: str, **arguments: Any) -> Call:
    """A call of `module:function` with JSON arguments; modules are named from the repository's root."""
    return {"target": target, "arguments": arguments}


def run_ranks(world: int, calls: Sequence[Call], *, timeout_s: float = 600) -> list[list[Any]]:
    """Do the calls in order on `world` ranks. Fails with the ranks' output."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "calls.json").write_text(json.dumps(list(calls)))
        port = free_port()
        children = [_start(folder, rank, world, port) for rank in range(world)]
        deadline = time.monotonic() + timeout_s
        try:
            for child in children:
                child.join(max(0.0, deadline - time.monotonic()))
            codes = [child.exitcode for child in children]
        finally:
            for child in children:
                child.kill()
        if any(codes) or None in codes:
            what = "a rank hangs" if None in codes else f"exit codes {codes}"
            raise AssertionError(f"{what}\n{_outputs(folder, world)}")
        return [json.loads((folder / f"result-{rank}.json").read_text()) for rank in range(world)]


def environment() -> dict[str, str]:
    """For subprocesses of tests: the repository and tests importable, one thread each."""
    return {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def _start(folder: Path, rank: int, world: int, port: int) -> ForkServerProcess:
    env = {**environment(), "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    child = _forks().Process(target=_rank, args=(folder, env))
    child.start()
    return child


@cache
def _forks() -> ForkServerContext:
    """The process of which all ranks are forks, started with one thread."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.imported_once"])
    with patch.dict(os.environ, environment()):
        forkserver.ensure_running()
    return context


def _rank(folder: Path, env: Mapping[str, str]) -> None:
    """A rank, from its first line to its last."""
    with (folder / f"output-{env['RANK']}.txt").open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os.environ.clear()
    os.environ.update(env)
    np.random.seed()  # not as the other forks
    _do_calls(folder)


def _outputs(folder: Path, world: int) -> str:
    return "\n".join(f"--- rank {r}\n{(folder / f'output-{r}.txt').read_text()[-6000:]}" for r in range(world))


def _do_calls(folder: Path) -> None:
    from umt_ds.distributed.job import start_job

    results = []
    with start_job():
        for item in json.loads((folder / "calls.json").read_text()):
            module, _, function = item["target"].partition(":")
            results.append(getattr(importlib.import_module(module), function)(**item["arguments"]))
    (folder / f"result-{os.environ['RANK']}.json").write_text(json.dumps(results))

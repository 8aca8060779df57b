"""Run functions on several ranks: a few processes that import once and then do one call after another.

    results = run_ranks(2, [call("tests.distributed.calls:train", overrides=[...]), ...])   # one process group for all
    results[rank][number] is what the call returned (JSON) on that rank

A hang ends after `timeout_s` with the output of all ranks.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
        try:
            for child in children:
                child.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"a rank hangs\n{_outputs(folder, world)}") from None
        finally:
            for child in children:
                child.kill()
        if any(child.returncode for child in children):
            raise AssertionError(f"exit codes {[c.returncode for c in children]}\n{_outputs(folder, world)}")
        return [json.loads((folder / f"result-{rank}.json").read_text()) for rank in range(world)]


def environment() -> dict[str, str]:
    """For subprocesses of tests: the repository and tests importable, one thread each."""
    return {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def _start(folder: Path, rank: int, world: int, port: int) -> subprocess.Popen[bytes]:
    env = {**environment(), "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with (folder / f"output-{rank}.txt").open("w") as output:
        command = [sys.executable, "-m", "tests.support.ranks", str(folder)]
        return subprocess.Popen(command, env=env, stdout=output, stderr=subprocess.STDOUT)


def _outputs(folder: Path, world: int) -> str:
    return "\n".join(f"--- rank {r}\n{(folder / f'output-{r}.txt').read_text()[-6000:]}" for r in range(world))


def _main(folder: Path) -> None:
    from umt_ds.distributed.job import start_job

    results = []
    with start_job():
        for item in json.loads((folder / "calls.json").read_text()):
            module, _, function = item["target"].partition(":")
            results.append(getattr(importlib.import_module(module), function)(**item["arguments"]))
    (folder / f"result-{os.environ['RANK']}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))

"""Many measurements in a row: the points of a sweep, and each in processes of its own. Torch-free.

DeepSpeed is not made to be built twice in a process, and a point that runs out of memory must not take others along.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

from umt_ds.bench.step_report import StepReport, load_outcome
from umt_ds.config.load import parse_override
from umt_ds.distributed.parent import stopping_with_this_process
from umt_ds.environment import temporary_folder
from umt_ds.errors import ConfigError

Point = tuple[str, ...]  # overrides


def sweep_points(sweeps: Sequence[str]) -> list[Point]:
    """Every combination: `["a=1,2", "b=x,y"]` → (a=1, b=x), (a=1, b=y), (a=2, b=x), (a=2, b=y).

    Keys in one sweep, with a space between them, move together: `"a=1,2 b=x,y"` → (a=1, b=x), (a=2, b=y).
    Raises ConfigError where a sweep is not of that form.
    """
    return [tuple(word for words in combination for word in words) for combination in product(*map(_moves, sweeps))]


def _moves(sweep: str) -> list[Point]:
    keys = []
    for part in sweep.split():
        key, _, values = part.partition("=")
        keys.append([f"{key}={value}" for value in values.split(",")])
    counts = {len(words) for words in keys}
    if len(counts) != 1 or not all(word.partition("=")[2] for words in keys for word in words):
        raise ConfigError(
            f"sweep {sweep!r} does not name a key and its values, or keys with as many values each",
            hint="for example --sweep data.num_sample=1,2 --sweep 'batch.micro=16,32 batch.global=64,128'",
        )
    for words in keys:
        parse_override(words[0])
    return list(zip(*keys, strict=True))


def label(point: Point) -> str:
    """A point in short: two parts of each key say enough."""
    words = [override.partition("=") for override in point]
    return " ".join(f"{'.'.join(key.split('.')[-2:])}={value}" for key, _, value in words)


def measure_apart(words: Sequence[str]) -> StepReport | str:
    """`umt bench step` with these words, in a process of its own: its report, or why there is none."""
    with TemporaryDirectory(dir=temporary_folder()) as folder:
        outcome = Path(folder) / "outcome.json"
        command = [sys.executable, "-m", "umt_ds", "bench", "step", *words, "--outcome", str(outcome)]
        code = subprocess.run(command, check=False, preexec_fn=stopping_with_this_process()).returncode
        if outcome.is_file():
            return load_outcome(outcome)
    if code == -signal.SIGKILL:
        return "killed, most likely because the machine ran out of memory"
    return f"ended with exit code {code}"

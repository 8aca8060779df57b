"""What a measurement is worth nothing without: when, where, with which versions, how it spread; and its file."""

from __future__ import annotations

import multiprocessing
import platform
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

from umt_ds import __version__
from umt_ds.errors import ConfigError

RESULTS = Path(__file__).with_name("RESULTS.md")


def header(command: str, packages: Sequence[str]) -> list[str]:
    """Lines for the top of a table: command, date, machine, commit, versions."""
    versions = [f"{package} {_version(package)}" for package in packages]
    gpus = gpu_models()
    return [
        f"command: {command}",
        f"date:    {time.strftime('%Y-%m-%d %H:%M')}",
        f"machine: {cpu_model()}, {platform.machine()}, {platform.system()}",
        *([f"gpu:     {gpus}"] if gpus else []),
        f"code:    umt_ds {__version__}, commit {_commit()}",
        f"with:    python {platform.python_version()}, {', '.join(versions)}",
    ]


def cpu_model() -> str:
    """The processor's name, as Linux tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} cores of {names[0]}" if names else platform.processor() or sys.platform


def gpu_models() -> str:
    """The graphics processors and their driver, as nvidia-smi tells them; empty where there are none."""
    told = _answer("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    counts = Counter(line.partition(",")[0].strip() for line in told.splitlines())
    names = ", ".join(f"{count} x {name}" for name, count in counts.items())
    return f"{names}, driver {told.splitlines()[0].partition(',')[2].strip()}" if names else ""


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median, least and most of what the rounds gave."""
    middle, least, most = (f"{value:,.{digits}f}" for value in (median(values), min(values), max(values)))
    return f"{middle} ({least}-{most})"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


class Clock:
    """Time on the wall, and time of the cores: of this process, its children, and those that ended meanwhile."""

    wall_s = core_s = 0.0

    def __enter__(self) -> Clock:
        self.wall_s, self.core_s = -time.perf_counter(), -_core_seconds()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall_s += time.perf_counter()
        self.core_s += _core_seconds()


def _core_seconds() -> float:
    """User and system time. A child that ends in between moves from the living, by its clock, to the ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    # Linux's number for the clock of another process (CPUCLOCK_SCHED); /proc counts in hundredths of a second
    living = [(~child.pid << 3) | 2 for child in multiprocessing.active_children() if child.pid]
    return sum(one.ru_utime + one.ru_stime for one in used) + sum(map(time.clock_gettime, living))


def record(title: str, text: str, results: Path = RESULTS) -> None:
    """Append a measurement to RESULTS.md. What stands there is never changed."""
    if not results.is_file():
        raise ConfigError(f"{results} is not there", hint="--record works in a checkout of the repository")
    with results.open("a", encoding="utf-8") as file:
        file.write(f"\n## {time.strftime('%Y-%m-%d')} {title}\n\n```\n{text.rstrip()}\n```\n")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _commit() -> str:
    """Of the checkout that this file lies in, with a + where more than RESULTS was changed since; unknown elsewhere."""
    commit = _git("rev-parse", "--short", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":/", f":(exclude){RESULTS.name}")
    return f"{commit}{'+' if changed else ''}" if commit else "unknown"


def _git(*arguments: str) -> str:
    return _answer("git", "-C", str(Path(__file__).parent), *arguments)


def _answer(*command: str) -> str:
    """What a command says; empty where it is not there or fails."""
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""

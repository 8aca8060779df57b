"""`run_local_ranks` with children of a few lines: exit codes, the grace after a failure, signals passed on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.support.paths import REPO
from umt_ds.distributed import local
from umt_ds.distributed.local import run_local_ranks

RANK = "import os, sys, time, signal; from pathlib import Path; rank = int(os.environ['RANK'])\n"
WAIT_FOR_THE_END = "time.sleep(60)"


def python(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-S", "-c", RANK + code, *map(str, arguments)]


def test_every_rank_is_told_its_place(tmp_path: Path) -> None:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    code = f"Path(sys.argv[1], str(rank)).write_text(' '.join(os.environ[n] for n in {names}))"
    assert run_local_ranks(python(code, tmp_path), 3) == 0
    told = [(tmp_path / str(rank)).read_text().split() for rank in range(3)]
    ports = {port for *_, port in told}
    assert [place for *place, _ in told] == [[str(r), str(r), "3", "127.0.0.1"] for r in range(3)]
    assert len(ports) == 1


def test_the_cores_are_shared_unless_the_user_said_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "Path(sys.argv[1]).write_text(os.environ['OMP_NUM_THREADS'])"
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    run_local_ranks(python(code, tmp_path / "threads"), 3)
    assert (tmp_path / "threads").read_text() == "4"
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    run_local_ranks(python(code, tmp_path / "threads"), 3)
    assert (tmp_path / "threads").read_text() == "2"


@pytest.mark.parametrize(
    ("codes", "whole"),
    [
        ((0, 0, 0), 0),
        ((75, 75, 75), 75),
        ((0, 75, 0), 75),  # stopped while another rank finished: not done
        ((3, 0, 0), 3),
        ((0, 2, 75), 2),
    ],
)
def test_the_exit_code_of_the_job(codes: tuple[int, ...], whole: int) -> None:
    assert run_local_ranks(python(f"sys.exit({codes}[rank])"), 3) == whole


def test_a_rank_killed_by_a_signal_is_a_failure() -> None:
    assert run_local_ranks(python("os.kill(os.getpid(), signal.SIGKILL) if rank else None"), 2) == 1


def test_when_one_rank_fails_the_others_are_ended_after_the_grace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(local, "_GRACE_S", 0.3)
    begin = time.monotonic()
    assert run_local_ranks(python(f"sys.exit(9) if rank == 1 else {WAIT_FOR_THE_END}"), 3) == 9
    assert 0.3 <= time.monotonic() - begin < 30, "not before the grace, and long before they would have ended"
    assert "rank 1 ended with exit code 9; ending the others" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_passed_on_to_every_rank(tmp_path: Path, number: signal.Signals) -> None:
    """And the job waits for what the ranks make of it: here they stop, resumable, as training does."""
    code = f"""
signal.signal({int(number)}, lambda *_: sys.exit(75))
Path(sys.argv[1], str(rank)).touch()
{WAIT_FOR_THE_END}
"""

    def signal_when_all_are_ready() -> None:
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    sender = threading.Thread(target=signal_when_all_are_ready, daemon=True)
    sender.start()
    assert run_local_ranks(python(code, tmp_path), 2) == 75
    assert signal.getsignal(number) is before, "and the handler is given back"


def test_a_rank_that_hangs_while_the_others_stop_is_ended_and_the_job_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_GRACE_S", 0.5)
    started = time.monotonic()
    code = f"os.kill(os.getpid(), signal.SIGSTOP) if rank else sys.exit(75)\n{WAIT_FOR_THE_END}"
    assert run_local_ranks(python(code), 2) == 75
    assert time.monotonic() - started < 20


def test_ranks_are_asked_to_stop_when_their_launcher_is_killed(tmp_path: Path) -> None:
    rank = f"signal.signal(15, lambda *_: (Path(sys.argv[1]).write_text('asked'), os._exit(0)))\n{WAIT_FOR_THE_END}"
    command = python("Path(sys.argv[2]).touch()\n" + rank, tmp_path / "asked", tmp_path / "there")
    code = f"from umt_ds.distributed.local import run_local_ranks; run_local_ranks({command!r}, 1)"
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    launcher = subprocess.Popen([sys.executable, "-c", code], env=environment)
    _wait_for(tmp_path / "there")
    time.sleep(0.2)  # the handler is set a moment after
    launcher.kill()
    launcher.wait()
    _wait_for(tmp_path / "asked")


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} did not come"
        time.sleep(0.02)

"""Decode processes end with the one that started them, at whatever moment, and without a word of theirs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from data_prep.engines import map_ordered
from tests.support.paths import REPO

LOOPING = """
import os, sys
from pathlib import Path
from data_prep.engines import map_ordered

def work(number):
    Path(sys.argv[1], str(os.getpid())).touch()
    while True:
        pass

if __name__ == "__main__":
    list(map_ordered(work, range(4), workers=2, timeout_s=300))
"""


def test_workers_that_are_still_starting_when_the_pool_ends_say_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        with closing(map_ordered(abs, range(99), workers=5, timeout_s=60)) as results:
            assert next(results) == 0  # of one worker: the others are on their way
    assert capfd.readouterr().err == ""


MASKED = """
import multiprocessing, signal
from data_prep.engines import _interrupts_held_back

def tell():
    print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))

if __name__ == "__main__":
    with _interrupts_held_back():  # the first process of this one, with which multiprocessing starts another
        process = multiprocessing.get_context("spawn").Process(target=tell)
        process.start()
    process.join()
    tell()
"""


def test_ctrl_c_never_reaches_the_first_process_that_is_started_either(tmp_path: Path) -> None:
    (script := tmp_path / "masked.py").write_text(MASKED)
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


@pytest.mark.slow
def test_decoders_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    (script := tmp_path / "looping.py").write_text(LOOPING)
    (working := tmp_path / "working").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    parent = subprocess.Popen([sys.executable, str(script), str(working)], env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(working.iterdir())) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    while any(Path("/proc", path.name).exists() for path in working.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.05)

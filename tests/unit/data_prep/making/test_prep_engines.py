"""Decode processes end with the one that started them, even in the middle of a file that never ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

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

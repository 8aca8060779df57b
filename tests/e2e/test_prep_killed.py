"""umt-data that is killed again and again ends with the bytes of a run that was left alone."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.ranks import environment
from tests.support.videos import write_video

KILLS = 10
pytestmark = pytest.mark.e2e


def start(videos: Path, out: Path) -> subprocess.Popen[bytes]:
    """`umt-data folder` in a process group of its own, so that all of it can be killed."""
    words = ["folder", str(videos), str(out), "--name", "set", "--frames", "8", "--per-shard", "2", "--workers", "2"]
    return subprocess.Popen([sys.executable, "-m", "data_prep", *words], env=environment(), start_new_session=True)


def hashes(out: Path) -> dict[str, str]:
    """Every file of a set by content, its state too."""
    files = [path for path in out.rglob("*") if path.is_file() and path.name not in ("lock", "plan.json")]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def files_of_done(out: Path) -> list[Path]:
    return list((out / ".umt-data" / "done").glob("*.json"))


def shards_done(out: Path) -> int:
    return len(files_of_done(out))


def seconds_a_shard(out: Path) -> float:
    """On this machine, by when the first and the last shard of a finished set were done."""
    times = [path.stat().st_mtime for path in files_of_done(out)]
    return (max(times) - min(times)) / (len(times) - 1)


def test_ten_kills_at_any_moment_change_no_byte(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    write_video(videos / "v00.mp4", frames=40, size=(1280, 720))
    for number in range(1, 48):
        (videos / f"v{number:02d}.mp4").symlink_to(videos / "v00.mp4")
    assert start(videos, tmp_path / "unbroken").wait(timeout=240) == 0
    out, pace_s = tmp_path / "killed", seconds_a_shard(tmp_path / "unbroken")
    done = [0]
    for _ in range(KILLS):
        victim = start(videos, out)
        if done[-1] < 20:  # let it get some work done before the end of its life, somewhere in a shard
            deadline = time.monotonic() + 60
            while shards_done(out) <= done[-1] and victim.poll() is None:
                assert time.monotonic() < deadline, "it makes no progress"
                time.sleep(0.01)
        time.sleep(random.uniform(0, 2 * pace_s))  # a fast machine would be done in a fixed time
        os.killpg(victim.pid, signal.SIGKILL)
        victim.wait()
        done.append(shards_done(out))
    assert len(set(done)) > KILLS // 2, f"killed after {done} shards: too early or too late to prove anything"
    assert start(videos, out).wait(timeout=240) == 0
    assert hashes(out) == hashes(tmp_path / "unbroken")

"""The watchdog in processes of a few lines, and the count of its ends. A real job is in tests/distributed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.ranks import environment
from umt_ds.distributed.world import World
from umt_ds.engine.restarts import NoProgressError, check_restarts, note_failed_step
from umt_ds.errors import EXIT_FAILED, EXIT_STOPPED

ALONE = World.alone()
RANK = """
import logging, os, sys, threading, time
from pathlib import Path
from umt_ds.distributed.world import World
from umt_ds.engine.watchdog import Watchdog
logging.getLogger("umt_ds").addHandler(logging.StreamHandler())
run = Path(sys.argv[1])
watchdog = Watchdog(run, world=World(1, 2, 1, "", 1, "env"), limit_s=float(sys.argv[2]))
def wait_for_the_others():
    time.sleep(60)
"""


def start(code: str, run: Path, *, limit_s: float) -> subprocess.Popen[str]:
    """Rank 1 of 2 with a watchdog."""
    command = [sys.executable, "-c", RANK + code, str(run), str(limit_s)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment(), text=True, **pipes)


def test_a_rank_that_hangs_says_where_and_leaves_to_be_started_again(tmp_path: Path) -> None:
    code = """
def hash_a_file():
    time.sleep(60)
threading.Thread(target=hash_a_file, daemon=True).start()
watchdog.beat(12)
wait_for_the_others()
"""
    rank = start(code, tmp_path, limit_s=0.2)
    _, told = rank.communicate(timeout=60)
    assert rank.returncode == EXIT_STOPPED
    assert f"rank 1 of 2 on {os.uname().nodename} made no progress for 0.2 s after step 12" in told
    assert "in wait_for_the_others" in told, "the stack of the main thread"
    stacks = (tmp_path / "stacks" / "rank-00001.txt").read_text()
    assert "after step 12" in stacks
    assert "in wait_for_the_others" in stacks
    assert "in hash_a_file" in stacks, "and of all others"


def test_it_leaves_although_the_disk_of_the_run_hangs_too(tmp_path: Path) -> None:
    (tmp_path / "stacks").mkdir()
    os.mkfifo(tmp_path / "stacks" / "rank-00001.txt")  # opening it waits for a reader, for ever
    code = "import umt_ds.engine.watchdog as w; w._TELLING_S = 0.5; watchdog.beat(1); wait_for_the_others()"
    rank = start(code, tmp_path, limit_s=0.2)
    _, told = rank.communicate(timeout=60)
    assert rank.returncode == EXIT_STOPPED
    assert "made no progress" in told


@pytest.mark.parametrize(
    ("code", "limit_s"),
    [
        ("for step in range(12): watchdog.beat(step); time.sleep(0.1)", 0.6),
        ("time.sleep(0.6)", 0.1),  # starting up: no step has ended
        ("watchdog.beat(1); watchdog.close(); time.sleep(0.6)", 0.1),
        ("watchdog.beat(1); time.sleep(0.6)", 0),
    ],
    ids=["steps", "start", "closed", "off"],
)
def test_it_lets_live_who_gets_on_or_is_not_watched(tmp_path: Path, code: str, limit_s: float) -> None:
    rank = start(code, tmp_path, limit_s=limit_s)
    _, told = rank.communicate(timeout=60)
    assert (rank.returncode, told) == (0, "")


WRITING = """
def write():
    for _ in range(12):
        with (run / "weight.partial").open("ab") as file:
            file.write(b"a block")
        time.sleep(0.1)
    if ends_badly:
        wait_for_the_others()
ends_badly = False
run.mkdir(exist_ok=True)
watchdog.beat(4)
with watchdog.while_growing(run):
    write()
"""


def test_who_waits_for_a_save_lives_as_long_as_its_files_grow(tmp_path: Path) -> None:
    rank = start(WRITING, tmp_path / "checkpoints", limit_s=0.5)
    _, told = rank.communicate(timeout=60)
    assert (rank.returncode, told) == (0, "")


def test_a_save_that_stands_still_is_ended_as_any_hang(tmp_path: Path) -> None:
    rank = start(WRITING.replace("= False", "= True"), tmp_path / "checkpoints", limit_s=0.5)
    _, told = rank.communicate(timeout=60)
    assert rank.returncode == EXIT_STOPPED
    assert "made no progress for 0.5 s after step 4, in a save (cadence.watchdog)" in told


EVALUATING = """
def encode_a_batch():
    time.sleep(0.1)
watchdog.beat(4)
with watchdog.during("the evaluation knn") as beat:
    for batch in range(12):
        encode_a_batch()
        beat()
    if hangs:
        wait_for_the_others()
time.sleep(0.1)
"""


def test_an_evaluation_that_is_longer_than_the_limit_lives_as_long_as_it_gets_on(tmp_path: Path) -> None:
    rank = start(f"hangs = False\n{EVALUATING}", tmp_path, limit_s=0.6)
    _, told = rank.communicate(timeout=60)
    assert (rank.returncode, told) == (0, "")


def test_a_hang_in_an_evaluation_is_ended_as_any_hang(tmp_path: Path) -> None:
    rank = start(f"hangs = True\n{EVALUATING}", tmp_path, limit_s=0.6)
    _, told = rank.communicate(timeout=60)
    assert rank.returncode == EXIT_STOPPED
    assert "made no progress for 0.6 s after step 4, in the evaluation knn (cadence.watchdog)" in told


def test_an_evaluation_before_the_first_step_leaves_it_the_time_to_start(tmp_path: Path) -> None:
    code = "with watchdog.during('the evaluation knn') as beat: beat()\ntime.sleep(0.8)"
    rank = start(code, tmp_path, limit_s=0.1)
    _, told = rank.communicate(timeout=60)
    assert (rank.returncode, told) == (0, "")


def test_the_time_of_a_suspended_job_does_not_count(tmp_path: Path) -> None:
    """`scontrol suspend` stops all processes of a job; when it goes on, nothing hangs."""
    rank = start("watchdog.beat(1); print('ready', flush=True); input(); watchdog.close()", tmp_path, limit_s=0.5)
    assert rank.stdout is not None
    rank.stdout.readline()
    rank.send_signal(signal.SIGSTOP)
    time.sleep(1)
    assert rank.stdin is not None
    rank.stdin.write("\n")
    rank.stdin.flush()
    rank.send_signal(signal.SIGCONT)
    _, told = rank.communicate(timeout=60)
    assert (rank.returncode, told) == (0, "")


# ---------------------------------------------------------------- a store that is away

WAITING = """
from umt_ds.data.shards import back_off
back_off._ANSWER_S, back_off._LONGEST_S, back_off.retry_after_s = 0.1, 0.0, lambda error: 0.1
def ask_a_store():
    outage = back_off.Outage("s3://bucket/set")
    for _ in range(12):
        outage.next_pause_s(OSError("reset"))
        time.sleep(0.1)
os.environ["TMPDIR"] = str(run)
watchdog.beat(3)
"""


def test_to_wait_for_a_store_is_no_hang_for_the_rank_and_for_those_that_wait_for_it(tmp_path: Path) -> None:
    asks = WAITING + "worker = os.fork() or (ask_a_store(), os._exit(0)); os.waitpid(worker, 0); watchdog.close()"
    until_told = "while not (run / 'waiting.txt').exists(): watchdog.beat(3); time.sleep(0.01)"
    ranks = [start(code, tmp_path, limit_s=0.6) for code in (f"{until_told}\ntime.sleep(1); watchdog.close()", asks)]
    told = [rank.communicate(timeout=60)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], told
    assert "s3://bucket/set was asked for 2 times" in told[1]
    assert not (tmp_path / "waiting.txt").exists()


def test_what_hangs_when_the_store_serves_again_is_ended(tmp_path: Path) -> None:
    rank = start(f"{WAITING}\nask_a_store()\nwait_for_the_others()", tmp_path, limit_s=0.6)
    _, told = rank.communicate(timeout=60)
    assert rank.returncode == EXIT_STOPPED
    assert "made no progress for 0.6 s after step 3" in told


# ---------------------------------------------------------------- again and again


def watchdog_ends_a_job(run: Path, *, checkpoint: int | None = None) -> None:
    """A job starts, saves at step `checkpoint`, then hangs."""
    check_restarts(run, ALONE)
    if checkpoint is not None:
        (run / "checkpoints" / f"step-{checkpoint:08d}").mkdir(parents=True)
    (run / "stacks").mkdir()


def counted(run: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((run / "restarts.json").read_text())
    return found


def test_a_job_that_hangs_three_times_at_the_same_place_is_not_started_a_fourth_time(tmp_path: Path) -> None:
    watchdog_ends_a_job(tmp_path, checkpoint=12)  # it made progress first
    for ends in range(3):
        watchdog_ends_a_job(tmp_path)
        assert counted(tmp_path) == {"step": 12, "watchdog_ends": ends, "failed_steps": []}
    with pytest.raises(NoProgressError, match="3 jobs in a row made no progress after step 12") as raised:
        check_restarts(tmp_path, ALONE)
    assert raised.value.exit_code == EXIT_FAILED
    assert f"the stacks in {tmp_path}/stacks-*" in str(raised.value.hint)
    assert len(list(tmp_path.glob("stacks-*"))) >= 1
    check_restarts(tmp_path, ALONE)  # a person starts it again: three more tries
    assert counted(tmp_path) == {"step": 12, "watchdog_ends": 0, "failed_steps": []}


def test_a_newer_checkpoint_or_an_end_of_another_kind_does_not_count(tmp_path: Path) -> None:
    for step in (2, 4, 6, 8, 10):
        watchdog_ends_a_job(tmp_path, checkpoint=step)
    for _ in range(5):  # killed, full disk, preempted
        check_restarts(tmp_path, ALONE)
    assert counted(tmp_path) == {"step": 10, "watchdog_ends": 0, "failed_steps": []}


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[1]",
        "7",
        "null",
        '{"step": 0, "watchdog_ends": "2"}',
        '{"step": [0]}',
        '{"step": 0, "watchdog_ends": 2, "failed_steps": 7}',
        "[" * 9000,
        "\ud83d",
        "\0",
    ],
)
def test_a_damaged_count_stops_nobody_and_begins_anew(tmp_path: Path, damage: str) -> None:
    watchdog_ends_a_job(tmp_path)
    (tmp_path / "restarts.json").write_text(damage, errors="surrogatepass")
    check_restarts(tmp_path, ALONE)
    assert counted(tmp_path) == {"step": 0, "watchdog_ends": 0, "failed_steps": []}


def nan_ends_a_job(run: Path, step: int) -> frozenset[int]:
    """A job starts and meets a NaN in `step`; what it knew of those before."""
    known = check_restarts(run, ALONE)
    note_failed_step(run, ALONE, step)
    return known


def test_a_start_knows_in_which_steps_those_since_the_last_checkpoint_failed(tmp_path: Path) -> None:
    assert nan_ends_a_job(tmp_path, 7) == frozenset()
    assert nan_ends_a_job(tmp_path, 9) == {7}
    (tmp_path / "checkpoints" / "step-00000008").mkdir(parents=True)  # steps 0 to 7 went well this time
    assert check_restarts(tmp_path, ALONE) == {9}


def test_nans_in_three_jobs_without_a_newer_checkpoint_are_enough(tmp_path: Path) -> None:
    for step in (7, 9, 8):
        nan_ends_a_job(tmp_path, step)
    with pytest.raises(NoProgressError, match=r"3 jobs met a NaN or infinity .* in the steps 7, 9, 8"):
        check_restarts(tmp_path, ALONE)
    assert check_restarts(tmp_path, ALONE) == frozenset(), "a person starts it again"

"""The cache of a node: bounded whatever happens, shared without locks, only ever speed."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
from pathlib import Path

import pytest

from umt_ds.data.block_cache import BlockCache

SIZE = 1000


def block(number: int) -> bytes:
    return bytes([number % 256]) * SIZE


def stored_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def used_at(cache: BlockCache, name: str, time_s: float) -> None:
    os.utime(next(cache.folder.rglob(name)), (time_s, time_s))


def test_a_block_comes_back_from_another_process_and_after_a_restart(tmp_path: Path) -> None:
    BlockCache(tmp_path, max_bytes=10 * SIZE).put("a", block(1))
    again = BlockCache(tmp_path, max_bytes=10 * SIZE)
    assert again.has("a")
    assert again.get("a") == block(1)
    again.drop("a")
    assert again.get("a") is None
    again.drop("a")  # another process may have been quicker


def test_what_was_used_longest_ago_makes_room(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, max_bytes=3 * SIZE)
    for time_s, name in enumerate("abc"):
        cache.put(name, block(0))
        used_at(cache, name, time_s)
    cache.get("a")  # now the newest
    cache.put("d", block(0))
    assert [name for name in "abcd" if cache.has(name)] == ["a", "c", "d"]


@pytest.mark.parametrize("max_bytes", [0, SIZE // 2, SIZE, 5 * SIZE + 1])
def test_the_bound_holds_for_any_number_of_blocks(tmp_path: Path, max_bytes: int) -> None:
    cache = BlockCache(tmp_path, max_bytes=max_bytes)
    for number in range(40):
        cache.put(str(number), block(number))
        assert stored_bytes(tmp_path) <= max_bytes
    assert stored_bytes(tmp_path) == max_bytes // SIZE * SIZE


def test_a_large_bound_is_shared_out_to_sets_and_fills_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("umt_ds.data.block_cache._SET_BYTES", 50 * SIZE)
    cache = BlockCache(tmp_path, max_bytes=500 * SIZE)
    for number in range(450):
        cache.put(str(number), block(number))
    assert len(list(cache.folder.iterdir())) == 10
    assert sum(cache.has(str(number)) for number in range(450)) > 400  # nine tenths of what there is room for
    for number in range(450, 2000):
        cache.put(str(number), block(number))
    assert stored_bytes(tmp_path) == 500 * SIZE


def test_another_bound_begins_anew_and_leaves_nothing_of_the_old_one(tmp_path: Path) -> None:
    big = BlockCache(tmp_path, max_bytes=300 << 20)
    for number in range(20):
        big.put(str(number), block(number))
    BlockCache(tmp_path, max_bytes=3 * SIZE)
    assert stored_bytes(tmp_path) == 0
    big.put("still", block(1))  # of a run that goes on: it makes its folders again
    assert big.get("still") == block(1)


@pytest.mark.parametrize("file", ["sets-2/mine.tar", "sets-2/00002/mine.tar", "sets-of-mine/00000/mine.tar"])
def test_another_bound_removes_nothing_that_is_not_the_caches(tmp_path: Path, file: str) -> None:
    mine = tmp_path / file
    mine.parent.mkdir(parents=True)
    mine.touch()
    BlockCache(tmp_path, max_bytes=3 * SIZE)
    assert mine.exists()


def test_a_disk_that_does_not_answer_has_no_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user's folder, or a mount that is gone: pathlib's is_file raises there."""
    cache = BlockCache(tmp_path, max_bytes=3 * SIZE)

    def fail(*args: object, **how: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "stat", fail)
    assert not cache.has("a")
    assert cache.get("a") is None


def test_a_disk_that_cannot_be_written_costs_speed_only(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = BlockCache(tmp_path / "file", max_bytes=10 * SIZE)
    assert "Not a directory" in str(cache.put("a", block(1)))
    assert cache.get("a") is None
    assert not cache.has("a")


def test_what_is_no_block_does_not_stand_in_the_way(tmp_path: Path) -> None:
    """A folder in the place of a block, and a stranger's folder in a set that makes room."""
    cache = BlockCache(tmp_path, max_bytes=3 * SIZE)
    cache.put("a", block(1))
    (cache._path("b") / "inside").mkdir(parents=True)
    os.utime(cache._path("b"), (0, 0))  # the oldest
    assert not cache.has("b")
    assert cache.get("b") is None
    assert "directory" in str(cache.put("b", block(2)))
    for number in range(5):
        assert cache.put(f"c{number}", block(number)) is None
    assert cache.get("c4") == block(4)
    assert stored_bytes(tmp_path) <= 3 * SIZE
    assert not list(tmp_path.rglob("*.partial"))


def test_a_folder_that_vanishes_is_made_again(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path / "cache", max_bytes=3 * SIZE)
    cache.put("a", block(1))
    shutil.rmtree(tmp_path / "cache")
    assert cache.get("a") is None
    assert cache.put("a", block(1)) is None
    assert cache.get("a") == block(1)


def test_another_users_blocks_are_read_and_not_made_room_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = BlockCache(tmp_path, max_bytes=2 * SIZE)
    for name in "ab":
        cache.put(name, block(1))

    def refuse(*args: object, **how: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr(os, "unlink", refuse)
    assert cache.get("a") == block(1)
    assert "another user" in str(cache.put("c", block(3)))
    assert not cache.has("c")


def churn(folder: Path, seed: int, rounds: int) -> None:
    """Put and get blocks of few names; exit code 1 where a block has other bytes than its own."""
    cache = BlockCache(folder, max_bytes=8 * SIZE)
    chance = random.Random(seed)
    for _ in range(rounds):
        number = chance.randrange(30)
        if cache.get(str(number)) not in (None, block(number)):
            os._exit(1)
        cache.put(str(number), block(number))
    os._exit(0)


def test_writers_and_evictors_in_many_processes_keep_blocks_whole_and_the_bound(tmp_path: Path) -> None:
    """One more is killed in the middle: what it leaves behind is counted, and goes like any old block."""
    fork = multiprocessing.get_context("fork")
    BlockCache(tmp_path, max_bytes=8 * SIZE).put("0", block(0))
    workers = [fork.Process(target=churn, args=(tmp_path, seed, 400)) for seed in range(4)]
    victim = fork.Process(target=churn, args=(tmp_path, 9, 10**6))
    for worker in [*workers, victim]:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        assert stored_bytes_while_it_changes(tmp_path) <= (8 + 5) * SIZE  # five may be writing one block each
        if not workers[0].is_alive() and victim.is_alive():
            assert victim.pid is not None
            os.kill(victim.pid, signal.SIGKILL)
    victim.kill()
    for worker in [*workers, victim]:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    cache = BlockCache(tmp_path, max_bytes=8 * SIZE)
    for number in range(100, 110):
        cache.put(str(number), block(number))
    assert stored_bytes(tmp_path) == 8 * SIZE
    assert not list(tmp_path.rglob("*.partial"))


def stored_bytes_while_it_changes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total

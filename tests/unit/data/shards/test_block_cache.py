"""The cache of a node: bounded whatever happens, shared without locks, only ever speed."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import random
import shutil
import signal
from pathlib import Path

import pytest

from umt_ds.data.shards.block_cache import BlockCache

SIZE = 1000


def name(text: str | int) -> str:
    """A block's name as the files of a store give it: the hash of a file, and a number."""
    return f"{hashlib.sha256(str(text).encode()).hexdigest()}-0"


def block(number: int) -> bytes:
    return bytes([number % 256]) * SIZE


def stored_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def used_at(cache: BlockCache, text: str, time_s: float) -> None:
    os.utime(next(cache.folder.rglob(name(text))), (time_s, time_s))


def test_a_block_comes_back_from_another_process_and_after_a_restart(tmp_path: Path) -> None:
    BlockCache(tmp_path, max_bytes=10 * SIZE).put(name("a"), block(1))
    again = BlockCache(tmp_path, max_bytes=10 * SIZE)
    assert again.has(name("a"))
    assert again.get(name("a")) == block(1)
    again.drop(name("a"))
    assert again.get(name("a")) is None
    again.drop(name("a"))  # another process may have been quicker


def test_what_was_used_longest_ago_makes_room(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, max_bytes=3 * SIZE)
    for time_s, text in enumerate("abc"):
        cache.put(name(text), block(0))
        used_at(cache, text, time_s)
    cache.get(name("a"))  # now the newest
    cache.put(name("d"), block(0))
    assert [text for text in "abcd" if cache.has(name(text))] == ["a", "c", "d"]


@pytest.mark.parametrize("max_bytes", [0, SIZE // 2, SIZE, 5 * SIZE + 1])
def test_the_bound_holds_for_any_number_of_blocks(tmp_path: Path, max_bytes: int) -> None:
    cache = BlockCache(tmp_path, max_bytes=max_bytes)
    for number in range(40):
        cache.put(name(number), block(number))
        assert stored_bytes(tmp_path) <= max_bytes
    assert stored_bytes(tmp_path) == max_bytes // SIZE * SIZE


def test_a_large_bound_is_shared_out_to_sets_and_fills_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("umt_ds.data.shards.block_cache._SET_BYTES", 50 * SIZE)
    cache = BlockCache(tmp_path, max_bytes=500 * SIZE)
    for number in range(450):
        cache.put(name(number), block(number))
    assert len(list(cache.folder.glob("[0-9]*"))) == 10
    assert sum(cache.has(name(number)) for number in range(450)) > 400  # nine tenths of what there is room for
    for number in range(450, 2000):
        cache.put(name(number), block(number))
    assert stored_bytes(tmp_path) == 500 * SIZE


def filled(folder: Path, max_bytes: int) -> BlockCache:
    cache = BlockCache(folder, max_bytes=max_bytes)
    for number in range(20):
        cache.put(name(number), block(number))
    return cache


def test_another_bound_removes_what_was_laid_out_for_one_that_nobody_uses(tmp_path: Path) -> None:
    big = filled(tmp_path, 300 << 20)
    assert stored_bytes(tmp_path) == 20 * SIZE
    del big
    small = BlockCache(tmp_path, max_bytes=3 * SIZE)
    assert [path.name for path in tmp_path.iterdir()] == [small.folder.name]
    assert stored_bytes(tmp_path) == 0


def test_two_runs_with_other_bounds_keep_their_blocks(tmp_path: Path) -> None:
    big, small = filled(tmp_path, 300 << 20), filled(tmp_path, 3 * SIZE)
    again = BlockCache(tmp_path, max_bytes=300 << 20)
    assert stored_bytes(tmp_path) == (20 + 3) * SIZE
    del again
    BlockCache(tmp_path, max_bytes=200 << 20)
    assert sum(big.has(name(number)) for number in range(20)) == 20
    assert sum(small.has(name(number)) for number in range(20)) == 3


def test_a_loader_worker_that_outlives_the_run_still_uses_the_cache(tmp_path: Path) -> None:
    cache = filled(tmp_path, 300 << 20)
    ready, end = os.pipe(), os.pipe()
    if (worker := os.fork()) == 0:
        os.write(ready[1], b".")
        os.read(end[0], 1)
        os._exit(0)
    os.close(ready[1])  # else nobody would hear that the fork ended without a word
    assert os.read(ready[0], 1)
    del cache
    BlockCache(tmp_path, max_bytes=3 * SIZE)
    kept = stored_bytes(tmp_path)
    os.write(end[1], b".")
    os.waitpid(worker, 0)
    assert kept == 20 * SIZE
    BlockCache(tmp_path, max_bytes=5 * SIZE)
    assert stored_bytes(tmp_path) == 0


@pytest.mark.parametrize(
    "file",
    [
        *("sets-2/mine.tar", "sets-2/00001/mine.tar", "sets-of-mine/00000/mine.tar", "sets-2-umt/00001/mine.tar"),
        *(f"sets-2/00001/{name(1)}", f"sets-2-umt/00001/{name(1)}", f"{name(1)}", "sets-1-umt/notes.txt"),
    ],
)
def test_nothing_is_removed_that_no_cache_wrote(tmp_path: Path, file: str) -> None:
    """Nor what an earlier version left, which wrote no marker."""
    mine = tmp_path / file
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_bytes(block(0) * 9)
    for max_bytes in (3 * SIZE, 150 << 20, 3 * SIZE):
        filled(tmp_path, max_bytes)
        assert mine.exists()


def test_a_users_own_files_in_a_cache_stay(tmp_path: Path) -> None:
    cache = filled(tmp_path, 3 * SIZE)
    mine = [cache.folder / "notes.txt", cache.folder / "00000" / "mine.tar", cache.folder / "00000" / "a" / name(1)]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(block(0))
        os.utime(path, (0, 0))  # the oldest
    (cache.folder / "00001").symlink_to(tmp_path.parent)
    filled(tmp_path, 3 * SIZE)
    del cache
    BlockCache(tmp_path, max_bytes=300 << 20)
    assert [path for path in mine if not path.exists()] == []
    assert stored_bytes(tmp_path) == 3 * SIZE, "its blocks are gone"


def test_beside_a_folder_of_its_name_that_is_not_its_own_the_cache_takes_another(tmp_path: Path) -> None:
    (tmp_path / "sets-1").mkdir()
    (tmp_path / "sets-1" / "mine.tar").touch()
    cache = filled(tmp_path, 3 * SIZE)
    assert cache.folder.name == "sets-1-umt"
    assert cache.has(name(19))
    assert BlockCache(tmp_path, max_bytes=3 * SIZE).has(name(19))
    (tmp_path / "sets-1-umt" / "cache-of-umt_ds").unlink()
    assert "not this cache's" in str(BlockCache(tmp_path, max_bytes=3 * SIZE).put(name("a"), block(1)))
    assert os.listdir(tmp_path / "sets-1") == ["mine.tar"]


def test_beside_a_file_of_its_name_the_cache_takes_another(tmp_path: Path) -> None:
    (tmp_path / "sets-1").write_text("mine")
    assert filled(tmp_path, 3 * SIZE).has(name(19))
    assert (tmp_path / "sets-1").read_text() == "mine"


def test_without_locks_nobody_knows_who_uses_a_cache_and_it_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    assert filled(tmp_path, 300 << 20).has(name(0))
    assert filled(tmp_path, 3 * SIZE).has(name(19))
    assert stored_bytes(tmp_path) == (20 + 3) * SIZE


def test_a_disk_that_does_not_answer_has_no_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user's folder, or a mount that is gone: pathlib's is_file raises there."""
    cache = BlockCache(tmp_path, max_bytes=3 * SIZE)

    def fail(*args: object, **how: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "stat", fail)
    assert not cache.has(name("a"))
    assert cache.get(name("a")) is None


def test_a_disk_that_cannot_be_written_costs_speed_only(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = BlockCache(tmp_path / "file", max_bytes=10 * SIZE)
    assert "Not a directory" in str(cache.put(name("a"), block(1)))
    assert cache.get(name("a")) is None
    assert not cache.has(name("a"))


def test_what_is_no_block_does_not_stand_in_the_way(tmp_path: Path) -> None:
    """A folder in the place of a block, and a stranger's folder in a set that makes room."""
    cache = BlockCache(tmp_path, max_bytes=3 * SIZE)
    cache.put(name("a"), block(1))
    (cache._path(name("b")) / "inside").mkdir(parents=True)
    os.utime(cache._path(name("b")), (0, 0))  # the oldest
    assert not cache.has(name("b"))
    assert cache.get(name("b")) is None
    assert "directory" in str(cache.put(name("b"), block(2)))
    for number in range(5):
        assert cache.put(name(f"c{number}"), block(number)) is None
    assert cache.get(name("c4")) == block(4)
    assert stored_bytes(tmp_path) <= 3 * SIZE
    assert not list(tmp_path.rglob("*.partial"))


def test_a_folder_that_vanishes_is_made_again(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path / "cache", max_bytes=3 * SIZE)
    cache.put(name("a"), block(1))
    shutil.rmtree(tmp_path / "cache")
    assert cache.get(name("a")) is None
    assert cache.put(name("a"), block(1)) is None
    assert cache.get(name("a")) == block(1)


def test_another_users_blocks_are_read_and_not_made_room_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = BlockCache(tmp_path, max_bytes=2 * SIZE)
    for text in "ab":
        cache.put(name(text), block(1))

    def refuse(*args: object, **how: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr(os, "unlink", refuse)
    assert cache.get(name("a")) == block(1)
    assert "another user" in str(cache.put(name("c"), block(3)))
    assert not cache.has(name("c"))


def churn(folder: Path, seed: int, rounds: int) -> None:
    """Put and get blocks of few names; exit code 1 where a block has other bytes than its own."""
    cache = BlockCache(folder, max_bytes=8 * SIZE)
    chance = random.Random(seed)
    for _ in range(rounds):
        number = chance.randrange(30)
        if cache.get(name(number)) not in (None, block(number)):
            os._exit(1)
        cache.put(name(number), block(number))
    os._exit(0)


def test_writers_and_evictors_in_many_processes_keep_blocks_whole_and_the_bound(tmp_path: Path) -> None:
    """One more is killed in the middle: what it leaves behind is counted, and goes like any old block."""
    fork = multiprocessing.get_context("fork")
    BlockCache(tmp_path, max_bytes=8 * SIZE).put(name("0"), block(0))
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
        cache.put(name(number), block(number))
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

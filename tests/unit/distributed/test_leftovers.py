"""A process's own temporary folder: what killed processes left is removed, and nothing that anybody uses."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing import util
from multiprocessing.process import current_process
from multiprocessing.synchronize import SemLock
from pathlib import Path

import pytest

from umt_ds.distributed import leftovers


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """What stands for /dev/shm."""
    folder = tmp_path / "shm"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder and a /dev/shm of their own, as for a process that has just started."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    settings = current_process()._config  # type: ignore[attr-defined]
    before = dict(settings)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(leftovers, "_own", None)
    monkeypatch.setattr(leftovers, "_SHARED_MEMORY", shared)
    yield folder
    settings.clear()
    settings.update(before)


def killed(work: Callable[[], object]) -> int:
    """Do `work` in a fork that is killed right after; its process id."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, "it did its work"
    return child


def leave(shared: Path) -> None:
    """All that a loader worker leaves when it is killed while it makes shared memory."""
    folder = leftovers.own_folder()
    leftovers.note_shared_memory()
    assert util.get_temp_dir() == str(folder), "multiprocessing's sockets lie there"
    (folder / "listener-1").touch()
    (shared / f"torch_{os.getpid()}_77_0").touch()
    semaphore = SemLock._make_name()  # type: ignore[attr-defined]
    (shared / f"sem.{semaphore.removeprefix('/')}").touch()


def test_what_a_killed_process_left_is_removed_by_the_next(temporary: Path, shared: Path) -> None:
    killed(lambda: leave(shared))
    assert len(list(shared.iterdir())) == 2
    own = leftovers.own_folder()
    assert list(temporary.iterdir()) == [own]
    assert list(shared.iterdir()) == []
    assert leftovers.own_folder() == own, "one a process"


def test_what_a_process_left_that_has_not_quite_ended_is_removed(temporary: Path, shared: Path) -> None:
    """Its lock is gone a moment before it is, and it may stay a zombie for long."""
    child = os.fork()
    if child == 0:
        try:
            leave(shared)
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    leftovers.remove_leftovers()
    os.waitpid(child, 0)
    assert [*temporary.iterdir(), *shared.iterdir()] == []


def test_what_a_living_process_uses_stays(temporary: Path, shared: Path) -> None:
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            leave(shared)
            os.write(tell, b"!")
            signal.pause()
        finally:
            os._exit(1)
    os.close(tell)  # else nobody would hear that the fork ended without a word
    assert os.read(told, 1)
    try:
        before = sorted(shared.iterdir())
        own = leftovers.own_folder()
        assert len(list(temporary.iterdir())) == 2
        assert sorted(shared.iterdir()) == before
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    leftovers.remove_leftovers()
    assert list(temporary.iterdir()) == [own]


def test_a_folder_lives_as_long_as_a_fork_of_its_maker(temporary: Path) -> None:
    """As workers do for a moment when their trainer is killed."""
    told, tell = os.pipe()

    def make_and_fork() -> None:
        leftovers.own_folder()
        grandchild = os.fork()
        if grandchild == 0:
            signal.pause()
        os.write(tell, str(grandchild).encode())

    killed(make_and_fork)
    grandchild = int(os.read(told, 20))
    leftovers.remove_leftovers()
    assert len(list(temporary.iterdir())) == 1
    os.kill(grandchild, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while list(temporary.iterdir()):  # it is not our child: nobody tells us of its end
        leftovers.remove_leftovers()
        assert time.monotonic() < deadline


def test_what_is_not_ours_or_not_of_this_machine_stays(
    temporary: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (temporary / "umtp-stranger" / "inside").mkdir(parents=True)  # without a host
    (temporary / "umtp-file").touch()
    (temporary / "umtp-link").symlink_to(shared)
    strangers = {shared / "torch_1_2_3", shared / "sem.mp-abcdefgh"}
    for file in strangers:
        file.touch()
    monkeypatch.setattr(leftovers.socket, "gethostname", lambda: "elsewhere")
    killed(leftovers.own_folder)
    monkeypatch.undo()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(leftovers, "_SHARED_MEMORY", shared)
    leftovers.remove_leftovers()
    assert len(list(temporary.iterdir())) == 4
    assert set(shared.iterdir()) == strangers


def test_what_a_process_left_that_was_killed_while_it_removed_goes(
    temporary: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(lambda: leave(shared))
    real, left = Path.unlink, iter(range(3))

    def unlink(path: Path, missing_ok: bool = False) -> None:
        real(path, missing_ok=missing_ok)
        if next(left) == 2:  # both of the shared memory, and one in the folder
            os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unlink)
        killed(leftovers.remove_leftovers)
    assert len(list(temporary.iterdir())) == 1
    leftovers.remove_leftovers()
    assert list(temporary.iterdir()) == []


def test_a_folder_whose_maker_was_killed_or_is_overtaken_goes(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (temporary / "umtp-begun").mkdir()
    leftovers.remove_leftovers()
    assert list(temporary.iterdir()) == []
    real, taken = tempfile.mkdtemp, iter([True])

    def overtaken(**how: str) -> str:
        folder = real(**how)
        if next(taken, False):
            leftovers.remove_leftovers()  # of another process, before ours has locked it
        return folder

    monkeypatch.setattr(tempfile, "mkdtemp", overtaken)
    own = leftovers.own_folder()
    assert list(temporary.iterdir()) == [own]


def test_a_temporary_folder_that_somebody_empties_is_no_error_at_the_end(temporary: Path) -> None:
    own = leftovers.own_folder()
    shutil.rmtree(own)
    leftovers._remove(own)


def test_shared_memory_of_a_number_that_is_in_use_again_stays(temporary: Path, shared: Path) -> None:
    def leave_with_our_number() -> None:
        (leftovers.own_folder() / str(os.getppid())).write_text("7")  # ticks; that was long ago

    (shared / f"torch_{os.getpid()}_1_0").touch()
    killed(leave_with_our_number)
    leftovers.remove_leftovers()
    assert list(temporary.iterdir()) == []
    assert len(list(shared.iterdir())) == 1

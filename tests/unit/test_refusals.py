"""What an operating system refuses becomes one error that says what was asked for and which limit to raise."""

from __future__ import annotations

import errno
import importlib
import resource

import numpy as np
import pytest
import torch

from umt_ds.refused import refused_by_machine


def os_error(number: int, text: str = "") -> OSError:
    return OSError(number, text or errno.errorcode[number])


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on device (28)"),
         "--shm-size"),
        (os_error(errno.ENOSPC), "df -i"),
        (os_error(errno.EDQUOT), "TMPDIR"),
        (FileNotFoundError(2, "No usable temporary directory found in ['/tmp']"), "TMPDIR"),
        (OSError("AF_UNIX path too long"), "short path"),
        (os_error(errno.EMFILE), "ulimit -n"),
        (RuntimeError("unable to open shared memory object </torch_1_2_3>: Too many open files (24)"),
         "ulimit -n"),
        (RuntimeError("received 0 items of ancdata"), "ulimit -n"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "ulimit -u"),
        (RuntimeError("can't start new thread"), "--pids-limit"),
        (RuntimeError("unable to resize file </torch_1_2_3> to the right size: File too large (27)"), "ulimit -f"),
        (os_error(errno.ENOMEM), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes."), "out of memory"),
        (ImportError("libx.so: failed to map segment from shared object"), "out of memory"),
    ],
)  # fmt: skip
def test_each_refusal_has_its_hint_and_keeps_what_was_said(error: Exception, hint: str) -> None:
    told = refused_by_machine(error, doing="a test cannot go on")
    assert told is not None
    assert told.what == f"a test cannot go on: {error}"
    assert told.hint is not None
    assert hint in told.hint


@pytest.mark.parametrize(
    "error",
    [KeyError("No space left on device"), RuntimeError("CUDA out of memory"), RuntimeError("shapes differ"),
     FileNotFoundError(2, "No such file"), ValueError("can't start new thread")],
)  # fmt: skip
def test_all_else_is_no_refusal(error: Exception) -> None:
    assert refused_by_machine(error, doing="a test") is None


def test_a_memory_error_says_what_was_asked_for_or_where() -> None:
    with pytest.raises(MemoryError) as caught:
        np.empty(1 << 60, np.uint8)
    assert "1.00 EiB" in str(refused_by_machine(caught.value, doing="numpy"))
    with pytest.raises(RuntimeError) as refused:
        torch.empty(1 << 55, dtype=torch.uint8)
    assert str(1 << 55) in str(refused_by_machine(refused.value, doing="torch"))
    with pytest.raises(MemoryError) as silent:
        bytes(1 << 62)
    assert "test_refusals.py" in str(refused_by_machine(silent.value, doing="python"))


def test_a_limit_of_the_address_space_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (6_000_000_000, -1))
    assert "limited to 6.0 GB (`ulimit -v`)" in str(refused_by_machine(MemoryError(), doing="a test"))


def test_of_a_traceback_that_torch_carries_along_the_error_is_said() -> None:
    wrapped = OSError(
        "Caught OSError in pin memory thread.\nOriginal Traceback:\n  File x\nOSError: Too many open files"
    )
    assert str(refused_by_machine(wrapped, doing="a test")).startswith("a test: OSError: Too many open files\n")


def test_a_thread_is_refused_for_want_of_address_space_or_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("can't start new thread")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (2_000_000, -1))
    assert "ulimit -v" in str(refused_by_machine(error, doing="a test"))
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1 << 50, -1))
    assert "ulimit -u" in str(refused_by_machine(error, doing="a test"))


@pytest.mark.parametrize(
    ("program", "command"), [("launchers.cli", "launchers.cli.launch"), ("data_prep.cli", "data_prep.cli.umt_data")]
)
def test_the_other_programs_say_it_in_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], program: str, command: str
) -> None:
    def refused(**_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(command, refused)
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(program).main()
    assert ended.value.code == 1
    told = capsys.readouterr().err
    assert told.startswith("error: the command cannot go on: [Errno 24] Too many open files\n  hint: ")
    assert "ulimit -n" in told

"""Who works in a set: one command alone, or parts together; others are refused before anything is written."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from data_prep.cli import umt_data
from data_prep.clip import Clip, Listing, Refusal, StoreOptions
from data_prep.state.claim import claim, one_at_a_time
from data_prep.state.done import Done
from data_prep.state.plan import begin, open_plan
from tests.support.files import touch
from umt_ds.errors import ConfigError, DataError, MachineError, UmtError

STORE = StoreOptions(per_shard=1)


@pytest.fixture(autouse=True)
def no_cluster_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this user's says."""
    monkeypatch.setenv("UMT_CLUSTER", str(touch(tmp_path, "cluster.yaml") / "cluster.yaml"))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


def listing(tmp_path: Path) -> Listing:
    return Listing(tmp_path, tuple(Clip(key, f"{key}.mp4") for key in "abc")).first_in_order()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    open_plan(out := tmp_path / "set", name="set", listing=listing(tmp_path), store=STORE)
    return out


def commands(out: Path) -> list[list[str]]:
    """The original command, and the one that ends a set."""
    touch(out.parent / "videos", "a.mp4")
    folder = ["folder", str(out.parent / "videos"), str(out), "--workers", "1"]
    return [folder, [*folder, "--engine", "slurm"], ["finish", str(out)]]


def refused(words: list[str]) -> UmtError:
    error = CliRunner().invoke(umt_data, words, standalone_mode=False).exception
    assert isinstance(error, UmtError), error
    return error


def everything(out: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


@contextmanager
def elsewhere(out: Path, *, alone: bool) -> Iterator[subprocess.Popen[str]]:
    """Another process that works in the set."""
    code = (
        "import sys; from pathlib import Path; from data_prep.state.claim import claim\n"
        f"with claim(Path(sys.argv[1]), alone={alone}): print('in', flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", code, str(out / ".umt-data")]
    with subprocess.Popen(words, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        try:
            yield process
        finally:
            process.kill()


def test_beside_a_part_that_is_being_made_whole_set_commands_are_refused_and_touch_nothing(out: Path) -> None:
    with elsewhere(out, alone=False) as worker:
        (out / ".umt-data" / f".making-{socket.gethostname()}-{worker.pid}-abcd").mkdir()
        before = everything(out)
        for words in commands(out):
            error = refused(words)
            assert "another umt-data is working in" in str(error)
            assert f"process {worker.pid} on {socket.gethostname()}, since 20" in str(error)
        assert everything(out) == before
        assert list((out / ".umt-data").glob(".making-*"))
        with claim(out / ".umt-data", alone=False):
            pass  # another part may be made beside it
    with claim(out / ".umt-data", alone=True):
        assert not list((out / ".umt-data").glob(".making-*")), "its maker was killed"
        assert len(list((out / ".umt-data" / "at-work").iterdir())) == 1, "this process"
        work = refused(["work", str(out), "--part", "0/2"])
    assert "another umt-data is working in" in str(work)
    assert not list((out / ".umt-data" / "at-work").iterdir())


def test_a_shard_is_made_by_one_process_at_a_time_and_who_waits_says_so(
    out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    code = (
        "import sys, time; from pathlib import Path; from data_prep.state.claim import one_at_a_time\n"
        "with one_at_a_time(Path(sys.argv[1]), 7): print('in', flush=True); time.sleep(0.2); Path(sys.argv[2]).touch()"
    )
    words = [sys.executable, "-c", code, str(out / ".umt-data"), str(out / "end")]
    with subprocess.Popen(words, text=True, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        with one_at_a_time(out / ".umt-data", 8):
            assert not (out / "end").exists()
        with one_at_a_time(out / ".umt-data", 7):
            assert (out / "end").exists()
    assert "shard 7 of" in caplog.text
    assert "shard 8 of" not in caplog.text


def test_one_who_lets_others_in_keeps_out_who_wants_to_be_alone(out: Path) -> None:
    with claim(out / ".umt-data", alone=True) as held:
        held.share()
        with claim(out / ".umt-data", alone=False):
            assert "another umt-data" in str(refused(["finish", str(out)]))


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(fcntl, "lockf", refuse)


def note(out: Path, host: str, pid: int, *, alone: bool) -> Path:
    (folder := out / ".umt-data" / "at-work").mkdir(exist_ok=True)
    record = {"host": host, "pid": pid, "beginning": "1", "command": "x", "since": "2026", "alone": alone}
    (file := folder / f"{host}-{pid}.json").write_text(json.dumps(record))
    return file


@pytest.mark.usefixtures("no_locks")
def test_without_locks_files_stand_for_them(out: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = out / ".umt-data"
    dead = note(out, socket.gethostname(), 2**22 + 1, alone=True)
    with claim(state, alone=True), one_at_a_time(state, 0):
        assert "without locks" in caplog.text
        assert not dead.exists(), "a process of this host that has ended holds nothing"
    other = note(out, "elsewhere", 7, alone=False)
    with claim(state, alone=False):
        pass
    with pytest.raises(DataError, match="`x`, process 7 on elsewhere") as error, claim(state, alone=True):
        pass
    assert str(other.parent) in str(error.value.hint), "nobody here knows whether that process lives"
    note(out, "elsewhere", 7, alone=True)
    with pytest.raises(DataError, match="process 7"), claim(state, alone=False):
        pass
    assert [file.name for file in other.parent.iterdir()] == [other.name]


def test_notes_that_are_none_stand_in_nobodys_way(out: Path) -> None:
    for number, text in enumerate(("", "{", "[1]", "\xff", '{"pid": 1}')):
        (out / ".umt-data" / "at-work").mkdir(exist_ok=True)
        (out / ".umt-data" / "at-work" / f"x-{number}.json").write_bytes(text.encode("latin-1"))
    with claim(out / ".umt-data", alone=True):
        pass


def test_half_made_folders_are_removed_only_where_their_maker_is_gone(out: Path) -> None:
    state, here, day = out / ".umt-data", socket.gethostname(), 86400
    names = {
        f".making-{here}-{os.getpid()}-a": (0, True),
        f".making-{here}-{2**22 + 1}-a": (0, False),
        ".making-other-host-7-a": (0, True),
        ".making-other-host-8-a": (2 * day, False),
        ".making-abcdefgh": (0, True),  # of an earlier version
        ".making-hgfedcba": (2 * day, False),
    }
    for name, (age_s, _) in names.items():
        tar = touch(state / name, "x.tar") / "x.tar"
        for path in (tar, tar.parent):
            os.utime(path, (time.time() - age_s,) * 2)
    with claim(state, alone=True):
        assert {name: (state / name).exists() for name in names} == {name: kept for name, (_, kept) in names.items()}


def test_a_folder_of_another_user_is_one_error(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or on a file system that is mounted to be read."""
    real = Path.open

    def refuse(path: Path, *rest: object, **how: object) -> object:
        if path.name == "lock":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *rest, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "open", refuse)
    for words in [*commands(out), ["work", str(out), "--part", "0/1"]]:
        error = refused(words)
        assert isinstance(error, MachineError)
        assert "lock: Permission denied" in error.what


# ---------------------------------------------------------------- jobs of Slurm


def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, squeue: str) -> None:
    """A `squeue` that runs this shell text."""
    (tmp_path / "bin").mkdir(exist_ok=True)
    (script := tmp_path / "bin" / "squeue").write_text(f"#!/bin/sh\n{squeue}\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")


def test_while_a_job_waits_or_runs_the_original_command_says_so_and_does_nothing(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm(tmp_path, monkeypatch, "echo 41 cpu set PENDING")
    (out / ".umt-data" / "slurm.json").write_text('["41", "42"]')
    for words in commands(out):
        before = everything(out)
        error = refused(words)
        assert "job 41 is already working in" in error.what
        assert "squeue -j 41,42" in str(error.hint)
        assert "scancel 41 42" in str(error.hint)
        assert everything(out).keys() - {out / ".umt-data" / "lock"} == before.keys() - {out / ".umt-data" / "lock"}


def test_a_squeue_that_does_not_answer_is_not_no_job(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (out / ".umt-data" / "slurm.json").write_text('["41", "42"]')
    slurm(tmp_path, monkeypatch, "echo 'Unable to contact slurm controller' >&2; exit 1")
    assert "nobody knows whether job 41 or 42 works" in refused(commands(out)[0]).what
    monkeypatch.setattr("launchers.slurm._ANSWER_S", 0.1)
    slurm(tmp_path, monkeypatch, "exec sleep 30")
    assert "nobody knows whether job 41 or 42 works" in refused(commands(out)[0]).what
    slurm(tmp_path, monkeypatch, "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    with begin(out, name="set", listing=listing(tmp_path), store=STORE):
        pass


def test_where_slurm_does_not_say_a_set_that_is_whole_can_still_be_ended(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that was made on a cluster by an earlier version, which left the ids, and copied elsewhere."""
    (out / ".umt-data" / "slurm.json").write_text('["41", "42"]')
    slurm(tmp_path, monkeypatch, "printf 'squeue: error: no\\nsqueue: fatal: none\\n' >&2; exit 1")
    error = refused(commands(out)[2])
    assert "squeue: error: no squeue: fatal: none: so nobody knows" in error.what
    assert "remove" in str(error.hint)
    done = begin(out, name="set", listing=listing(tmp_path), store=STORE)
    for shard, key in enumerate("abc"):
        Done(None, (Refusal(f"{key}.mp4", "empty", key),)).save(out / ".umt-data" / "done" / f"{shard:06d}.json")
    with done as (plan, _):
        assert plan.pending() == []
    with (
        pytest.raises(MachineError, match="nobody knows"),
        begin(out, name="set", listing=listing(tmp_path), store=STORE, retry_failed=True),
    ):
        pass
    assert CliRunner().invoke(umt_data, ["finish", str(out), "--max-bad", "1"]).exit_code == 0
    assert not (out / ".umt-data" / "slurm.json").exists()


def test_the_job_that_ends_the_set_does_not_wait_for_itself(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm(tmp_path, monkeypatch, "echo 42 cpu set RUNNING")
    (out / ".umt-data" / "slurm.json").write_text('["41", "42"]')
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    assert "are not made yet" in str(refused(["finish", str(out)]))


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "-x", ".x", "a{0..9}", "a::b", "a\nb", "a\x1b[2J", "\udcff", "x" * 201, "é" * 101]
)
def test_names_that_shells_or_webdataset_would_take_for_something_else_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--name") as error:
        open_plan(tmp_path / "set", name=name, listing=listing(tmp_path), store=STORE)
    str(error.value).encode()
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("name", ["my set", "it's", "50%j", "$HOME", "日本　語", "x" * 200, "a#b?c*"])
def test_other_names_are_good(name: str, tmp_path: Path) -> None:
    plan = open_plan(tmp_path / "set", name=name, listing=listing(tmp_path), store=STORE)
    touch(tmp_path / "set", f"{plan.tar(0).name.removesuffix('.tar')}.index.npz.{socket.gethostname()}-1.partial")


def test_a_set_begun_under_a_name_that_is_refused_now_goes_on(out: Path, tmp_path: Path) -> None:
    plan = json.loads((out / ".umt-data" / "plan.json").read_text())
    (out / ".umt-data" / "plan.json").write_text(json.dumps({**plan, "name": "a{b}"}))
    assert open_plan(out, name="a{b}", listing=listing(tmp_path), store=STORE).name == "a{b}"

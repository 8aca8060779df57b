"""Ctrl-C: exit code 130, how to go on, no traceback of anybody, and the same command goes on."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.paths import REPO
from tests.support.umt_data import Umt
from tests.support.videos import write_videos
from umt_ds.cli import umt as umt_command
from umt_ds.data.shards.manifest import load_manifest
from umt_ds.data.shards.storage import scratch_for
from umt_ds.errors import EXIT_INTERRUPTED

# What a shell starts in the background ignores Ctrl-C, and so does all that it starts: these tests may be among it.
HEARS_CTRL_C = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


def interrupted(*args: object, **options: object) -> None:
    raise KeyboardInterrupt


def test_a_command_that_makes_a_set_says_that_it_goes_on(
    umt: Umt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_prep.sources.folder.list_folder", interrupted)
    done = umt("folder", tmp_path, tmp_path / "set")
    assert done.code == EXIT_INTERRUPTED
    assert done.err == "\nstopped: what is finished is kept, and the same command goes on\n"


def test_a_command_that_looks_says_that_it_begins_anew(
    umt: Umt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_prep.checking.verify.verify", interrupted)
    done = umt("verify", tmp_path)
    assert (done.code, done.err) == (EXIT_INTERRUPTED, "\nstopped: the same command begins anew\n")


def test_umt_says_so_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("umt_ds.cli.config.load_run", interrupted)
    with pytest.raises(SystemExit) as caught:
        umt_command(["config", "stage1/b16_k710"], standalone_mode=False)
    assert caught.value.code == EXIT_INTERRUPTED
    assert capsys.readouterr().err == "\nstopped: the same command begins anew\n"


@pytest.mark.parametrize("package", ["data_prep", "umt_ds", "launchers"])
def test_a_program_that_is_still_being_loaded_prints_no_traceback(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading = ModuleType(f"{package}.cli")
    loading.__getattr__ = interrupted  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, loading.__name__, loading)
    with pytest.raises(SystemExit) as caught:
        importlib.import_module(f"{package}.__main__").main()
    assert caught.value.code == EXIT_INTERRUPTED


def test_what_was_being_made_goes_though_ctrl_c_comes_while_it_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove, interrupts = shutil.rmtree, iter([KeyboardInterrupt])

    def interrupted_once(folder: Path, **options: bool) -> None:
        for interrupt in interrupts:
            raise interrupt
        remove(folder, **options)

    monkeypatch.setattr(shutil, "rmtree", interrupted_once)
    with pytest.raises(KeyboardInterrupt), scratch_for(tmp_path) as scratch:
        (scratch / "half.tar").touch()
    assert not list(tmp_path.iterdir())


def test_ctrl_c_ends_all_processes_without_a_word_of_theirs_and_the_same_command_ends_the_set(tmp_path: Path) -> None:
    write_videos(tmp_path / "videos", 8, frames=3)
    for video in list((tmp_path / "videos").rglob("*.mp4")):  # so many that Ctrl-C comes before the last
        for number in range(24):
            os.link(video, video.with_stem(f"{video.stem}-{number}"))
    out = tmp_path / "set"
    options = ("--frames", "2", "--short-side", "16", "--per-shard", "2", "--workers", "2")
    command = [sys.executable, "-m", "data_prep", "folder", str(tmp_path / "videos"), str(out), *options]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    going = subprocess.Popen(
        [sys.executable, "-c", HEARS_CTRL_C, *command],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    while not list(out.glob("*.tar")) and going.poll() is None:
        time.sleep(0.002)
    os.killpg(going.pid, signal.SIGINT)  # as a terminal does: all of its processes
    _, said = going.communicate(timeout=60)
    assert going.returncode == EXIT_INTERRUPTED
    assert "Traceback" not in said
    assert said.endswith("\nstopped: what is finished is kept, and the same command goes on\n")
    assert not (out / "manifest.json").exists()
    assert not list((out / ".umt-data").glob(".making-*/*")), "nothing half done is left"
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert "set: 200 samples + 0 refused = 200 in all" in done.stdout
    assert load_manifest(out).num_samples == 200

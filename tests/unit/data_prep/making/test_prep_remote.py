"""umt-data from and to an object store: the same bytes as from and to a disk."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.files import hashes_in
from tests.support.object_store import s3_server
from tests.support.paths import REPO
from tests.support.umt_data import umt_data as in_this_process
from tests.support.videos import write_videos
from umt_ds.data.shards.manifest import load_manifest
from umt_ds.data.shards.storage import as_path, is_local
from umt_ds.errors import ConfigError

SMALL = ("--name", "set", "--frames", "2", "--short-side", "16", "--per-shard", "2", "--workers", "1")


@pytest.fixture(scope="module")
def store() -> Iterator[dict[str, str]]:
    with s3_server("raw", "sets") as environment:
        yield environment


def umt_data(store: dict[str, str], *words: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **store, "PYTHONPATH": str(REPO)}
    command = [sys.executable, "-m", "data_prep", *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_shards_from_and_to_an_object_store_are_those_of_a_disk(store: dict[str, str], tmp_path: Path) -> None:
    videos = write_videos(tmp_path / "videos", 5, frames=4)
    (videos / "zero.mp4").touch()
    there = as_path("s3://raw/videos")
    for path in sorted(videos.rglob("*.mp4")):
        (there / path.relative_to(videos).as_posix()).write_bytes(path.read_bytes())
    for source, out in ((str(videos), tmp_path / "set"), ("s3://raw/videos", "s3://sets/a/set")):
        done = umt_data(store, "folder", source, out, *SMALL, "--max-bad", "0.5")
        assert done.returncode == 0, done.stderr
        assert "5 samples + 1 refused = 6 in all" in done.stdout
    remote = as_path("s3://sets/a/set")
    assert hashes_in(remote) == hashes_in(tmp_path / "set")
    # a shard that is lost is made again, and only it
    (remote / "set-000001.tar").unlink()
    again = umt_data(store, "folder", "s3://raw/videos", "s3://sets/a/set", *SMALL, "--max-bad", "0.5")
    assert "2/2" in again.stderr, again.stderr
    assert hashes_in(remote) == hashes_in(tmp_path / "set")


@pytest.mark.slow
def test_an_object_that_the_store_refuses_ends_the_command_and_is_made_by_the_next(
    store: dict[str, str], tmp_path: Path
) -> None:
    import s3fs

    videos = write_videos(tmp_path / "videos", 4, frames=4)
    for path in videos.rglob("*.mp4"):
        kind = {"StorageClass": "GLACIER"} if path.stem == "v01" else {}
        s3fs.S3FileSystem().pipe_file(f"raw/some/{path.name}", path.read_bytes(), **kind)
    words = ("folder", "s3://raw/some", tmp_path / "set", *SMALL, "--max-bad", "1")
    done = umt_data(store, *words)
    assert done.returncode == 1
    assert "error: s3://raw/some/v01.mp4 cannot be read (4 tries): " in done.stderr
    assert "archive" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "set" / "bad.csv").exists()
    s3fs.S3FileSystem().pipe_file("raw/some/v01.mp4", (videos / "odd" / "v01.mp4").read_bytes())
    again = umt_data(store, *words)
    assert again.returncode == 0, again.stderr
    assert "4 samples + 0 refused = 4 in all" in again.stdout


def test_the_other_commands_read_sets_in_an_object_store(
    store: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = write_videos(tmp_path / "videos", 3, frames=4)
    out = "s3://sets/b/set"
    assert umt_data(store, "folder", videos, out, *SMALL).returncode == 0
    for command, words in {"verify": "all good", "stats": "3 samples", "sheet": "3 samples drawn"}.items():
        said = in_this_process(monkeypatch, capsys)(command, out)
        assert said.code == 0, said.text
        assert words in said.out
    assert (as_path(out) / "sheet.png").read_bytes().startswith(b"\x89PNG")
    done = umt_data(store, "merge", "s3://sets/c/set", out, *SMALL, "--copy")
    assert done.returncode == 0, done.stderr
    assert load_manifest(as_path("s3://sets/c/set")).num_samples == 3
    before = hashes_in(as_path(out))
    assert umt_data(store, "index", out, "--force").returncode == 0
    after = hashes_in(as_path(out))
    assert {name for name in before if before[name] != after[name]} <= {"manifest.json"}  # says another tool


@pytest.mark.usefixtures("store")
def test_a_bucket_that_is_not_there_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = in_this_process(monkeypatch, capsys)("folder", "s3://nowhere/videos", tmp_path / "set", *SMALL)
    assert said.code == 2
    assert "there is no folder 's3://nowhere/videos'" in said.err


def test_a_url_of_a_store_that_is_not_installed_says_what_to_install() -> None:
    with pytest.raises(ConfigError, match="pip install"):
        as_path("nosuch://bucket/x")
    assert is_local(as_path("/a/b"))

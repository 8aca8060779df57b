"""The way of every source: shards whose bytes depend on the clips alone, and where nothing is lost.

Byte-identical for any worker count, order of completion and interruption; hangs and crashes cost their clip.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_prep.clip import Clip, Outcome, RunOptions, StoreOptions
from data_prep.decode import evenly_spread, jpeg, make_sample
from data_prep.making.prepare import prepare
from data_prep.sources.folder import list_folder
from data_prep.state.manifest import Summary
from tests.support import work
from tests.support.paths import REPO
from tests.support.videos import frame_number, write_audio_only, write_video, write_videos
from umt_ds.data.shards.manifest import load_manifest
from umt_ds.data.shards.records import load_index, sample_key
from umt_ds.errors import ConfigError, DataError, MachineError

STORE = StoreOptions(frames=4, short_side=32, per_shard=3)
ONE = RunOptions(workers=1)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_videos(tmp_path_factory.mktemp("videos"), 8)


def make(videos: Path, out: Path, *, run: RunOptions = ONE, store: StoreOptions = STORE, **more: Any) -> Summary:
    listing = list_folder(videos).first_in_order(more.pop("limit", None))
    return prepare(listing, out, name="set", store=store, run=run, **more)


def hashes(out: Path) -> dict[str, str]:
    """Every file of a set by content; the plan says where the videos lie."""
    files = [path for path in out.rglob("*") if path.is_file() and path.name not in ("lock", "plan.json")]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read_tar(tar: Path) -> dict[str, bytes]:
    with tarfile.open(tar) as archive:
        return {m.name: archive.extractfile(m).read() for m in archive}  # type: ignore[union-attr]


def bad_rows(out: Path) -> dict[str, str]:
    with (out / "bad.csv").open(newline="") as file:
        return {row["file"]: row["reason"] for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def finished(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unbroken run with one worker."""
    out = tmp_path_factory.mktemp("finished") / "set"
    make(videos, out)
    return out


def test_a_sample_is_its_json_and_its_frames(finished: Path) -> None:
    members = {name: data for tar in finished.glob("*.tar") for name, data in read_tar(tar).items()}
    assert len(members) == 8 * 5
    record = json.loads(members["odd/v01.json"])
    assert record == {
        "key": "odd/v01",
        "source": "odd/v01.mp4",
        "width": 43,
        "height": 32,
        "source_width": 64,
        "source_height": 48,
        "duration_s": 1.2,
        "fps": 10.0,
        "num_frames_total": 12,
        "source_frames": [1, 4, 7, 10],
        "times_s": [0.1, 0.4, 0.7, 1.0],
        "codec": "h264",
        "decoder": "pyav",
    }
    for stored, source in enumerate(record["source_frames"]):
        picture = Image.open(io.BytesIO(members[f"odd/v01.{stored:03d}.jpg"]))
        assert picture.size == (43, 32)
        assert frame_number(np.asarray(picture)) == source


def test_manifest_and_index_say_what_the_tars_hold(finished: Path) -> None:
    manifest = load_manifest(finished)
    assert (manifest.num_samples, [shard.samples for shard in manifest.shards]) == (8, [3, 3, 2])
    for shard in manifest.shards:
        tar = finished / shard.file
        assert shard.sha256 == hashlib.sha256(tar.read_bytes()).hexdigest()
        index, names = load_index(tar), list(read_tar(tar))
        assert len(index) == shard.samples
        listed = [f"{index.key(row)}.{m.suffix}" for row in range(len(index)) for m in index.members(row)]
        assert listed == names
    assert manifest.options["frames"] == 4
    assert "av " in manifest.tool


def test_nothing_written_depends_on_clock_or_place(finished: Path, videos: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(videos), str(elsewhere)], check=True)
    make(elsewhere, tmp_path / "set")
    assert hashes(tmp_path / "set") == hashes(finished)
    for tar in finished.glob("*.tar"):
        with tarfile.open(tar) as archive:
            assert {member.mtime for member in archive} == {0}


def test_two_workers_that_finish_out_of_order_give_the_same_bytes(finished: Path, videos: Path, tmp_path: Path) -> None:
    make(videos, tmp_path / "set", run=RunOptions(workers=2), work=work.uneven)
    assert hashes(tmp_path / "set") == hashes(finished)


def test_webdataset_reads_the_shards(finished: Path) -> None:
    import webdataset

    tars = sorted(str(tar) for tar in finished.glob("*.tar"))
    samples = list(webdataset.WebDataset(tars, shardshuffle=False))
    assert sorted(sample["__key__"] for sample in samples) == sorted(
        f"{'odd/' if n % 2 else ''}v{n:02d}" for n in range(8)
    )
    assert all({"json", "000.jpg", "003.jpg"} <= sample.keys() for sample in samples)


def test_a_finished_set_is_left_alone(finished: Path, videos: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.glob("*.tar")}
    summary = make(videos, finished, work=work.buggy)  # would fail on any clip
    assert (summary.samples, summary.refused) == (8, ())
    assert {path: path.stat().st_mtime_ns for path in finished.glob("*.tar")} == before


def test_a_shard_that_was_deleted_is_made_again(finished: Path, videos: Path, tmp_path: Path) -> None:
    make(videos, tmp_path / "set")
    (tmp_path / "set" / "set-000001.tar").unlink()
    make(videos, tmp_path / "set")
    assert hashes(tmp_path / "set") == hashes(finished)


_KILLED = """
import sys
from pathlib import Path
from data_prep.clip import RunOptions, StoreOptions
from data_prep.making.prepare import prepare
from data_prep.sources.folder import list_folder
from tests.support import work
if __name__ == "__main__":
    prepare(list_folder(Path(sys.argv[1])).first_in_order(), Path(sys.argv[2]), name="set", work=work.slow,
            store=StoreOptions(frames=4, short_side=32, per_shard=3), run=RunOptions(workers=2))
"""


def test_a_run_that_was_killed_continues_to_the_same_bytes(finished: Path, videos: Path, tmp_path: Path) -> None:
    out, script = tmp_path / "set", tmp_path / "killed.py"
    script.write_text(_KILLED)
    command = [sys.executable, str(script), str(videos), str(out)]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    first = subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.PIPE)
    wait_until(lambda: (out / ".umt-data" / "done" / "000000.json").exists() and half_made(out))
    first.kill()
    first.communicate()
    assert not (out / "manifest.json").exists()
    wait_until(lambda: not processes_of_session(first.pid))  # no decoding process outlives the run
    cut_off = [out / ".umt-data" / "done" / "000001.json.host-7.partial", out / "manifest.json.host-7.partial"]
    for left in cut_off:  # as a kill leaves them in the moment before their rename
        left.write_text("{")
    kept = (out / "set-000000.tar").stat().st_mtime_ns
    make(videos, out)
    assert (out / "set-000000.tar").stat().st_mtime_ns == kept
    assert hashes(out) == hashes(finished)
    assert not half_made(out)  # what the killed run left is gone
    assert not any(left.exists() for left in cut_off)


def half_made(out: Path) -> list[Path]:
    return list((out / ".umt-data").glob(".making-*"))


def wait_until(condition: Callable[[], bool], *, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.002)


def processes_of_session(session: int) -> list[int]:
    """Processes alive in a session (Linux)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def test_hangs_and_crashes_cost_their_clip_and_say_so(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    for name in ("a", "b-hang", "c", "d-crash", "e", "f-memory", "g"):
        write_video(videos / f"{name}.mp4", frames=3)
    run = RunOptions(workers=2, timeout_s=2)
    summary = make(videos, tmp_path / "set", run=run, work=work.troubled)
    assert (summary.samples, len(summary.refused)) == (4, 3)
    assert bad_rows(tmp_path / "set") == {
        "b-hang.mp4": "decoding took longer than 2 s and was stopped",
        "d-crash.mp4": "the decoder crashed (SIGSEGV)",
        "f-memory.mp4": "the decoder crashed (SIGKILL, perhaps out of memory)",
    }


def test_failed_samples_alone_are_tried_again(finished: Path, videos: Path, tmp_path: Path) -> None:
    copied = tmp_path / "videos"
    shutil.copytree(videos, copied)
    whole = sorted(copied.rglob("*.mp4"))
    broken = [whole[0], whole[1]]
    contents = [path.read_bytes() for path in broken]
    for path in broken:
        path.write_bytes(b"")
    out = tmp_path / "set"
    assert len(make(copied, out).refused) == 2
    make(copied, out)  # without the option they stay as they are
    assert len(bad_rows(out)) == 2
    untouched = {tar.name: tar.stat().st_mtime_ns for tar in out.glob("*.tar")}
    broken[0].write_bytes(contents[0])
    summary = make(copied, out, retry_failed=True, work=partial(_noting, tried_in=tmp_path / "tried"))
    tried = sorted((tmp_path / "tried").read_text().split())
    assert tried == sorted(sample_key(path.relative_to(copied).as_posix()) for path in broken)
    assert (summary.samples, len(summary.refused)) == (len(whole) - 1, 1)
    broken[1].write_bytes(contents[1])
    assert make(copied, out, retry_failed=True).refused == ()
    assert hashes(out) == hashes(finished)  # as if they had never failed
    assert any(tar.stat().st_mtime_ns == untouched[tar.name] for tar in out.glob("*.tar"))  # others were left alone


def _noting(clip: Clip, *, tried_in: Path, **others: Any) -> Outcome:
    with tried_in.open("a") as file:
        file.write(clip.key + "\n")
    return make_sample(clip, **others)


def test_samples_and_bad_rows_are_all_the_files(tmp_path: Path) -> None:
    videos = write_videos(tmp_path / "videos", 4)
    (videos / "zero.mp4").touch()
    (videos / "text.webm").write_text("no video")
    write_audio_only(videos / "sound.mp4")
    (videos / "notes.txt").touch()
    (videos / "._v00.mp4").write_bytes(b"junk of macOS")
    summary = make(videos, tmp_path / "set")
    assert (summary.samples, len(summary.refused), summary.bad_share) == (4, 3, 3 / 7)
    bad = bad_rows(tmp_path / "set")
    assert bad["zero.mp4"] == "file is empty (0 bytes)"
    assert bad["sound.mp4"] == "no video stream (audio only)"
    keys = {name.partition(".")[0] for tar in (tmp_path / "set").glob("*.tar") for name in read_tar(tar)}
    assert len(keys) + len(bad) == 7


def test_a_shard_of_refusals_alone_is_not_written(tmp_path: Path) -> None:
    videos = write_videos(tmp_path / "videos", 1)
    for number in range(4):
        (videos / f"zero{number}.mp4").touch()
    summary = make(videos, tmp_path / "set", store=StoreOptions(frames=4, short_side=32, per_shard=1))
    assert (summary.samples, summary.shards, len(summary.refused)) == (1, 1, 4)
    assert len(list((tmp_path / "set").glob("*.tar"))) == 1
    assert make(videos, tmp_path / "set", work=work.buggy, store=StoreOptions(4, 32, 90, 1)).samples == 1


def test_a_bug_in_our_code_is_not_a_bad_clip(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="a bug"):
        make(videos, tmp_path / "set", work=work.buggy)
    assert not half_made(tmp_path / "set")


def test_decoding_processes_never_load_torch(videos: Path, tmp_path: Path) -> None:
    summary = make(videos, tmp_path / "set", work=work.modules, limit=2)
    assert {refusal.reason for refusal in summary.refused} == {"torch loaded: False"}


def test_other_options_or_fewer_clips_in_a_begun_folder_are_refused(finished: Path, videos: Path) -> None:
    before = hashes(finished)
    with pytest.raises(ConfigError, match="begun with another frames 4 → 5"):
        make(videos, finished, store=StoreOptions(frames=5, short_side=32, per_shard=3))
    with pytest.raises(ConfigError, match=r"2 clips are planned in .* and not in the list any more, such as 'odd/v07'"):
        make(videos, finished, limit=6)
    assert hashes(finished) == before


def test_other_captions_in_a_begun_folder_are_refused(finished: Path, videos: Path, tmp_path: Path) -> None:
    captions = tmp_path / "c.csv"
    captions.write_text("file,caption\nv00.mp4,something\n")
    listing = list_folder(videos, captions=captions).first_in_order()
    said = r"1 clip is planned in .* with another caption, label or file; of 'v00' captions \(\) → \('something',\)"
    with pytest.raises(ConfigError, match=said):
        prepare(listing, finished, name="set", store=STORE, run=ONE)


def test_a_folder_with_shards_of_others_is_refused(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "00000.tar").touch()
    with pytest.raises(DataError, match="did not write"):
        make(videos, tmp_path)


def test_two_runs_in_one_folder_are_refused(videos: Path, tmp_path: Path) -> None:
    import fcntl

    out = tmp_path / "set"
    (out / ".umt-data").mkdir(parents=True)
    with (out / ".umt-data" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another umt-data is working"):
            make(videos, out)
    assert make(videos, out).samples == 8


def test_files_with_one_key_are_refused_before_any_work(tmp_path: Path) -> None:
    videos = write_videos(tmp_path / "videos", 1)
    write_video(videos / "v00.mkv", frames=2)
    with pytest.raises(DataError, match=r"'v00' to v00\.mkv and v00\.mp4"):
        make(videos, tmp_path / "set", work=work.buggy)
    assert not (tmp_path / "set").exists()


def test_a_full_disk_is_said_and_finished_shards_stay(finished: Path, videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    make(videos, out)
    kept = (out / "set-000000.tar").stat().st_mtime_ns
    (out / "set-000001.tar").unlink()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))  # stands for a full disk: a tar is larger
    try:
        with pytest.raises(MachineError, match=r"no room to write .*set-000001"):
            make(videos, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (out / "set-000000.tar").stat().st_mtime_ns == kept
    assert not (out / "set-000001.tar").exists()
    assert not half_made(out)
    make(videos, out)
    assert hashes(out) == hashes(finished)


def test_frames_are_stored_with_the_exact_dct() -> None:
    """Against the DCT by its formula: 0.7 levels off on average (integers); the fast one would be 1.9."""
    grey = np.random.default_rng(0).integers(0, 256, (48, 64), np.uint8)
    with Image.open(io.BytesIO(jpeg(np.stack([grey] * 3, axis=2), 90))) as image:
        assert image.format == "JPEG"
        table = np.array(image.quantization[0]).reshape(8, 8)  # type: ignore[attr-defined]
        stored = np.asarray(image.convert("L")).astype(float)
    k, n = np.mgrid[:8, :8]
    dct = np.cos((2 * n + 1) * k * np.pi / 16) * np.where(k == 0, np.sqrt(1 / 8), np.sqrt(1 / 4))
    blocks = grey.astype(float).reshape(6, 8, 8, 8).transpose(0, 2, 1, 3) - 128
    coefficients = np.rint(dct @ blocks @ dct.T / table) * table
    expected = (dct.T @ coefficients @ dct + 128).transpose(0, 2, 1, 3).reshape(48, 64).clip(0, 255)
    assert np.abs(stored - expected).mean() < 1.0


@pytest.mark.parametrize(
    ("count", "wanted", "chosen"),
    [(300, 4, [37, 112, 187, 262]), (4, 4, [0, 1, 2, 3]), (3, 8, [0, 1, 2]), (1, 32, [0]), (7, 2, [1, 5])],
)
def test_frames_are_the_middles_of_equal_parts(count: int, wanted: int, chosen: list[int]) -> None:
    assert evenly_spread(count, wanted) == chosen

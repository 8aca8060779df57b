"""Long videos and many workers: members go to files as they are made, so memory grows with neither."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tracemalloc
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from subprocess import PIPE

import numpy as np
import pytest
import yaml
from PIL import Image

from data_prep.checking.verify import verify
from data_prep.cli import umt_data as umt_data_command
from data_prep.clip import Clip, Refusal, RunOptions, Sample, SourceMedia, StoreOptions
from data_prep.decode import jpeg, make_sample
from data_prep.engines import _Queue, map_ordered, side_by_side
from data_prep.making.cluster import Part
from data_prep.making.prepare import close_if_last, prepare
from data_prep.sources.folder import list_folder
from data_prep.spool import SpooledMembers
from tests.support import work
from tests.support.files import hashes_in
from tests.support.paths import REPO
from tests.support.shards import write_shards
from tests.support.umt_data import Umt, umt_data
from tests.support.videos import write_video, write_videos
from umt_ds.data.pixels.video import decode, transcode
from umt_ds.data.shards.manifest import load_manifest
from umt_ds.errors import MachineError

STORE = StoreOptions(frames=4, short_side=32)


@pytest.fixture
def umt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Umt:
    return umt_data(monkeypatch, capsys)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video, a folder of frames, a picture, and a finished set."""
    root = tmp_path_factory.mktemp("root")
    write_video(root / "v.mp4", frames=12)
    (root / "frames").mkdir()
    for number in range(5):
        Image.fromarray(np.full((48, 64, 3), 40 * number, np.uint8)).save(root / "frames" / f"img_{number}.png")
    Image.fromarray(np.full((48, 64, 3), 9, np.uint8)).save(root / "p.png")
    write_shards(root / "set", [2], members=lambda n: {f"{m:03d}.jpg": bytes([n, m]) for m in range(200)})
    return root


CASES: list[tuple[Clip, SourceMedia, StoreOptions]] = [
    (Clip("a/v", "v.mp4"), "video", STORE),
    (Clip("v", "v.mp4", span_s=(0.2, 0.9)), "video", StoreOptions(short_side=32, fps=5)),
    (Clip("v", "v.mp4"), "video", StoreOptions(short_side=32, views="all")),
    (Clip("v", "v.mp4"), "video", StoreOptions(frames=4, short_side=32, store="npy")),
    (Clip("v", "v.mp4"), "video", StoreOptions(short_side=32, store="mp4")),
    (Clip("f", "frames"), "video", STORE),
    (Clip("f", "frames"), "video", StoreOptions(frames=4, short_side=32, store="npy")),
    (Clip("p", "p.png"), "image", STORE),
    (Clip("clip-0001", "set/tiny-000000.tar", extra={"row": 1}), "sample", STORE),
]


@pytest.mark.parametrize(("clip", "media", "store"), CASES)
def test_a_sample_on_disk_has_the_members_of_one_in_memory(
    root: Path, tmp_path: Path, clip: Clip, media: SourceMedia, store: StoreOptions
) -> None:
    in_memory = make_sample(clip, root=root, media=media, store=store)
    on_disk = make_sample(clip, root=root, media=media, store=store, spool=tmp_path)
    assert isinstance(in_memory, Sample)
    assert isinstance(on_disk, Sample)
    assert dict(on_disk.members) == dict(in_memory.members)
    assert (media == "image") == (not isinstance(on_disk.members, SpooledMembers)), "a picture is small"


def test_frames_are_encoded_as_they_were_when_all_of_them_were_in_memory(root: Path, tmp_path: Path) -> None:
    frames = decode(root / "v.mp4", [1, 4, 7, 10], short_side=32).frames
    sample = make_sample(Clip("v", "v.mp4"), root=root, media="video", store=STORE, spool=tmp_path)
    assert isinstance(sample, Sample)
    assert [sample.members[f"{n:03d}.jpg"] for n in range(4)] == [jpeg(frame, 90) for frame in frames]
    np.save(array := io.BytesIO(), frames)
    options = StoreOptions(frames=4, short_side=32, store="npy")
    sample = make_sample(Clip("v", "v.mp4"), root=root, media="video", store=options, spool=tmp_path)
    assert isinstance(sample, Sample)
    assert sample.members["npy"] == array.getvalue()
    transcode(root / "v.mp4", short_side=32, file=tmp_path / "v.mp4")
    assert (tmp_path / "v.mp4").read_bytes() == transcode(root / "v.mp4", short_side=32).data


def test_what_came_before_a_fault_was_found_is_removed(root: Path, tmp_path: Path) -> None:
    (folder := tmp_path / "frames").mkdir()
    for number, side in enumerate((48, 48, 40)):
        Image.fromarray(np.zeros((side, 64, 3), np.uint8)).save(folder / f"img_{number}.png")
    (spool := tmp_path / "spool").mkdir()
    refused = make_sample(Clip("f", "frames"), root=tmp_path, media="video", store=STORE, spool=spool)
    assert isinstance(refused, Refusal)
    assert refused.reason == "its frames have 2 different sizes"
    assert list(spool.iterdir()) == []


_PEAKS = """
import resource, sys
from pathlib import Path
from data_prep.clip import Clip, StoreOptions
from data_prep.decode import make_sample
folder, store = Path(sys.argv[1]), StoreOptions(fps=10, short_side=240, store=sys.argv[2])
for name in ("short.mp4", "long.mp4"):
    sample = make_sample(Clip("k", name), root=folder, media="video", store=store, spool=folder)
    print(len(sample.members), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.parametrize("store", ["frames", pytest.param("npy", marks=pytest.mark.slow)])
def test_a_long_video_takes_no_more_memory_than_a_short_one(tmp_path: Path, store: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3), dtype=np.uint8)
    for name, count in {"short": 20, "long": 420}.items():
        write_video(tmp_path / f"{name}.mp4", size=(320, 240), pictures=[noise] * count)
    command = [sys.executable, "-c", _PEAKS, str(tmp_path), store]
    short, long = subprocess.run(command, cwd=REPO, check=True, capture_output=True, text=True).stdout.splitlines()
    assert [int(line.split()[0]) for line in (short, long)] == ([21, 421] if store == "frames" else [2, 2])
    more = (int(long.split()[1]) - int(short.split()[1])) / 1024
    assert more < 12, f"{more} MB; 400 more frames are 92 MB, their JPEGs 25 MB"


def test_to_verify_a_long_video_takes_the_memory_of_one_frame(tmp_path: Path) -> None:
    files = {f"{number:03d}.jpg": bytes(1 << 20) for number in range(30)}
    write_shards(tmp_path, [1], members=lambda _: {**files, "json": b"{}"})
    tracemalloc.start()
    report = verify(tmp_path, frames=1)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (report.samples, report.kinds["member damaged (CRC)"]) == (1, 0)
    assert most < 8 << 20, "30 frames of a megabyte each"


# ---------------------------------------------------------------- results that wait


def test_items_are_begun_ahead_as_far_as_their_results_have_room_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.engines._ROOM_A_WORKER", 50)
    queue = _Queue[int, int](2, disk_use=lambda size: size)
    items = iter(range(100))
    futures: list[Future[int]] = []

    def begin() -> int:
        """How many more are begun."""
        before = len(futures)
        for item in queue.room_for(items):
            futures.append(Future())
            queue.add(item, futures[-1])  # type: ignore[arg-type]
        return len(futures) - before

    assert begin() == 4, "each worker has one and its next one; nothing is known of their size"
    futures[1].set_result(10)  # the first is slow
    queue.note_ended(wait=True)
    assert (queue.first_has_ended(), begin()) == (False, 6), "ten such have room"
    for number in (0, 2, 3):
        futures[number].set_result(90)
    queue.note_ended(wait=True)
    assert begin() == 0, "one such has room"
    for expected in range(7):
        if expected > 3:
            futures[expected].set_result(90)
        assert queue.first_has_ended()
        assert queue.take_first()[0] == expected
    queue.note_ended(wait=False)
    assert begin() == 1, "three are under way, and two a worker may be"


def test_what_is_longer_may_take_longer() -> None:
    first, second = map_ordered(work.long_item, [9, 1], workers=2, timeout_s=0.5)
    assert first == "done"
    assert not isinstance(second, str)
    assert second.reason == "decoding took longer than 0.5 s and was stopped"


# ---------------------------------------------------------------- several writers


def test_several_writers_make_the_set_that_one_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = write_videos(tmp_path / "videos", 5, frames=3)
    (videos / "zero.mp4").touch()
    store = StoreOptions(frames=2, short_side=16, per_shard=2)

    def made(name: str, workers: int) -> dict[str, str]:
        out = tmp_path / name / "set"
        listing = list_folder(videos).first_in_order()
        prepare(listing, out, name="set", store=store, run=RunOptions(workers=workers))
        return hashes_in(out)

    one = made("one", 1)
    capsys.readouterr()
    monkeypatch.setattr("data_prep.making.prepare.WORKERS_A_WRITER", 1)
    assert made("two", 2) == one
    said = capsys.readouterr().err
    assert "6/6" in said
    assert "bad=1" in said, "the bar counts what all of them make"


def test_jobs_side_by_side_tell_what_they_do_and_the_error_of_one_ends_all() -> None:
    told: list[int] = []
    side_by_side([partial(work.tells, number) for number in (1, 3)], told=told.append)
    assert sorted(told) == [1, 3, 3, 3]
    with pytest.raises(TypeError, match="a bug"):
        side_by_side([work.never_ends, partial(work.fails, TypeError("a bug"))], told=told.append)
    with pytest.raises(MachineError, match="SIGKILL, perhaps out of memory"):
        side_by_side([work.is_killed], told=told.append)


# ---------------------------------------------------------------- a plan, and parts of it


def test_a_set_that_was_only_planned_is_made_in_parts(tmp_path: Path, umt: Umt) -> None:
    videos = write_videos(tmp_path / "videos", 3, frames=3)
    out = tmp_path / "set"
    options = ["--frames", "2", "--short-side", "16", "--per-shard", "2"]
    said = umt("folder", videos, out, *options, "--plan-only", "--workers", "3")
    assert said.code == 0
    assert "3 clips in 2 shards, 2 to be made" in said.out
    assert f"umt-data work {out} --part 0/2" in said.out
    assert "the part that ends last writes the manifest" in said.out
    assert "not in the plan: --workers 3; give that to `umt-data work`" in said.err
    assert list(out.glob("*.tar")) == []
    refused = umt("folder", videos, out, *options, "--plan-only", "--engine", "slurm")
    assert (refused.code, "--engine slurm" in refused.err) == (2, True)
    assert "other parts go on" in umt("work", out, "--part", "1/2", "--workers", "1").out
    assert not (out / "manifest.json").exists()
    said = umt("work", out, "--part", "0/2", "--workers", "1")
    assert (said.code, "set: 3 samples + 0 refused = 3 in all" in said.out) == (0, True)
    assert load_manifest(out).num_samples == 3
    written = (out / "manifest.json").stat().st_mtime_ns
    again = umt("work", out, "--part", "1/2", "--workers", "1")
    assert (again.code, "0 shards made" in again.out, "3 samples" in again.out) == (0, True, True)
    assert (out / "manifest.json").stat().st_mtime_ns == written, "it was ended already"


def test_the_end_of_a_set_can_be_left_to_finish(tmp_path: Path, umt: Umt) -> None:
    out = tmp_path / "set"
    umt("folder", write_videos(tmp_path / "videos", 2, frames=2), out, "--frames", "2", "--plan-only")
    said = umt("work", out, "--part", "0/1", "--workers", "1", "--no-finish")
    assert f"`umt-data finish {out}` ends the set" in said.out
    assert not (out / "manifest.json").exists()
    assert umt("finish", out).code == 0
    assert load_manifest(out).num_samples == 2


def test_a_set_that_has_grown_is_ended_anew(tmp_path: Path, umt: Umt) -> None:
    """By a part that has nothing to make, where the one that made the last shard was killed at its end."""
    out, videos = tmp_path / "set", write_videos(tmp_path / "videos", 1, frames=2)
    for more in ("", "-more"):
        write_video(videos / f"z{more}.mp4", frames=2)
        umt("folder", videos, out, "--frames", "2", "--plan-only")
        umt("work", out, "--part", "0/1", "--workers", "1", "--no-finish")
        assert umt("work", out, "--part", "0/1", "--workers", "1").code == 0
    assert load_manifest(out).num_samples == 3


def test_of_parts_that_end_at_once_one_ends_the_set(tmp_path: Path, umt: Umt) -> None:
    """The first to let go finds the other at work, and leaves the end to it."""
    out = tmp_path / "set"
    options = ("--frames", "2", "--per-shard", "1", "--plan-only")
    umt("folder", write_videos(tmp_path / "videos", 2, frames=2), out, *options)
    for part in ("0/2", "1/2"):
        umt("work", out, "--part", part, "--workers", "1", "--no-finish")
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(out)], stdin=PIPE, stdout=PIPE, text=True, env=ENVIRONMENT
    )
    assert other.stdin is not None
    assert other.stdout is not None
    assert other.stdout.readline() == "works\n"
    assert close_if_last(out) is None
    said = umt("work", out, "--part", "1/2", "--workers", "1")
    assert (said.code, "by another process, which works there now" in said.out) == (0, True)
    assert not (out / "manifest.json").exists()
    other.stdin.write("\n")
    other.stdin.close()
    assert "closed" in other.stdout.read()
    other.wait()
    assert load_manifest(out).num_samples == 2


HOLD = """
import sys
from pathlib import Path
from data_prep.making.prepare import close_if_last
from data_prep.state.plan import go_on
out = Path(sys.argv[1])
with go_on(out, alone=False):
    print("works", flush=True)
    sys.stdin.readline()
print("closed" if close_if_last(out) else "left open")
"""
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPO)}


def test_the_job_of_kubernetes_in_the_readme_is_a_command_of_ours(tmp_path: Path) -> None:
    page = (REPO / "data_prep" / "README.md").read_text()
    job = yaml.safe_load(page.partition("```yaml\n")[2].partition("```")[0])
    program, command, *words = job["spec"]["template"]["spec"]["containers"][0]["command"]
    words = [
        word.replace("$(JOB_COMPLETION_INDEX)", "63").replace("/data/shards/mine", str(tmp_path)) for word in words
    ]
    parsed = umt_data_command.commands[command].make_context(command, words).params
    assert (program, parsed["out"], parsed["workers"]) == ("umt-data", tmp_path, 8)
    assert Part.parse(parsed["part"]) == Part(63, job["spec"]["completions"])

"""Streamed tars: whatever webdataset can open trains, is counted by the same rules, and is marked as inexact."""

from __future__ import annotations

import io
import json
import multiprocessing
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.loading import LAST_NUMBER, PLAN, consume, spec
from tests.support.object_store import upload
from tests.support.shards import frame, key_of_sample, noisy_frames, picture, png_frames, undecodable, write_shards
from tests.support.videos import write_video
from tests.support.web_server import web_server
from umt_ds.batch import Batch
from umt_ds.config.load import load_run
from umt_ds.data.loader import Loader, LoaderPlan, SourceSpec
from umt_ds.data.order.frames import FramePolicy
from umt_ds.data.order.mixture import MOST
from umt_ds.data.shards import stream as stream_module
from umt_ds.data.shards.stream import Tars
from umt_ds.data.worker import BatchBuilder
from umt_ds.errors import ConfigError, DataError
from umt_ds.tasks.sources import count_samples, sample_counts

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def write_images(folder: Path, counts: Sequence[int] = (5, 4, 6), *, failed: Sequence[int] = ()) -> Path:
    """Tars as img2dataset's WebDatasetSampleWriter writes them (jpg, json, txt); of a failed download json and txt."""
    import webdataset

    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    for shard, count in enumerate(counts):
        with webdataset.TarWriter(str(folder / f"{shard:05d}.tar")) as writer:
            for _ in range(count):
                sample: dict[str, object] = {"__key__": f"{number:09d}", "txt": f"clip {number}"}
                sample["json"] = json.dumps({"caption": f"clip {number}", "status": "success", "label": number})
                if number not in failed:
                    sample["jpg"] = picture(frame(number * 10, 0), format="JPEG")
                writer.write(sample)
                number += 1
    return folder


def stream(*names: str, samples: int | None = None, frames: int = 1) -> SourceSpec:
    return SourceSpec("web", Tars(names, samples), FramePolicy("sparse", frames))


def load(source: SourceSpec, steps: int = 4, *, plan: LoaderPlan = PLAN, tokenize: bool = False) -> list[Batch]:
    with closing(Loader([source], plan, tokenize=LAST_NUMBER if tokenize else None, label_field="label")) as loader:
        return [batch for step in range(steps) for batch in loader.micro_batches(step)]


def keys_of(batches: list[Batch]) -> list[str]:
    return [key for batch in batches for key in batch.keys]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Retries without waiting; the pauses that would have been made."""
    pauses: list[float] = []
    monkeypatch.setattr("umt_ds.data.shards.stream.time.sleep", pauses.append)
    return pauses


# ---------------------------------------------------------------- what can be streamed


@pytest.mark.parametrize("workers", [0, 2])
def test_a_command_streams_images_with_their_own_captions_and_labels(images: Path, workers: int) -> None:
    batches = load(
        stream(f"pipe:cat {images}/{{00000..00002}}.tar"), plan=replace(PLAN, num_workers=workers), tokenize=True
    )
    assert [batch.draws.tolist() for batch in batches] == [list(range(12 * s, 12 * s + 12)) for s in range(4)]
    assert all(batch.slots.tolist() == list(range(12)) for batch in batches)
    assert len({batch.digest for batch in batches}) == 4
    assert len(set(keys_of(batches))) > 10, "of 15"
    for batch in batches:
        assert batch.targets.labels is not None
        assert batch.text is not None
        assert [f"{n:09d}" for n in batch.targets.labels.tolist()] == list(batch.keys)
        assert torch.equal(batch.text.ids[:, 0], batch.targets.labels)
        assert (batch.pixels[:, 0, 0, 0, 0] - 10 * batch.targets.labels).abs().max() < 4, "red is ten times the number"


def test_frames_arrays_and_videos_are_decoded_as_from_a_folder(tmp_path: Path) -> None:
    video = write_video(tmp_path / "video.mp4", frames=6, size=(64, 48)).read_bytes()

    def array(number: int) -> Mapping[str, bytes]:
        file = io.BytesIO()
        np.save(file, np.stack([frame(number, index) for index in range(6)]))
        return {"npy": file.getvalue()}

    kinds = {"frames": png_frames, "npy": array, "mp4": lambda number: {"mp4": video}}
    for kind, members in kinds.items():
        folder = write_shards(tmp_path / kind, [5], members=members)
        shown = load(stream(str(folder / "tiny-000000.tar"), frames=3), steps=1)[0]
        assert shown.pixels.shape == (12, 3, 16, 16, 3)
        assert shown.substituted == 0
        if kind != "mp4":
            frames = shown.pixels[:, :, 0, 0, 1].tolist()  # green is the number of the frame
            assert all(0 <= a <= 1 and 2 <= b <= 3 and 4 <= c <= 5 for a, b, c in frames)
            assert [key_of_sample(n) for n in shown.pixels[:, 0, 0, 0, 0].tolist()] == list(shown.keys)


def test_web_servers_without_ranges_stores_and_lists_of_files_are_streamed(images: Path) -> None:
    upload(images, "memory://streamed")
    with web_server(images, ranges=False) as address:
        for names in [
            (f"{address}/{{00000..00002}}.tar",),
            tuple(str(path) for path in sorted(images.iterdir())),
            ("memory://streamed/00000.tar", "memory://streamed/00001.tar", "memory://streamed/00002.tar"),
        ]:
            assert set(keys_of(load(stream(*names), steps=9))) == {f"{n:09d}" for n in range(15)}


def test_every_rank_and_worker_has_a_stream_of_its_own_that_never_ends(images: Path) -> None:
    """One tar, two ranks with two workers each: four streams, and all draws are shown."""
    shown = []
    for rank in range(2):
        plan = replace(PLAN, micro=6, world=2, rank=rank, num_workers=2)
        shown.append(keys_of(load(stream(str(images / "00002.tar")), steps=6, plan=plan)))
    assert [len(keys) for keys in shown] == [36, 36]
    assert shown[0] != shown[1]
    assert shown[0][:6] != shown[0][6:12], "the second worker begins with the second batch"


def test_a_stream_beside_a_folder_leaves_the_folders_order_alone(tmp_path: Path, images: Path) -> None:
    folder = write_shards(tmp_path / "folder", [11, 9], first=100, members=noisy_frames)
    sources = [
        replace(spec(folder, weight=1), frames=FramePolicy("sparse", 1)),
        replace(stream(f"{images}/00000.tar"), weight=3),
    ]
    plan = replace(PLAN, global_draws=64, micro=64)
    keys = next(Loader(sources, plan).micro_batches(0)).keys
    of_folder = [key for key in keys if key.startswith("clip-")]
    alone = next(Loader([sources[0]], plan).micro_batches(0)).keys
    assert 5 < len(of_folder) < 30
    assert tuple(of_folder) == alone[: len(of_folder)]
    with pytest.raises(ConfigError, match="nobody knows how many samples web streams"):
        Loader([replace(source, weight=None) for source in sources], plan)


def test_a_source_of_a_few_samples_beside_a_billion_is_drawn_rarely_without_a_weight(images: Path) -> None:
    """With a weight that says the same it is refused: somebody has written it."""
    large, small = (
        replace(stream(f"{images}/00000.tar", samples=samples), name=str(samples)) for samples in (10**9, 3)
    )
    counts = BatchBuilder([large, small], PLAN).draws.schedule._schedules[0]._sources[0].counts
    assert counts == [MOST - 1, 1]
    with pytest.raises(ConfigError, match=f"leave 3 without a single draw in {MOST:,}"):
        Loader([replace(large, weight=1e9), replace(small, weight=3)], PLAN)


# ---------------------------------------------------------------- inexact, and how long


def test_a_streamed_run_says_that_it_is_inexact(images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    exact = Loader([spec(write_shards(tmp_path / "exact"))], PLAN)
    assert (exact.not_reproducible, caplog.text) == ((), "")
    streamed = Loader([stream(str(images / "00000.tar"))], PLAN)
    assert streamed.not_reproducible == ("web",)
    assert streamed.fingerprints == {}
    assert caplog.text.count("this run is inexact: web is streamed") == 1


def test_a_resumed_run_begins_its_streams_anew(images: Path) -> None:
    """Not where they began at first, or the same clips would come after every restart."""
    source = stream(f"{images}/{{00000..00002}}.tar")
    begun, resumed = (next(Loader([source], PLAN).micro_batches(step)).keys for step in (0, 3))
    assert begun != resumed


def test_the_length_of_a_stream_is_given_or_not_needed() -> None:
    words = ["task.teacher.weights=random", "data.sources.demo.shards=pipe:cat x.tar"]
    assert count_samples(load_run("demo/stage1", words)) == 0, "the demo's schedule is in steps"
    in_epochs = [*words, "schedule.epochs=3", "schedule.warmup_epochs=1"]
    with pytest.raises(ConfigError, match=r"data\.sources\.demo is streamed.*how long") as caught:
        count_samples(load_run("demo/stage1", in_epochs))
    assert "data.sources.demo.samples" in str(caught.value)
    known = load_run("demo/stage1", [*in_epochs, "data.sources.demo.samples=640"])
    assert sample_counts(known) == {"demo": 640}
    assert count_samples(known) == 640


@pytest.mark.parametrize(
    ("shards", "streamed"),
    [
        ("/data/k710/train", False),
        ("s3://bucket/k710", False),
        ("https://host/k710", False),
        ("pipe:curl -s https://host/a.tar", True),
        ("https://host/{000000..000099}.tar", True),
        ("[/data/a.tar, pipe:zcat b.tar.gz]", True),
    ],
)
def test_what_is_streamed_shows_in_its_name(shards: str, streamed: bool) -> None:
    source = load_run("demo/stage1", [f"data.sources.demo.shards={shards}"]).data.sources["demo"]
    assert source.is_stream is streamed
    if not streamed:
        with pytest.raises(ConfigError, match="samples is for streamed tars"):
            load_run("demo/stage1", [f"data.sources.demo.shards={shards}", "data.sources.demo.samples=5"])


# ---------------------------------------------------------------- what is bad


def test_bad_samples_are_counted_and_the_next_one_is_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_shards(tmp_path, [20], members=undecodable(3, 7))
    batches = load(stream(str(folder / "tiny-000000.tar"), frames=3), steps=8)
    assert not {key_of_sample(3), key_of_sample(7)} & set(keys_of(batches))
    assert 2 <= sum(batch.substituted for batch in batches) <= 30
    assert caplog.text.count("bad sample web:clip-0003") == 1
    with pytest.raises(DataError, match=r"draws met a bad sample, more than data\.max_bad_rate=0\.01"):
        load(stream(str(folder / "tiny-000000.tar"), frames=3), steps=99, plan=replace(PLAN, max_bad_rate=0.01))


def test_only_bad_samples_stop_the_run_at_once(tmp_path: Path) -> None:
    folder = write_shards(tmp_path, [20], members=undecodable(*range(20)))
    with pytest.raises(DataError, match="10 substitutes in a row are bad"):
        load(stream(str(folder / "tiny-000000.tar"), frames=3))


def test_downloads_that_failed_are_left_out_and_are_no_bad_samples(tmp_path: Path) -> None:
    folder = write_images(tmp_path, [15], failed=range(0, 15, 2))
    batches = load(stream(str(folder / "00000.tar")))
    assert set(keys_of(batches)) == {f"{n:09d}" for n in range(1, 15, 2)}
    assert sum(batch.substituted for batch in batches) == 0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pipe:false", "false cannot be streamed (4 tries): empty file"),
        ("pipe:cat FOLDER/00000.tar; exit 7", "exit code 7"),
        ("pipe:head --bytes 3000 FOLDER/00000.tar", "it was cut off"),
        ("pipe:head --bytes 1800 FOLDER/00000.tar", "unexpected end of data"),
        ("memory://streamed/nothing.tar", "nothing.tar"),
    ],
)
def test_a_stream_that_breaks_is_tried_again_and_then_stops_the_run(
    images: Path, impatient: list[float], name: str, said: str
) -> None:
    with pytest.raises(DataError, match="cannot be streamed") as caught:
        load(stream(name.replace("FOLDER", str(images))), steps=99)
    assert said in str(caught.value)
    assert caught.value.hint is not None
    assert impatient == [0.5, 2.0, 8.0]


def test_a_stream_that_comes_back_goes_on_behind_what_was_given(
    images: Path, tmp_path: Path, impatient: list[float]
) -> None:
    """It breaks once, after a third of its bytes."""
    marker = tmp_path / "broke"
    tar = images / "00000.tar"
    third = tar.stat().st_size // 3
    command = f"if test -e {marker}; then cat {tar}; else touch {marker}; head --bytes {third} {tar}; fi"
    keys = [sample.key for sample in stream_module._samples_of(f"pipe:{command}")]
    assert keys == [f"{n:09d}" for n in range(5)]
    assert impatient == [0.5]


def test_a_tar_that_is_not_there_is_named_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no tar .*/b\.tar"):
        Loader([stream(f"{tmp_path}/b.tar")], PLAN)


def write_tar(path: Path, *names: str) -> Path:
    """A tar of files with these names and a few bytes each."""
    with tarfile.open(path, "w") as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 4
            archive.addfile(info, io.BytesIO(b"junk"))
    return path


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_without_one_clip_says_what_it_holds(tmp_path: Path, workers: int) -> None:
    dotted = write_tar(tmp_path / "dotted.tar", "vid_0.5_1.jpg", "vid_0.5_1.txt", "vid_1.5_1.jpg", "vid_1.5_1.txt")
    empty = write_tar(tmp_path / "empty.tar")
    with pytest.raises(DataError, match="the stream of source web holds no clip") as caught:
        load(stream(str(dotted), f"pipe:cat {empty}", str(empty)), plan=replace(PLAN, num_workers=workers))
    said = caught.value.what
    assert "dotted.tar: 2 sample(s) with the files 5_1.jpg, 5_1.txt" in said
    assert said.count("no sample at all") == 2
    assert "first dot" in str(caught.value.hint)


def test_the_dry_stream_of_a_mixture_is_named(tmp_path: Path, images: Path) -> None:
    dry = SourceSpec("dry", Tars((str(write_tar(tmp_path / "x.tar", "a.json")),)), FramePolicy("sparse", 1), weight=1)
    loader = Loader([replace(stream(f"{images}/00000.tar"), weight=1), dry], PLAN)
    with pytest.raises(DataError, match=r"the stream of source dry holds no clip(.|\n)*with the files json"):
        consume(loader, range(2))


def test_tars_without_a_clip_among_others_are_said_once_and_left_out(
    tmp_path: Path, images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    empty = [str(write_tar(tmp_path / f"{number}.tar", "a.json")) for number in range(20)]
    assert set(keys_of(load(stream(*empty, f"{images}/00000.tar"), steps=30))) == {f"{n:09d}" for n in range(5)}
    said = [record.getMessage() for record in caplog.records if "holds no clip" in record.getMessage()]
    assert 5 < len(said) == len(set(said)) <= 20


def test_a_command_of_several_processes_ends_with_a_reader_that_is_killed(tmp_path: Path, images: Path) -> None:
    marker = f"{time.time():.6f}"
    command = f"cat {images}/00000.tar; sleep 1{marker} | sleep 2{marker}"

    def read() -> None:
        for _ in stream_module._samples_of(f"pipe:{command}"):
            pass

    reader = multiprocessing.get_context("fork").Process(target=read)
    reader.start()
    wait_until(lambda: running(f"sleep 1{marker}") and running(f"sleep 2{marker}"))
    reader.kill()
    wait_until(lambda: not running(marker))
    reader.join()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("workers", [0, 1])
def test_closing_the_loader_ends_its_commands(tmp_path: Path, workers: int) -> None:
    tar = write_images(tmp_path, [300]) / "00000.tar"  # more than a pipe holds: the command waits for its reader
    loader = Loader([stream(f"pipe:cat {tar}")], replace(PLAN, num_workers=workers, global_draws=1, micro=1))
    consume(loader, range(1))
    assert running(f"cat {tar}")
    loader.close()
    deadline = time.monotonic() + 10
    while running(f"cat {tar}"):
        assert time.monotonic() < deadline


def running(command: str) -> bool:
    lines = (path / "cmdline" for path in Path("/proc").glob("[0-9]*"))
    return any(command in _text(line).replace("\0", " ") for line in lines)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # the process has ended
        return ""

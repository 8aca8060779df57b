"""What the loader does when samples are bad, disks fail, workers die and processes are killed."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support.loading import (
    LAST_NUMBER,
    PLAN,
    Tokenizing,
    assert_same,
    consume,
    global_batch,
    spec,
    write_noise,
)
from tests.support.shards import flip_byte, key_of_sample, png_frames, undecodable, write_shards
from umt_ds.batch import Batch, Tokens
from umt_ds.data import pipeline
from umt_ds.data.loader import Loader
from umt_ds.data.shards import back_off
from umt_ds.data.shards import frame_set as source_module
from umt_ds.data.shards.back_off import Outage
from umt_ds.errors import DataError, MachineError

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_noise(tmp_path_factory.mktemp("noisy"))


@pytest.fixture(scope="module")
def unbroken(folder: Path) -> list[Batch]:
    """Eight steps of one rank without workers: 96 draws, more than two passes."""
    return global_batch(folder, range(8))


# ---------------------------------------------------------------- bad samples


def test_a_bad_sample_gets_the_same_substitute_everywhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_shards(tmp_path, [11, 9, 12, 8], members=undecodable(4, 17))
    flip_byte(folder, shard=2, row=1, suffix="003.png")  # sample 21: bad only when frame 3 is shown
    alone = global_batch(folder, range(7))
    assert caplog.text.count("bad sample tiny:clip-0004") == 1  # met in two passes, logged once
    assert_same(global_batch(folder, range(5, 6), world=3, workers=2)[0], alone[5])
    assert_same(global_batch(folder, range(4, 5), world=2, accumulation=2)[0], alone[4])
    keys = [key for b in alone for key in b.keys]
    assert not {key_of_sample(4), key_of_sample(17)} & set(keys)
    assert sum(b.substituted for b in alone) >= 2 * 2  # two passes


def test_a_substitute_leaves_all_other_draws_alone(tmp_path: Path) -> None:
    good = global_batch(write_shards(tmp_path / "good", [11, 9, 12, 8]), range(4))
    bad = global_batch(write_shards(tmp_path / "bad", [11, 9, 12, 8], members=undecodable(4)), range(4))
    changed = [
        (key, other)
        for one, two in zip(good, bad, strict=True)
        for key, other in zip(one.keys, two.keys, strict=True)
        if key != other
    ]
    assert 1 <= len(changed) <= 2
    assert {key for key, _ in changed} == {key_of_sample(4)}


def test_label_and_caption_belong_to_the_clip_that_is_shown(tmp_path: Path) -> None:
    folder = write_shards(tmp_path, [11, 9], members=undecodable(*range(0, 20, 3)))
    loader = Loader([spec(folder)], replace(PLAN, num_sample=2), tokenize=LAST_NUMBER, label_field="label")
    batches = [b for step in range(5) for b in loader.micro_batches(step)]
    assert sum(b.substituted for b in batches) > 10
    for b in batches:
        assert b.targets.labels is not None
        assert b.text is not None
        assert [key_of_sample(n) for n in b.targets.labels.tolist()] == list(b.keys)
        assert torch.equal(b.pixels[:, 0, 0, 0, 0].long(), b.targets.labels)  # red is the number of the sample
        assert torch.equal(b.text.ids[:, 0], b.targets.labels)
        assert b.text.mask.all()


def test_a_caption_that_is_no_text_costs_its_sample(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As JSON holds them: half a character, a number, and brackets without end."""
    odd = {4: b'{"label": 4, "caption": "clip 4 \\ud83d"}', 7: b'{"label": 7, "caption": 7}', 9: b"[" * 99_999}
    folder = write_shards(tmp_path, [11, 9], members=lambda n: png_frames(n) | ({"json": odd[n]} if n in odd else {}))
    loader = Loader([spec(folder)], PLAN, tokenize=LAST_NUMBER, label_field="label")
    batches = [b for step in range(5) for b in loader.micro_batches(step)]
    assert sum(b.substituted for b in batches) >= 3 * 2  # more than two passes
    assert not {key_of_sample(n) for n in odd} & {key for b in batches for key in b.keys}
    for reason in ("half a character", "caption is of type int", "cannot be read"):
        assert reason in caplog.text


def test_too_many_bad_samples_stop_the_run(tmp_path: Path) -> None:
    folder = write_shards(tmp_path, [40], members=undecodable(*range(0, 40, 4)))  # a quarter is bad
    patient = Loader([spec(folder)], replace(PLAN, max_bad_rate=0.3))
    consume(patient, range(20))
    assert patient.faults.draws == 240
    assert patient.faults.substituted == 60
    strict = Loader([spec(folder)], replace(PLAN, max_bad_rate=0.1))
    with pytest.raises(DataError, match=r"2\d of \d+ draws met a bad sample.*max_bad_rate=0\.1"):
        consume(strict, range(20))
    assert strict.faults.draws < 150


def test_a_few_bad_samples_at_the_start_are_not_a_rate(tmp_path: Path) -> None:
    folder = write_shards(tmp_path, [400], members=undecodable(*range(19)))
    loader = Loader([spec(folder)], replace(PLAN, global_draws=400, micro=400, max_bad_rate=0.0))
    batch = next(loader.micro_batches(0))
    assert batch.substituted == loader.faults.substituted == 19


@pytest.mark.parametrize("workers", [0, 2])
def test_many_bad_samples_in_a_row_stop_at_once(tmp_path: Path, workers: int) -> None:
    folder = write_shards(tmp_path, [6], members=undecodable(*range(6)))
    loader = Loader([spec(folder)], replace(PLAN, num_workers=workers))
    with pytest.raises(DataError, match=r"substitutes in a row are bad") as caught:
        list(loader.micro_batches(0))
    assert "umt-data verify" in str(caught.value)
    assert "tiny:clip-000" in str(caught.value)
    loader.close()


def test_skipped_draws_show_others_and_nothing_else_changes(folder: Path, unbroken: list[Batch]) -> None:
    plan = replace(PLAN, skip_draws=((14, 17), (40, 41)))
    skipping = global_batch(folder, range(5), plan=plan)
    assert_same(global_batch(folder, range(1, 2), world=3, workers=1, plan=plan)[0], skipping[1])
    differing = {
        int(draw)
        for one, two in zip(skipping, unbroken, strict=False)
        for draw, key, other in zip(one.draws, one.keys, two.keys, strict=True)
        if key != other
    }
    assert differing == {14, 15, 16, 40}
    assert all(b.substituted == 0 for b in skipping)


# ---------------------------------------------------------------- what must not be taken for a bad sample


def test_a_missing_shard_stops_before_the_first_step(tmp_path: Path) -> None:
    folder = write_shards(tmp_path)
    (folder / "tiny-000001.tar").unlink()
    with pytest.raises(DataError, match=r"tiny-000001\.tar"):
        Loader([spec(folder)], PLAN)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_that_vanishes_stops_the_run_with_its_hint(
    tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "RETRY_PAUSES_S", (0.0,))
    folder = write_shards(tmp_path)
    loader = Loader([spec(folder)], replace(PLAN, num_workers=workers))
    for tar in folder.glob("*.tar"):
        tar.unlink()
    with pytest.raises(DataError, match=r"No such file.*tiny-00000\d\.tar") as caught:
        list(loader.micro_batches(0))
    assert caught.value.hint is not None
    assert "substitute" not in caught.value.what
    loader.close()


def test_an_io_error_is_no_bad_sample(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(file: int, size: int, offset: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(source_module, "RETRY_PAUSES_S", ())
    monkeypatch.setattr(os, "pread", broken)
    with pytest.raises(DataError, match="Input/output error") as caught:
        list(Loader([spec(folder)], PLAN).micro_batches(0))
    assert "substitute" not in caught.value.what


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bug_while_reading_is_no_bad_sample(folder: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def buggy(pictures: object, memory: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("umt_ds.data.clips.decode_pictures", buggy)
    loader = Loader([spec(folder)], replace(PLAN, num_workers=workers))
    with pytest.raises(ZeroDivisionError, match="a bug"):
        list(loader.micro_batches(0))
    loader.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_our_own_bugs_are_never_swallowed(folder: Path, workers: int) -> None:
    def buggy(captions: list[str]) -> Tokens:
        raise KeyError("a bug")

    loader = Loader([spec(folder)], replace(PLAN, num_workers=workers), tokenize=Tokenizing(buggy))
    with pytest.raises(KeyError, match="a bug"):
        list(loader.micro_batches(0))
    assert loader.faults.draws == 0
    loader.close()


# ---------------------------------------------------------------- workers


def workers_of_this_process() -> list[multiprocessing.process.BaseProcess]:
    return multiprocessing.active_children()


@pytest.fixture
def running(folder: Path) -> Iterator[Loader]:
    loader = Loader([spec(folder)], replace(PLAN, num_workers=2), label_field="label")
    list(loader.micro_batches(0))
    yield loader
    loader.close()
    assert not workers_of_this_process()


def test_workers_ignore_stop_signals(running: Loader, unbroken: list[Batch]) -> None:
    for worker in workers_of_this_process():
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            assert worker.pid is not None
            os.kill(worker.pid, number)
    for step in range(1, 8):
        assert next(running.micro_batches(step)).digest == unbroken[step].digest
    assert len(workers_of_this_process()) == 2


def test_a_killed_worker_gives_one_clear_error(running: Loader) -> None:
    for worker in workers_of_this_process():
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(MachineError, match="loader worker died") as caught:
        consume(running, range(1, 50))
    assert "/dev/shm" in str(caught.value)


def test_workers_that_stand_still_give_one_clear_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_POLL_S", 0.2)

    def sleepy(captions: list[str]) -> Tokens:
        time.sleep(3600)
        raise AssertionError

    plan = replace(PLAN, num_workers=1, stall_limit_s=0.5)
    loader = Loader([spec(folder)], plan, tokenize=Tokenizing(sleepy))
    with pytest.raises(MachineError, match="no batch came"):
        list(loader.micro_batches(0))
    loader.close()
    assert not workers_of_this_process()


def test_workers_that_wait_for_a_store_do_not_stand_still(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_POLL_S", 0.1)
    monkeypatch.setattr(back_off, "_waiting_until", mmap.mmap(-1, 8))

    def late(number: int) -> int:
        """As one whose first request fails."""
        Outage("s3://bucket/set").next_pause_s(ConnectionResetError("reset"))
        time.sleep(0.5)
        return number

    pool = pipeline.WorkerPool(late, first=0, num_workers=1, prefetch=1, stall_limit_s=0.2)
    assert pool.take() == 0
    pool.close()


def test_building_batches_leaves_torchs_random_numbers_alone(folder: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    loader = Loader([spec(folder)], replace(PLAN, num_workers=1))
    list(loader.micro_batches(0))
    loader.close()
    assert torch.equal(torch.rand(3), expected)


# ---------------------------------------------------------------- whole processes

CONSUMER = """
import sys, time
from pathlib import Path
import torch
from umt_ds.data.order.frames import FramePolicy
from umt_ds.data.loader import Loader, LoaderPlan, SourceSpec

plan = LoaderPlan(seed=3, global_draws=12, micro=12, image_side=16, window=2, num_workers=2)
loader = Loader([SourceSpec("tiny", Path(sys.argv[1]), FramePolicy("sparse", 3))], plan, label_field="label")
for step in range(int(sys.argv[2])):
    for batch in loader.micro_batches(step):
        print(step, batch.digest, flush=True)
"""


def consumer(folder: Path, steps: int) -> list[str]:
    return [sys.executable, "-c", CONSUMER, str(folder), str(steps)]


def test_after_sigkill_another_world_size_continues_the_unbroken_chain(folder: Path, unbroken: list[Batch]) -> None:
    last = random.Random(os.getpid()).randrange(1, 6)
    seen: dict[int, int] = {}
    with subprocess.Popen(consumer(folder, 10**6), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            step, digest = map(int, line.split())
            seen[step] = digest
            if step == last:
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    resumed = global_batch(folder, range(last + 1, 8), world=3, workers=1)
    chain = [seen[step] for step in range(last + 1)] + [b.digest for b in resumed]
    assert chain == [b.digest for b in unbroken]


def test_a_process_that_forgets_to_close_still_ends(folder: Path) -> None:
    done = subprocess.run(consumer(folder, 2), capture_output=True, text=True, timeout=60, check=True)
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr == ""

"""Training from a store shows what training from a disk shows: cold, warm, evicted, damaged, resumed."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import NoCredentialsError
from click.testing import CliRunner
from fsspec.implementations.memory import MemoryFileSystem

from tests.support.loading import PLAN, assert_same, consume, global_batch, joined, spec, write_noise
from tests.support.object_store import s3_process, s3_server, upload
from tests.support.shards import flip_byte, write_shards
from tests.support.web_server import web_server
from umt_ds.batch import Batch
from umt_ds.bench.rate import measure_loader
from umt_ds.cli import umt
from umt_ds.config.batching import plan_run
from umt_ds.config.load import load_run
from umt_ds.data.clip_request import ClipRequest, middle_frames
from umt_ds.data.clips import read_clip
from umt_ds.data.evaluation import EvaluationSet
from umt_ds.data.loader import Loader
from umt_ds.data.shards import back_off, fetch, remote
from umt_ds.data.shards import storage as places
from umt_ds.data.shards.block_cache import BlockCache
from umt_ds.data.shards.records import Member, index_path, load_index
from umt_ds.data.shards.remote import RemoteFile, RemoteFiles, Traffic
from umt_ds.data.shards.source import ShardSource
from umt_ds.data.shards.storage import as_path
from umt_ds.data.shards.store_answers import hint_of
from umt_ds.distributed.world import World
from umt_ds.errors import ConfigError, DataError, DecodeError
from umt_ds.evaluation.knn import KnnEvaluator
from umt_ds.preflight import run_checks
from umt_ds.preflight.store_reads import store_reads
from umt_ds.tasks.kinds import evaluators_of
from umt_ds.tasks.loader import plan_loader

BLOCK = 4096  # a sample of noise has 13 kB, a shard about 190 kB


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "BLOCK", BLOCK)
    monkeypatch.setattr(fetch, "REQUEST_COSTS", 2 * BLOCK)  # three frames


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_noise(tmp_path_factory.mktemp("noisy"))


@pytest.fixture(scope="module")
def unbroken(folder: Path) -> list[Batch]:
    """Four steps from the disk: 48 draws, more than one pass."""
    return global_batch(folder, range(4))


@pytest.fixture(scope="module")
def store(folder: Path) -> Iterator[Path]:
    """The same shards in an S3 server."""
    with s3_server("sets"):
        yield upload(folder, "s3://sets/noisy")


def load(
    there: Path, cache: BlockCache | None, *, workers: int = 0, max_gap: int | None = None
) -> tuple[list[Batch], Traffic]:
    """The same four steps from elsewhere, and what was moved for them."""
    plan = replace(PLAN, num_workers=workers, max_gap=max_gap)
    loader = Loader([spec(there)], plan, label_field="label", cache=cache)
    batches = [joined([batch]) for step in range(4) for batch in loader.micro_batches(step)]
    traffic = loader.traffic
    loader.close()
    return batches, traffic


def assert_all_same(some: list[Batch], others: list[Batch]) -> None:
    for one, other in zip(some, others, strict=True):
        assert_same(one, other)


# ---------------------------------------------------------------- the same clips


@pytest.mark.parametrize("workers", [0, 2])
def test_cold_and_warm_runs_show_what_the_disk_shows(
    store: Path, unbroken: list[Batch], tmp_path: Path, workers: int
) -> None:
    """With workers, the parent has used the store before they are forked."""
    cache = BlockCache(tmp_path, max_bytes=10**9)
    cold, first = load(store, cache, workers=workers)
    warm, second = load(store, cache, workers=workers)
    assert_all_same(cold, unbroken)
    assert_all_same(warm, unbroken)
    assert 0 < first.requests < 48, "fewer requests than draws: what lies together comes together"
    assert first.fetched > 300_000
    # of two workers that fetch parts of one block at the same time, the one that is later keeps its own
    assert second.fetched <= (0.1 * first.fetched if workers else 0)
    assert second.cached > 200_000


def test_a_cache_that_is_too_small_costs_requests_and_nothing_else(
    store: Path, unbroken: list[Batch], tmp_path: Path
) -> None:
    cache = BlockCache(tmp_path, max_bytes=10 * BLOCK)
    for _ in range(2):
        batches, traffic = load(store, cache, workers=2)
        assert_all_same(batches, unbroken)
        assert traffic.fetched > 300_000
        assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 10 * BLOCK


def bytes_shown(folder: Path) -> int:
    """The bytes of all that the four steps read, which tell how little can be fetched."""
    loader = Loader([spec(folder)], PLAN, label_field="label")
    (source,) = loader.builder.draws.sources
    read, sizes = source.read, list[int]()
    source.read = lambda ref, member: sizes.append(member.size) or read(ref, member)  # type: ignore[method-assign]
    consume(loader, range(4))
    loader.close()
    return sum(sizes)


def test_what_a_batch_does_not_show_is_not_fetched(
    store: Path, folder: Path, unbroken: list[Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "REQUEST_COSTS", 0)
    batches, traffic = load(store, None)
    assert_all_same(batches, unbroken)
    indexes = sum(path.stat().st_size for path in folder.glob("*.index.npz"))
    assert traffic.fetched <= 1.05 * bytes_shown(folder) + indexes


def test_the_frames_of_a_clip_come_in_one_request_where_bytes_between_them_cost_less(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, together = load(store, None)
    monkeypatch.setattr(fetch, "REQUEST_COSTS", 2500)  # a frame
    _, apart = load(store, None)
    assert apart.requests > 48
    assert together.requests <= 1.2 * 48
    assert apart.fetched < together.fetched


def test_without_a_cache_a_batch_fetches_each_block_once(store: Path, unbroken: list[Batch], folder: Path) -> None:
    batches, traffic = load(store, None)
    assert_all_same(batches, unbroken)
    assert traffic.cached == 0
    assert traffic.fetched <= 1.3 * sum(path.stat().st_size for path in folder.iterdir())  # 48 draws of 40 samples


def test_a_resumed_run_at_another_world_size_continues_from_the_store(store: Path, unbroken: list[Batch]) -> None:
    resumed = global_batch(store, range(2, 4), world=3, workers=1)
    assert_all_same(resumed, unbroken[2:])


def test_two_sets_with_the_same_names_do_not_mix_in_one_cache(
    store: Path, unbroken: list[Batch], tmp_path: Path
) -> None:
    """Blocks are kept by the hash of their file, so a set that replaces another is read anew."""
    other = write_shards(tmp_path / "other", [11, 9, 12, 8])
    cache = BlockCache(tmp_path / "cache", max_bytes=10**9)
    load(store, cache)
    there = upload(other, "s3://sets/other")
    assert_all_same(load(there, cache)[0], global_batch(other, range(4)))
    batches, traffic = load(store, cache)
    assert_all_same(batches, unbroken)
    assert traffic.fetched == 0, "both are kept"


def test_a_source_that_was_read_before_a_fork_is_read_after_it(store: Path) -> None:
    """The thread behind the parent's connections does not live in the child."""
    source = ShardSource(store)
    ref = source.ref(0)
    source.read(ref, source.members(ref)[0])

    def read_more() -> None:
        last = source.ref(39)
        os._exit(0 if source.read(last, source.members(last)[0]) else 1)

    child = multiprocessing.get_context("fork").Process(target=read_more)
    child.start()
    child.join(timeout=60)
    child.kill()
    assert child.exitcode == 0


def test_a_web_server_with_ranges_and_memory_show_the_same(folder: Path, unbroken: list[Batch], tmp_path: Path) -> None:
    with web_server(folder, ranges=True) as address:
        assert_all_same(load(as_path(address), BlockCache(tmp_path, max_bytes=10**9), workers=2)[0], unbroken)
    assert_all_same(load(upload(folder, "memory://sets/noisy"), None, workers=2)[0], unbroken)


def test_the_loader_says_what_it_moved(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, folder: Path
) -> None:
    with caplog.at_level("INFO", logger="umt_ds"):
        load(folder, None)
        assert "fetched" not in caplog.text
        _, traffic = load(store, BlockCache(tmp_path, max_bytes=10**9), workers=1)
    said = f"fetched {traffic.fetched / 1e6:,.1f} MB in {traffic.requests} requests, its cache had 0.0 MB"
    assert said in caplog.text


def test_a_cache_that_cannot_keep_blocks_is_said_once_and_counted(
    store: Path, unbroken: list[Batch], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "full").touch()  # stands for a full or read-only disk
    cache = BlockCache(tmp_path / "full", max_bytes=10**9)
    with caplog.at_level("INFO", logger="umt_ds"):
        batches, traffic = load(store, cache, workers=2)
    assert_all_same(batches, unbroken)
    assert traffic.unkept > 100
    assert caplog.text.count("Not a directory") == 2
    assert caplog.text.count("cannot keep what comes from the store") == 1
    assert f"; {traffic.unkept} blocks could not be kept there" in caplog.text


# ---------------------------------------------------------------- ranges


class Counted(RemoteFiles):
    """Notes the requests."""

    def __init__(self, folder: Path, files: dict[str, RemoteFile], cache: BlockCache | None = None) -> None:
        super().__init__(folder, files, cache)
        self.requests: list[tuple[int, int]] = []  # offset, size

    def _get(self, request: tuple[str, int, int]) -> bytes:
        self.requests.append(request[1:])
        return super()._get(request)


@pytest.fixture
def file() -> Iterator[tuple[Path, bytes]]:
    content = random.Random(0).randbytes(100 * BLOCK + 77)
    there = as_path("memory://ranges/file")
    there.write_bytes(content)
    yield there, content
    there.unlink()


def test_any_range_is_the_bytes_that_lie_there(file: tuple[Path, bytes]) -> None:
    there, content = file
    files = RemoteFiles(there.parent, {"file": RemoteFile(len(content), "hash")}, None)
    chance = random.Random(1)
    spans = [sorted(chance.choices(range(len(content) + 1), k=2)) for _ in range(50)]
    for first, end in [*spans, (0, len(content)), (5, 5), (len(content) - 1, len(content))]:
        assert files.read("file", first, end - first) == content[first:end]


def test_neighbouring_ranges_come_in_one_request_and_long_ones_in_several(
    file: tuple[Path, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "PIECE", 32 * BLOCK)
    there, content = file
    monkeypatch.setattr(fetch, "REQUEST_COSTS", BLOCK)
    files = Counted(there.parent, {"file": RemoteFile(len(content), "hash")})
    files.prefetch([("file", 3 * BLOCK + 5, BLOCK), ("file", 5 * BLOCK, 10), ("file", 20 * BLOCK, 1)])
    assert sorted(files.requests) == [(3 * BLOCK + 5, 2 * BLOCK + 5), (20 * BLOCK, 1)]
    files.read("file", 3 * BLOCK + 9, 2 * BLOCK)
    assert len(files.requests) == 2, "it is here already, and so is what lay between"
    files.read("file", 5 * BLOCK, 20)
    assert files.requests[2:] == [(5 * BLOCK + 10, 10)], "ten bytes were here"
    files.read("file", 30 * BLOCK, 70 * BLOCK + 77)
    assert sorted(files.requests[3:]) == [
        (30 * BLOCK, 32 * BLOCK), (62 * BLOCK, 32 * BLOCK), (94 * BLOCK, 6 * BLOCK + 77),
    ]  # fmt: skip
    assert files.take_traffic() == Traffic(fetched=72 * BLOCK + 5 + 1 + 10 + 77, requests=6)
    assert files.take_traffic() == Traffic()


def test_what_several_processes_fetched_of_a_block_comes_together_in_the_cache(
    file: tuple[Path, bytes], tmp_path: Path
) -> None:
    there, content = file
    cache = BlockCache(tmp_path, max_bytes=10**6)
    known = {"file": RemoteFile(len(content), "0" * 64)}
    one, other = Counted(there.parent, known, cache), Counted(there.parent, known, cache)
    one.read("file", 100, 50)
    other.read("file", 100, 50)
    other.read("file", 300, 50)
    assert other.requests == [(300, 50)]
    assert one.read("file", 300, 50) == content[300:350]
    assert len(one.requests) == 1
    assert one.take_traffic() == Traffic(fetched=50, requests=1, cached=50)


def test_a_block_that_another_process_evicts_is_fetched_again(file: tuple[Path, bytes], tmp_path: Path) -> None:
    there, content = file
    cache = BlockCache(tmp_path, max_bytes=10**6)
    files = RemoteFiles(there.parent, {"file": RemoteFile(len(content), "hash")}, cache)
    files.prefetch([("file", 100, 2 * BLOCK)])
    files.close()
    cache.drop("hash-1")
    assert files.read("file", 100, 2 * BLOCK) == content[100 : 100 + 2 * BLOCK]


# ---------------------------------------------------------------- damage


def test_damaged_and_cut_blocks_of_the_cache_are_noticed_and_fetched_again(
    store: Path, unbroken: list[Batch], tmp_path: Path
) -> None:
    cache = BlockCache(tmp_path, max_bytes=10**9)
    load(store, cache)
    blocks = sorted(path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size)
    for number, path in enumerate(blocks):
        data = path.read_bytes()
        middle = len(data) // 2
        flipped_in_the_middle = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        path.write_bytes(data[: middle - 1] if number % 3 == 0 else flipped_in_the_middle)
    mended, traffic = load(store, cache)
    assert_all_same(mended, unbroken)
    assert sum(batch.substituted for batch in mended) == 0
    assert traffic.fetched > 100_000
    assert load(store, cache)[1].fetched < 20_000, "good neighbours of what was damaged, in the same blocks"
    assert load(store, cache)[1].fetched == 0


def test_a_sample_that_is_damaged_in_the_store_is_bad_here_as_there(tmp_path: Path, store: Path) -> None:
    damaged = write_shards(tmp_path / "damaged", [11, 9, 12, 8])
    flip_byte(damaged, shard=2, row=1, suffix="003.png")
    there = upload(damaged, "s3://sets/damaged")
    assert_all_same(load(there, BlockCache(tmp_path / "cache", max_bytes=10**9))[0], global_batch(damaged, range(4)))
    source = ShardSource(there)
    with pytest.raises(DecodeError, match="do not match their CRC"):
        read_clip(source, next(r for r in source.refs() if r.shard == 2 and r.row == 1), choose=lambda n: [3],
                  with_record=False)  # fmt: skip


# ---------------------------------------------------------------- what is wrong is said


def test_a_passing_failure_is_tried_again(
    store: Path, unbroken: list[Batch], impatient: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = iter([OSError("reset"), None, ConnectionResetError("reset"), TimeoutError()])
    real = remote.read_range

    def flaky(path: Path, offset: int, size: int) -> bytes:
        if (failure := next(failures, None)) is not None:
            raise failure
        return real(path, offset, size)

    monkeypatch.setattr(remote, "read_range", flaky)
    assert_all_same(load(store, None)[0], unbroken)
    assert len(impatient) == 3
    assert max(impatient) < 2.0


def test_a_store_that_is_away_for_minutes_slows_the_run_and_one_that_stays_away_ends_it(
    store: Path, unbroken: list[Batch], impatient: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = remote.read_range
    away_s = [500.0]

    def away(path: Path, offset: int, size: int) -> bytes:
        if sum(impatient) < away_s[0]:
            raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
        return real(path, offset, size)

    source = ShardSource(store)
    monkeypatch.setattr(remote, "read_range", away)
    assert_all_same(load(store, None)[0], unbroken)
    assert sum(impatient) >= 500
    away_s[0] = 10**9
    with pytest.raises(DataError, match=r"cannot be read \(10 minutes\).*reset by peer"):
        source.read(source.ref(0), Member("json", 0, 10, 0))


def test_a_run_chooses_between_few_bytes_and_few_requests(store: Path, unbroken: list[Batch]) -> None:
    fewest_bytes, usual, fewest_requests = (load(store, None, max_gap=gap) for gap in (0, None, 1 << 20))
    for batches, _ in (fewest_bytes, usual, fewest_requests):
        assert_all_same(batches, unbroken)
    fetched = [traffic.fetched for _, traffic in (fewest_bytes, usual, fewest_requests)]
    requests = [traffic.requests for _, traffic in (fewest_bytes, usual, fewest_requests)]
    assert fetched == sorted(set(fetched))
    assert requests == sorted(set(requests), reverse=True)
    words = [*in_the_store(str(store))[1:], "data.cache.max_gap_kb=4"]
    config = load_run("demo/stage1", words)
    assert plan_loader(config, plan_run(config, world=1, num_samples=40), World.alone()).max_gap == 4096


def test_a_request_that_is_never_answered_is_made_again(
    file: tuple[Path, bytes], impatient: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    there, content = file
    monkeypatch.setattr(remote, "STALL_S", 0.05)
    real, stalled = remote.read_range, threading.Event()

    def stall_once(path: Path, offset: int, size: int) -> bytes:
        if not stalled.is_set():
            stalled.set()
            threading.Event().wait(10)
        return real(path, offset, size)

    monkeypatch.setattr(remote, "read_range", stall_once)
    files = RemoteFiles(there.parent, {"file": RemoteFile(len(content), "hash")}, None)
    assert files.read("file", 0, 10) == content[:10]
    assert len(impatient) == 1


def test_a_server_that_is_gone_stops_the_run_with_one_clear_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "RETRY_PAUSES_S", ())  # s3fs itself tries for six seconds
    monkeypatch.setattr(back_off, "PATIENCE_S", 0.0)
    with s3_process("sets") as (_, server):
        loader = Loader([spec(upload(folder, "s3://sets/noisy"))], replace(PLAN, num_workers=2))
        consume(loader, range(1))
        server.kill()
        with pytest.raises(DataError, match=r"cannot be read \(10 minutes\).*Could not connect") as caught:
            consume(loader, range(1, 9))
        loader.close()
        assert caught.value.hint is not None
        assert "substitute" not in caught.value.what
        with pytest.raises(DataError, match=r"manifest\.json cannot be read.*Could not connect"):
            ShardSource(as_path("s3://sets/noisy"))


def test_what_is_missing_or_cut_in_the_store_is_named_when_it_is_opened(folder: Path, store: Path) -> None:
    with pytest.raises(DataError, match=r"s3://nowhere/set holds no manifest\.json.*bucket does not exist"):
        ShardSource(as_path("s3://nowhere/set"))
    with pytest.raises(DataError, match=r"s3://sets/nothing holds no manifest\.json"):
        ShardSource(as_path("s3://sets/nothing"))
    there = upload(folder, "s3://sets/broken")
    index_path(there / "tiny-000001.tar").unlink()
    with pytest.raises(DataError, match=r"tiny-000001\.tar has no index") as caught:
        load(there, None)
    assert "umt-data index s3://sets/broken" in str(caught.value)
    (there / "tiny-000002.tar").write_bytes((folder / "tiny-000002.tar").read_bytes()[:-1024])
    with pytest.raises(DataError, match=r"tiny-000002\.tar does not match its manifest: \d+ bytes in the store"):
        ShardSource(there)
    (there / "tiny-000000.tar").unlink()
    with pytest.raises(DataError, match=r"1 of 4 shards are missing: tiny-000000\.tar"):
        ShardSource(there)


def test_a_shard_that_vanishes_or_changes_while_the_run_reads_it_stops_it(
    folder: Path, store: Path, impatient: list[float]
) -> None:
    there = upload(folder, "s3://sets/changing")
    source = ShardSource(there)
    last = source.members(source.ref(39))[-1]
    (there / "tiny-000003.tar").write_bytes(b"short")
    with pytest.raises(DataError, match=r"tiny-000003\.tar (ends at byte|cannot be read)"):
        source.read(source.ref(39), last)
    source.members(source.ref(0))
    (there / "tiny-000000.tar").unlink()
    with pytest.raises(DataError, match=r"tiny-000000\.tar is gone"):
        source.read(source.ref(0), source.members(source.ref(0))[0])


def test_another_index_than_the_manifests_is_refused(folder: Path, store: Path) -> None:
    there = upload(folder, "s3://sets/other-index")
    tar = there / "tiny-000000.tar"
    shifted = load_index(folder / "tiny-000000.tar")
    replace(shifted, offsets=shifted.offsets + 512).save(index_path(tar))
    with pytest.raises(DataError, match="not the file that the manifest names"):
        ShardSource(there)


def test_a_web_server_that_ignores_ranges_is_one_clear_error(folder: Path, impatient: list[float]) -> None:
    with (
        web_server(folder, ranges=False) as address,
        pytest.raises(DataError, match="does not know HTTP ranges") as caught,
    ):
        load(as_path(address), None)
    assert "nginx" in str(caught.value)


def test_a_web_server_that_lacks_a_shard_says_which(tmp_path: Path, impatient: list[float]) -> None:
    folder = write_shards(tmp_path / "set")
    os.unlink(folder / "tiny-000001.tar")
    with web_server(folder, ranges=True) as address:
        with pytest.raises(DataError, match=r"1 of 3 shards are missing: tiny-000001\.tar"):
            ShardSource(as_path(address))
        with pytest.raises(DataError, match=r"holds no manifest\.json"):
            ShardSource(as_path(f"{address}/elsewhere"))
    with pytest.raises(DataError, match=r"manifest\.json cannot be read"):
        ShardSource(as_path(address))


class Answers:
    """Stands between us and a store: the first `times` answers for files whose name ends so are `wrong`."""

    def __init__(self, wrong: Callable[[bytes], bytes], *, suffix: str, times: int) -> None:
        self._wrong, self._suffix, self.left = wrong, suffix, times

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> Answers:
        """Put it before the stores in memory and on the web."""
        real = MemoryFileSystem.cat_file

        def cat_file(store: MemoryFileSystem, path: str, *args: Any, **how: Any) -> bytes:
            data: bytes = real(store, path, *args, **how)
            if path.endswith(self._suffix) and self.left:
                self.left -= 1
                return self._wrong(data)
            return data

        monkeypatch.setattr(MemoryFileSystem, "cat_file", cat_file)
        return self


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    return data[:40] + bytes([data[40] ^ 1]) + data[41:]


@pytest.mark.parametrize("suffix", [".tar", ".index.npz", "manifest.json"])
@pytest.mark.parametrize("wrong", [half, lambda data: data + b"more", lambda data: b"", flipped])
def test_a_wrong_answer_of_a_store_is_asked_again(
    unbroken: list[Batch], folder: Path, wrong: Callable[[bytes], bytes], suffix: str,
    impatient: list[float], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Short and long ones by their length, whatever their headers say; damaged ones by their checksums."""
    there = upload(folder, "memory://sets/answers")
    answers = Answers(wrong, suffix=suffix, times=1).patch(monkeypatch)
    assert_all_same(load(there, None)[0], unbroken)
    assert answers.left == 0
    assert impatient == ([] if wrong is flipped else [0.5])


def test_answers_that_stay_short_are_told_from_a_file_that_is(
    folder: Path, impatient: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = upload(folder, "memory://sets/short")
    source = ShardSource(there)
    member = source.members(source.ref(0))[0]
    with monkeypatch.context() as patch:
        Answers(half, suffix=".tar", times=99).patch(patch)
        with pytest.raises(DataError, match=r"cannot be read \(4 tries\): the store sent \d+ bytes of \d+") as caught:
            source.read(source.ref(0), member)
    assert "proxies" in str(caught.value)
    (there / "tiny-000003.tar").write_bytes(b"short")
    with pytest.raises(DataError, match="ends at byte 5, its manifest or index says") as cut:
        source.read(source.ref(39), source.members(source.ref(39))[0])
    assert "restore it" in str(cut.value)


def test_a_listing_that_is_cut_is_completed(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = places.sizes_in
    monkeypatch.setattr(places, "sizes_in", lambda folder: dict(list(real(folder).items())[:2]))
    assert len(ShardSource(store)) == 40


class Refused(Exception):  # noqa: N818 (as aiohttp's ClientResponseError, which is no OSError)
    status = 403


def client_error(code: str) -> Exception:
    from botocore.exceptions import ClientError
    from s3fs.errors import translate_boto_error

    return translate_boto_error(ClientError({"Error": {"Code": code, "Message": "no"}}, "GetObject"))


@pytest.mark.parametrize(
    ("refusal", "hint"),
    [
        (lambda: client_error("ExpiredToken"), "credentials"),
        (lambda: client_error("InvalidAccessKeyId"), "credentials"),
        (lambda: client_error("TokenRefreshRequired"), "credentials"),
        (lambda: client_error("InvalidToken"), "credentials"),
        (lambda: client_error("403"), "credentials"),
        (lambda: NoCredentialsError(), "credentials"),
        (lambda: Refused("no"), "credentials"),
        (lambda: client_error("RequestTimeTooSkewed"), "clock"),
    ],
)
def test_refused_credentials_are_named_at_the_start_in_a_listing_and_in_the_middle(
    folder: Path, impatient: list[float], monkeypatch: pytest.MonkeyPatch, refusal: Callable[[], Exception], hint: str
) -> None:
    there = upload(folder, "memory://sets/refused")
    source = ShardSource(there)
    member = source.members(source.ref(0))[0]

    def refuse(*args: object, **how: object) -> None:
        raise refusal()

    def hint_of_opening() -> str:
        with pytest.raises(DataError) as caught:
            ShardSource(there)
        return str(caught.value.hint)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "ls", refuse)
        assert hint in hint_of_opening()
    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "cat_file", refuse)
        assert hint in hint_of_opening()
        with pytest.raises(DataError) as caught:
            source.read(source.ref(0), member)
        assert hint in str(caught.value.hint)
    impatient.clear()


# ---------------------------------------------------------------- the commands


def in_the_store(url: str) -> list[str]:
    return ["demo/stage1", "task.teacher.weights=random", f"data.sources.demo.shards={url}"]


def test_the_commands_take_urls(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_checks, "_machine_checks", lambda config, disk: {})
    run = CliRunner().invoke
    planned = run(umt, ["plan", *in_the_store(str(store)), "--gpus", "2", "--no-measure-loader"])
    assert "an epoch of 40 samples, counted in the shards" in planned.stdout, planned.output
    assert "requests/s from the store while no node has a clip in its cache: " in planned.stdout
    assert "(data.cache.max_gap_kb=256)" in planned.stdout
    checked = run(umt, ["train", *in_the_store(str(store)), "evaluation=null", "cadence.evaluate=0", "--dry-run"])
    assert "samples:\n  demo: 40" in checked.stdout, checked.output
    looked = run(umt, ["doctor", *in_the_store(str(store)), "--shards", str(store)])
    assert looked.stdout.count("s3://sets/noisy: 40 samples in 4 shards") == 2, looked.output
    assert "data.cache.max_gb=10" in looked.stdout
    absent = run(umt, ["doctor", *in_the_store("s3://sets/nothing"), "--shards", "s3://nowhere/set"])
    assert absent.exit_code == 1
    for url in ("s3://sets/nothing", "s3://nowhere/set"):
        assert absent.stdout.count(f"{url} holds no manifest.json") == 1, absent.output
    unknown = run(umt, ["plan", *in_the_store("s3://sets/nothing"), "schedule.epochs=3", "schedule.warmup_epochs=1"])
    assert isinstance(unknown.exception, ConfigError)
    assert "no shards at s3://sets/nothing" in unknown.exception.what


def test_a_plan_counts_what_a_run_asks_of_the_store(store: Path) -> None:
    words = [*in_the_store(str(store))[1:], "task.student.frames=2"]
    apart, joined_up = (
        store_reads(load_run("demo/stage1", [*words, f"data.cache.max_gap_kb={gap}"])) for gap in (0, 4096)
    )
    assert apart is not None
    assert joined_up is not None
    assert apart.fetched == apart.shown == joined_up.shown < joined_up.fetched
    assert (apart.requests, joined_up.requests) == (2, 1), "two of four frames, each behind a header of its own"
    assert store_reads(load_run("demo/stage1", in_the_store("/a/disk")[1:])) is None


def test_the_cache_is_laid_out_where_the_configuration_says(store: Path, tmp_path: Path) -> None:
    words = [*in_the_store(str(store))[1:], f"data.cache.folder={tmp_path}", "data.cache.max_gb=0.5", "data.workers=0"]
    config = load_run("demo/stage1", words)
    measured = measure_loader(config, seconds=0.1)
    assert measured.clips_per_core_s > 0
    assert [path.name for path in tmp_path.iterdir()] == ["sets-7"]  # of 67 MB each


def test_an_evaluation_reads_through_the_cache_of_the_node(store: Path, tmp_path: Path) -> None:
    words = [*in_the_store(str(store))[1:], f"data.cache.folder={tmp_path}", f"evaluation.knn.shards={store}"]
    (evaluator,) = evaluators_of(load_run("demo/stage1", words))
    assert isinstance(evaluator, KnnEvaluator)
    assert evaluator.metrics == ("label", "rankme")
    assert sum(len(batch.items) for batch in evaluator.held_out.batches(num_workers=1)) == 40
    assert [path.name[:4] for path in tmp_path.iterdir()] == ["sets"]


def test_the_report_reads_held_out_clips_in_a_store(store: Path) -> None:
    clips = EvaluationSet(store, ClipRequest(middle_frames(2), side=16, label_fields=["label"]), batch_size=15)
    assert [len(batch.items) for batch in clips.batches()] == [15, 15, 10]


@pytest.mark.parametrize(
    "text",
    [
        "Could not connect to the endpoint URL: http://localhost:1/credentials/set/a.tar",
        "s3://films/Forbidden_City/a.tar: Connection reset by peer",
    ],
)
def test_a_name_that_sounds_like_a_refusal_is_none(text: str) -> None:
    assert hint_of(OSError(text)) is None


@pytest.mark.parametrize(
    "text",
    [
        "AuthenticationFailed: Server failed to authenticate the request",  # Azure
        "Invalid Credentials, 401",  # Google
        "401 Client Error for url: https://huggingface.co/datasets/x/y",
        "An error occurred (403) when calling the HeadObject operation: Forbidden",
        "An error occurred (ExpiredToken) when calling the GetObject operation: The token in /a/b has expired",
    ],
)
def test_a_refusal_of_any_store_names_credentials(text: str) -> None:
    assert "credentials" in str(hint_of(OSError(text)))


def test_a_disk_that_refuses_is_no_store_that_does() -> None:
    assert hint_of(PermissionError(errno.EACCES, "Permission denied", "/a/x.tar")) is None
    assert "credentials" in str(hint_of(PermissionError("Forbidden")))

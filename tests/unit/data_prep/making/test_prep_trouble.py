"""What is not the clip's fault never becomes a bad clip: stores that refuse, disks that fail, full machines."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from data_prep.checking.samples import find_samples
from data_prep.checking.show import show
from data_prep.checking.stats import collect_stats
from data_prep.checking.verify import verify
from data_prep.cli import umt_data
from data_prep.clip import Clip, Listing, Outcome, Refusal, RunOptions, Sample, SourceMedia, StoreOptions
from data_prep.decode import make_sample
from data_prep.engines import WorkerFailure, map_ordered
from data_prep.leaks.near_duplicates import near_duplicates
from data_prep.making.foreign import adopt
from data_prep.making.prepare import _outcome, prepare
from data_prep.sources.sets import Filter, list_sets
from data_prep.state.plan import load_plan, open_plan
from tests.support.faulty_store import KINDS, fault, heal, in_store, requests_in
from tests.support.files import hashes_in
from tests.support.shards import noisy_frames, write_shards
from tests.support.videos import write_video
from tests.support.web_server import web_server
from umt_ds.data.shards import back_off, fetch
from umt_ds.data.shards import storage as places
from umt_ds.data.shards.records import load_index, read_members
from umt_ds.data.shards.storage import as_path
from umt_ds.data.shards.store_answers import told_of_store
from umt_ds.errors import DataError, DecodeError, MachineError

pytestmark = pytest.mark.usefixtures("impatient")

TRIES = 4
STORE = StoreOptions(frames=2, short_side=16, per_shard=2)
OF_THE_STORE = sorted(KINDS.keys() - {"gone"})
OF_THE_MACHINE = (
    *(errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE, errno.ENOMEM),
    *(errno.EAGAIN, errno.EDQUOT, errno.EREMOTEIO, errno.EUCLEAN, errno.ENODEV),
)
OF_THE_FILE = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


@pytest.fixture(scope="module")
def clip_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_video(tmp_path_factory.mktemp("one") / "v.mp4", frames=4).read_bytes()


@pytest.fixture
def videos(tmp_path: Path, clip_bytes: bytes) -> Path:
    """Six videos v0.mp4 … v5.mp4, all alike."""
    (tmp_path / "videos").mkdir()
    for number in range(6):
        (tmp_path / "videos" / f"v{number}.mp4").write_bytes(clip_bytes)
    return tmp_path / "videos"


def made(root: Path, source: str = "v0.mp4", *, media: SourceMedia = "video") -> Outcome:
    return make_sample(Clip("k", source), root=root, media=media, store=STORE)


def refusal(outcome: Outcome) -> str:
    assert isinstance(outcome, Refusal), outcome
    return outcome.reason


def raising(error: Exception) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def here(work: Callable[[Any], Any], items: Iterable[Any], **_: object) -> Iterator[Any]:
    """In place of `map_ordered`: no processes, which would know nothing of the faulty store."""
    yield from map(work, items)


# ---------------------------------------------------------------- a clip of a store


@pytest.mark.parametrize("kind", OF_THE_STORE)
@pytest.mark.parametrize("media", ["video", "image"])
def test_what_a_store_refuses_is_tried_again_and_then_ends_the_command(
    videos: Path, kind: str, media: SourceMedia, impatient: list[float]
) -> None:
    fault(videos / "v0.mp4", kind)
    with pytest.raises(MachineError) as caught:
        made(in_store(videos), media=media)
    passes = kind in ("503", "no address", "reset", "timeout")
    assert f"{videos}/v0.mp4 cannot be read ({'10 minutes' if passes else '4 tries'}): " in caught.value.what
    assert "give the same command again" in str(caught.value.hint) or "start the same command" in str(caught.value.hint)
    assert (sum(impatient) == pytest.approx(600, abs=2)) if passes else len(impatient) == TRIES - 1
    heal(videos / "v0.mp4")
    assert isinstance(made(in_store(videos)), Sample)


def test_what_is_to_be_done_is_said_in_the_words_of_the_fault(videos: Path) -> None:
    for kind, word in {"expired": "credentials", "archived": "archive", "no credentials": "AWS_ACCESS_KEY_ID"}.items():
        fault(videos / "v0.mp4", kind)
        with pytest.raises(MachineError) as caught:
            made(in_store(videos))
        assert word in str(caught.value.hint)


def test_an_object_that_is_gone_is_a_bad_clip_and_a_whole_folder_is_not(videos: Path, impatient: list[float]) -> None:
    (videos / "v0.mp4").unlink()
    for root in (videos, in_store(videos)):
        assert refusal(made(root)) == "cannot be read: No such file or directory"
    assert impatient == [], "no waiting helps"
    videos.rename(videos.with_name("elsewhere"))
    for root in (videos, in_store(videos)):
        with pytest.raises(MachineError, match="its folder is gone or empty"):
            made(root, "v1.mp4")
    videos.mkdir()  # as where a disk is not mounted
    with pytest.raises(MachineError, match="its folder is gone or empty"):
        made(videos, "v1.mp4")


@pytest.mark.parametrize("kind", ["short once", "short"])
def test_an_answer_with_too_few_bytes_is_no_damaged_video(videos: Path, kind: str) -> None:
    whole = made(videos)
    fault(videos / "v0.mp4", kind)
    if kind == "short once":
        assert made(in_store(videos)) == whole
        return
    with pytest.raises(MachineError, match=r"the store sent .* bytes of"):
        made(in_store(videos))


@pytest.mark.parametrize("ranges", [True, False])
def test_a_web_server_is_a_store_too(videos: Path, ranges: bool, impatient: list[float]) -> None:
    with web_server(videos, ranges=ranges) as address:
        there = as_path(address)
        assert made(there) == made(videos)
        assert refusal(made(there, "gone.mp4")) == "cannot be read: No such file or directory"
    with pytest.raises(MachineError, match=r"v0\.mp4 cannot be read \(10 minutes\)"):
        made(there)  # fsspec calls it "not there"


def test_a_file_of_many_pieces_comes_whole_and_is_gone_afterwards(
    videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "PIECE", 1000)
    data = (videos / "v0.mp4").read_bytes()
    with fetch.local_copy(in_store(videos) / "v0.mp4") as copy:
        assert copy.read_bytes() == data
        assert copy.suffix == ".mp4"
    assert not copy.parent.exists()
    (videos / "empty.mp4").touch()
    assert refusal(made(in_store(videos), "empty.mp4")) == "file is empty (0 bytes)"


def test_a_full_temporary_folder_ends_the_command_and_leaves_no_part_of_a_copy(
    videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts: list[Path] = []

    really_open = Path.open

    def full(path: Path, *how: Any, **more: Any) -> Any:
        if path.name != "copy.mp4":
            return really_open(path, *how, **more)
        parts.append(path.parent)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(MachineError) as caught:
            made(in_store(videos))
    assert f"{videos}/v0.mp4 cannot be copied to {parts[0]}: No space left on device" in caught.value.what
    assert "TMPDIR" in str(caught.value.hint)
    assert not parts[0].exists()


def test_a_folder_of_frames_in_a_store_is_read_as_one_of_a_disk(tmp_path: Path) -> None:
    (tmp_path / "set" / "clip").mkdir(parents=True)
    for number in range(3):
        (tmp_path / "set" / "clip" / f"img_{number}.png").write_bytes(noisy_frames(0)[f"{number:03d}.png"])
    root = tmp_path / "set"
    assert made(in_store(root), "clip") == made(root, "clip")
    fault(root / "clip" / "img_2.png", "expired")
    with pytest.raises(MachineError, match=r"img_2\.png"):
        made(in_store(root), "clip")


def test_a_damaged_video_in_a_store_is_a_bad_clip_and_not_a_refusal(
    videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error in (OSError("what a library says of content"), OSError(errno.EINVAL, "Invalid argument")):
        monkeypatch.setattr("data_prep.decode.encode_by_time", raising(error))
        assert refusal(made(in_store(videos))) == refusal(made(videos)) == f"cannot be read: {error.strerror or error}"
    monkeypatch.setattr("data_prep.decode.encode_by_time", raising(OSError(errno.EMFILE, "Too many open files")))
    with pytest.raises(MachineError, match="Too many open files"):
        made(in_store(videos))


# ---------------------------------------------------------------- a clip of a disk


@pytest.mark.parametrize("number", OF_THE_MACHINE)
def test_a_disk_or_machine_that_fails_ends_the_command(
    videos: Path, number: int, monkeypatch: pytest.MonkeyPatch, impatient: list[float]
) -> None:
    monkeypatch.setattr("data_prep.decode.encode_by_time", raising(OSError(number, os.strerror(number))))
    with pytest.raises(MachineError, match=os.strerror(number)):
        made(videos)
    assert len(impatient) == TRIES - 1


@pytest.mark.parametrize("number", OF_THE_FILE)
def test_what_is_wrong_with_one_file_is_a_bad_clip(
    videos: Path, number: int, monkeypatch: pytest.MonkeyPatch, impatient: list[float]
) -> None:
    monkeypatch.setattr("data_prep.decode.encode_by_time", raising(OSError(number, os.strerror(number))))
    assert refusal(made(videos)) == f"cannot be read: {os.strerror(number)}"
    assert impatient == []


def test_a_decoder_that_calls_a_failing_disk_a_damaged_file_is_not_believed(
    videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ffmpeg makes one error of both, so the file is read once more before its clip is given up."""
    monkeypatch.setattr("data_prep.decode.encode_by_time", raising(DecodeError("damaged: frame 3 is incomplete")))
    assert refusal(made(videos)) == "damaged: frame 3 is incomplete"
    monkeypatch.setattr("data_prep.decode.read_through", raising(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(MachineError, match="Input/output error"):
        made(videos)
    monkeypatch.setattr("data_prep.decode.read_through", raising(PermissionError(errno.EACCES, "Permission denied")))
    assert refusal(made(videos)) == "cannot be read: Permission denied"


def test_a_worker_that_a_standing_disk_holds_up_is_no_bad_clip(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = Listing(videos, (Clip("v0", "v0.mp4"),))
    plan = open_plan(videos.with_name("out"), name="set", listing=listing, store=STORE)
    late = WorkerFailure("decoding took longer than 60 s and was stopped", signal.SIGALRM)
    assert refusal(_outcome(plan, listing.clips[0], late)) == late.reason
    monkeypatch.setattr(fetch, "STALL_S", 0.01)
    monkeypatch.setattr("data_prep.decode.read_through", partial(_stand_still, videos))
    with pytest.raises(MachineError, match=r"no answer within 0\.01 s"):
        _outcome(plan, listing.clips[0], late)


def _stand_still(videos: Path, path: Path) -> None:
    fifo = videos / "fifo"  # opening one waits for a writer
    if not fifo.exists():
        os.mkfifo(fifo)
    fetch.read_through(fifo)


# ---------------------------------------------------------------- time


def _sample_there(clip: Clip, *, root: Path, media: SourceMedia, store: StoreOptions) -> Outcome:
    """make_sample in a worker, which knows the faulty store by this module."""
    places.RETRY_PAUSES_S = ()
    back_off.PATIENCE_S = 0.0
    return make_sample(clip, root=root, media=media, store=store)


def _killed_once(folder: Path) -> str:
    """Stands for a process that the kernel kills for memory that others hold."""
    marker = folder / "killed"
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def test_waiting_for_a_store_does_not_count_as_decoding_and_a_kill_is_tried_again(videos: Path) -> None:
    fault(videos / "v0.mp4", "slow 0.9")  # twice: its size, its bytes
    work = partial(_sample_there, root=in_store(videos), media="video", store=STORE)
    fault(videos / "v2.mp4", "expired")
    results = map_ordered(work, [Clip("k", f"v{n}.mp4") for n in range(3)], workers=1, timeout_s=1.5)
    assert isinstance(next(results), Sample)
    assert isinstance(next(results), Sample)
    with pytest.raises(MachineError, match=r"v2\.mp4 cannot be read"):
        next(results)
    assert list(map_ordered(_killed_once, [videos], workers=1, timeout_s=30)) == ["done"]


def test_a_store_that_never_answers_does_not_hang_the_run(
    videos: Path, monkeypatch: pytest.MonkeyPatch, impatient: list[float]
) -> None:
    monkeypatch.setattr(fetch, "STALL_S", 0.05)
    fault(videos / "v0.mp4", "expired")
    monkeypatch.setattr("umt_ds.data.shards.fetch.look_up", lambda path: signal.sigtimedwait({signal.SIGUSR1}, 0.5))
    with pytest.raises(MachineError, match=r"no answer within 0\.05 s"):
        made(in_store(videos))
    assert 300 < sum(impatient) <= 600, "with the seconds of each try that is ten minutes"


def test_a_folder_of_frames_in_a_store_that_stands_still_ends_the_command(
    videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "STALL_S", 0.05)
    monkeypatch.setattr("umt_ds.data.shards.fetch.list_once", lambda folder: signal.sigtimedwait({signal.SIGUSR1}, 0.5))
    with pytest.raises(MachineError, match=r"no answer within 0\.05 s"):
        fetch.names_in(in_store(videos))


def test_processes_that_cannot_be_started_are_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """pebble says so where the next item is handed over."""
    monkeypatch.setattr("data_prep.engines.ProcessPool.schedule", raising(BrokenProcessPool()))
    with pytest.raises(MachineError, match="the worker processes cannot run"):
        next(map_ordered(len, ["item"], workers=1, timeout_s=1))


# ---------------------------------------------------------------- whole commands


def test_a_set_whose_store_refuses_for_a_while_is_the_set_of_one_that_never_did(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_prep.making.prepare.map_ordered", here)

    def set_of(root: Path, out: Path) -> Path:
        listing = Listing(root, tuple(Clip(f"v{n}", f"v{n}.mp4") for n in range(6))).first_in_order()
        run = RunOptions(workers=1, max_bad=1.0)
        prepare(listing, out, name="set", store=STORE, run=run)
        return out

    last = Listing(videos, tuple(Clip(f"v{n}", f"v{n}.mp4") for n in range(6))).first_in_order().clips[-1]
    fault(videos / last.source, "expired")
    out = tmp_path / "out"
    with pytest.raises(MachineError, match=f"{last.source} cannot be read"):
        set_of(in_store(videos), out)
    assert load_plan(out).pending() == [2], "finished shards stay, the last is to be made"
    assert not (out / "bad.csv").exists()
    heal(videos / last.source)
    set_of(in_store(videos), out)
    names = {"set-000000.tar", "set-000001.tar", "set-000002.tar", "bad.csv"}
    wanted = hashes_in(set_of(videos, tmp_path / "from-disk"))
    assert {name: hashes_in(out)[name] for name in names} == {name: wanted[name] for name in names}
    assert (out / "bad.csv").read_text() == "file,key,reason\n"


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two shards of 80 samples of 12 kB."""
    folder = write_shards(tmp_path / "shards", [80, 80], members=noisy_frames)
    requests_in(folder)
    return folder


@pytest.mark.parametrize("kind", ["expired", "503", "no credentials"])
@pytest.mark.parametrize("name", ["tiny-000001.tar", "tiny-000001.index.npz"])
def test_what_reads_a_set_ends_where_the_store_refuses_and_calls_nothing_damaged(
    shards: Path, kind: str, name: str
) -> None:
    there = in_store(shards)
    fault(shards / name, kind)
    for read in (
        partial(verify, there, every=160),
        partial(collect_stats, there),
        partial(find_samples, there, ["clip-0100"]),
        partial(list_sets, [there], keep=Filter(captioned=True), verb="filter"),
    ):
        with pytest.raises(MachineError, match="cannot be read"):
            read()
    outcome = partial(make_sample, Clip("k", "tiny-000001.tar", extra={"row": 0}), root=there, media="sample")
    with pytest.raises(MachineError, match="cannot be read"):
        outcome(store=STORE)


def test_tars_in_a_store_are_adopted_as_those_of_a_disk_and_not_without_what_is_refused(shards: Path) -> None:
    before = hashes_in(shards)
    for name in ("manifest.json", "tiny-000001.tar"):
        fault(shards / name, "expired")
        with pytest.raises((MachineError, DataError)) as caught:
            adopt(in_store(shards), force=True)
        assert "credentials" in str(caught.value.hint)
        heal(shards / name)
        requests_in(shards)
        assert hashes_in(shards) == before, "a manifest that is there and is not shown must not be replaced"
    adopt(in_store(shards), force=True)
    requests_in(shards)
    anew = hashes_in(shards)
    adopt(shards, force=True)
    assert anew == hashes_in(shards)


def test_frames_that_a_store_refuses_are_not_clips_that_cannot_be_read(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_prep.checking.samples.map_ordered", here)
    other = write_shards(shards.with_name("other"), [3], members=noisy_frames, first=500)
    fault(shards / "tiny-000000.tar", "expired")
    with pytest.raises(MachineError, match="ExpiredToken"):
        near_duplicates(in_store(shards), [other], workers=1)


def test_damage_that_comes_from_afar_once_is_read_again(shards: Path) -> None:
    tar = in_store(shards) / "tiny-000000.tar"
    members = load_index(tar).members(3)
    wanted = read_members(shards / "tiny-000000.tar", members)
    fault(shards / "tiny-000000.tar", "short once")
    assert read_members(tar, members) == wanted


# ---------------------------------------------------------------- how much is read


def moved(folder: Path) -> tuple[int, int]:
    """Bytes that came, and requests, since the last call."""
    requests = requests_in(folder)
    assert not [one for one in requests if one.what == "OPEN"], "fsspec reads ahead what nobody asked for"
    return sum(one.bytes for one in requests), sum(one.what != "GOT" for one in requests)


def test_commands_read_what_they_need_of_a_set_in_a_store(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.checking.verify.map_ordered", here)
    there = in_store(shards)
    size = sum(path.stat().st_size for path in shards.iterdir() if path.is_file())
    sample = 13_000
    report = verify(there, every=10)
    assert (report.decoded, report.faults) == (16, [])
    read, requests = moved(shards)
    assert size <= read <= 1.1 * size + 16 * sample
    assert requests <= 16 + 2 * 14
    # each third byte is wanted, so all come in one request of a tar
    collect_stats(there)
    read, requests = moved(shards)
    assert read <= 1.1 * size
    assert requests <= 2 + 2 * 5
    show(there, "clip-0100")
    read, requests = moved(shards)
    assert read <= 2 * 40_000 + sample
    assert requests <= 1 + 2 * 5


def test_ranges_far_apart_are_asked_for_apart_and_near_ones_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "REQUEST_COSTS", 100)
    monkeypatch.setattr(fetch, "PIECE", 1000)
    data = os.urandom(6000)
    (tmp_path / "file").write_bytes(data)
    ranges = [(5000, 10), (0, 10), (90, 10), (300, 0), (500, 2500), (2990, 50)]
    assert fetch.read_ranges(in_store(tmp_path) / "file", ranges) == [
        data[start : start + size] for start, size in ranges
    ]
    got = sorted(one.bytes for one in requests_in(tmp_path) if one.what == "GOT")
    assert got == [10, 50, 100, 500, 1000, 1000]
    with fetch.opened(in_store(tmp_path) / "file") as file:
        assert b"".join(iter(partial(file.read, 333), b"")) == data
        file.seek(5990)
        assert file.read() == data[5990:]


# ---------------------------------------------------------------- the program


def test_a_folder_that_a_store_does_not_show_is_not_called_absent(videos: Path, tmp_path: Path) -> None:
    for kind in ("expired", "no credentials"):
        fault(videos, kind)
        done = CliRunner().invoke(umt_data, ["folder", str(in_store(videos)), str(tmp_path / "out")])
        assert isinstance(done.exception, MachineError), done.output
        assert f"{videos} cannot be looked up" in done.exception.what
        assert "credentials" in str(done.exception.hint)


def test_a_begun_set_is_not_begun_anew_where_the_store_does_not_answer(videos: Path, tmp_path: Path) -> None:
    out = in_store(tmp_path / "out")
    few = Listing(videos, (Clip("v0", "v0.mp4"),))
    open_plan(out, name="set", listing=few, store=STORE)
    before = (tmp_path / "out" / ".umt-data" / "clips.jsonl").read_bytes()
    fault(tmp_path / "out" / ".umt-data" / "plan.json", "503")
    with pytest.raises(MachineError, match=r"plan\.json cannot be looked up"):
        open_plan(out, name="set", listing=Listing(videos, (Clip("v1", "v1.mp4"),)), store=STORE)
    assert (tmp_path / "out" / ".umt-data" / "clips.jsonl").read_bytes() == before


def test_the_errors_of_store_libraries_are_told_and_ours_are_not() -> None:
    for kind in ("no credentials", "no address", "expired"):
        assert "hint: " in str(told_of_store(KINDS[kind]()))
    assert told_of_store(KeyError("ours")) is None
    assert as_path("/a") == Path("/a")

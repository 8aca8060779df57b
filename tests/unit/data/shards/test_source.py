"""Reading shards: every byte checked, and what is wrong with a folder said at once and clearly."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from tests.support.shards import flip_byte, key_of_sample, noisy_frames, png_frames, shift_index, write_shards
from umt_ds.data.shards.frame_set import LocalFiles
from umt_ds.data.shards.records import SampleRef, index_path
from umt_ds.data.shards.source import ShardSource
from umt_ds.errors import DataError, DecodeError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "shards")


def test_members_come_back_as_written(folder: Path) -> None:
    source = ShardSource(folder)
    assert source.counts == (5, 4, 6)
    ref = SampleRef(shard=1, row=2)  # sample 5 + 2
    assert source.key(ref) == key_of_sample(7)
    assert {m.suffix: source.read(ref, m) for m in source.members(ref)} == png_frames(7)


def test_refs_name_every_sample_once_in_manifest_order(folder: Path) -> None:
    source = ShardSource(folder)
    assert [source.key(ref) for ref in source.refs()] == [key_of_sample(n) for n in range(15)]


def open_below(folder: Path) -> int:
    """How many files there this process has open; other tests' files come and go with the collection of garbage."""
    links = [Path(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
    return sum(link.is_symlink() and link.readlink().is_relative_to(folder.resolve()) for link in links)


def test_open_files_stay_bounded(folder: Path) -> None:
    source = ShardSource(folder, max_open=1)
    assert open_below(folder) == 0
    for ref in list(source.refs()) * 2:
        source.read(ref, source.members(ref)[0])
        assert open_below(folder) == 1
    source.close()
    assert open_below(folder) == 0


def test_changed_bytes_are_a_bad_sample(folder: Path) -> None:
    flip_byte(folder, shard=0, row=1, suffix="002.png")
    source = ShardSource(folder)
    ref = SampleRef(0, 1)
    damaged = next(m for m in source.members(ref) if m.suffix == "002.png")
    with pytest.raises(DecodeError, match=r"002\.png do not match their CRC"):
        source.read(ref, damaged)


def test_missing_shards_are_named_when_the_source_is_opened(folder: Path) -> None:
    (folder / "tiny-000001.tar").unlink()
    with pytest.raises(DataError, match=r"1 of 3 shards are missing: tiny-000001\.tar") as caught:
        ShardSource(folder)
    assert caught.value.hint is not None


def test_a_truncated_tar_is_named_when_the_source_is_opened(folder: Path) -> None:
    tar = folder / "tiny-000002.tar"
    os.truncate(tar, tar.stat().st_size - 1024)
    with pytest.raises(DataError, match=r"tiny-000002\.tar does not match its manifest: \d+ bytes on disk"):
        ShardSource(folder)


def test_a_missing_index_is_an_error_with_the_command_to_run(folder: Path, impatient: list[float]) -> None:
    index_path(folder / "tiny-000000.tar").unlink()
    with pytest.raises(DataError, match="umt-data index"):
        ShardSource(folder).members(SampleRef(0, 0))


def test_an_index_that_is_not_the_one_of_its_tar_is_refused(folder: Path) -> None:
    shift_index(folder, shard=0)
    with pytest.raises(DataError, match="not the file that the manifest names"):
        ShardSource(folder).members(SampleRef(0, 0))


def test_an_index_of_another_tar_is_refused(folder: Path) -> None:
    other = index_path(folder / "tiny-000001.tar").read_bytes()
    index_path(folder / "tiny-000000.tar").write_bytes(other)
    with pytest.raises(DataError, match="does not match"):
        ShardSource(folder).members(SampleRef(0, 0))


def test_a_folder_without_manifest_is_refused(tmp_path: Path, impatient: list[float]) -> None:
    with pytest.raises(DataError, match=r"no manifest\.json"):
        ShardSource(tmp_path)


def test_a_passing_io_error_is_tried_again(
    folder: Path, impatient: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = iter([True, True, False])
    real_pread = os.pread

    def flaky(file: int, size: int, offset: int) -> bytes:
        if next(failures, False):
            raise OSError(5, "Input/output error")
        return real_pread(file, size, offset)

    monkeypatch.setattr(os, "pread", flaky)
    files = LocalFiles(folder, max_open=2)
    content = (folder / "tiny-000000.tar").read_bytes()
    assert files.read("tiny-000000.tar", 100, 50) == content[100:150]
    assert impatient == [0.5, 2.0]


def away_for(folder: Path, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is not there until that many pauses have been made, as a mount that comes back."""
    elsewhere = folder.rename(folder.with_name("elsewhere"))
    left = iter(range(times - 1, -1, -1))

    def pause(_: float) -> None:
        if next(left) == 0:
            elsewhere.rename(folder)

    monkeypatch.setattr("umt_ds.data.shards.storage.time.sleep", pause)


def test_a_folder_that_goes_away_for_a_moment_is_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its shards; a manifest and an index at the start are another matter."""
    source = ShardSource(folder)
    member = source.members(SampleRef(0, 0))[0]
    away_for(folder, 3, monkeypatch)
    assert len(source.read(SampleRef(0, 0), member)) == member.size


def test_the_place_of_a_mount_that_is_away_is_empty(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = folder.rename(folder.with_name("elsewhere"))
    folder.mkdir()

    def mount(_: float) -> None:
        folder.rmdir()
        elsewhere.rename(folder)

    monkeypatch.setattr("umt_ds.data.shards.storage.time.sleep", mount)
    assert len(ShardSource(folder)) == 15


def test_what_lies_on_a_mount_that_is_away_is_waited_for_at_the_start_and_a_wrong_name_is_not(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount = tmp_path_factory.mktemp("mount")  # empty while it is away
    pauses: list[float] = []

    def come_back(pause_s: float) -> None:
        pauses.append(pause_s)
        shutil.copytree(folder, mount / "k710" / "train")

    monkeypatch.setattr("umt_ds.data.shards.storage.time.sleep", come_back)
    assert len(ShardSource(mount / "k710" / "train")) == 15
    assert len(pauses) == 1
    with pytest.raises(DataError, match=r"trian holds no manifest\.json"):
        ShardSource(mount / "k710" / "trian")
    assert len(pauses) == 1


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT])
def test_a_passing_failure_of_an_index_or_a_listing_is_tried_again(
    folder: Path, impatient: list[float], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fails_once(monkeypatch, os, "scandir", number)
    real, failed = Path.read_bytes, set[Path]()

    def fails_at_first(path: Path) -> bytes:
        if path in failed:
            return real(path)
        failed.add(path)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "read_bytes", fails_at_first)
    assert ShardSource(folder).members(SampleRef(0, 0))
    assert {path.name for path in failed} == {"manifest.json", *(f"tiny-{n:06d}.index.npz" for n in range(3))}
    assert len(impatient) == 1 + len(failed)


def fails_once(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, number: int) -> None:
    real, failures = getattr(owner, name), iter([True])

    def flaky(*args: object) -> object:
        if next(failures, False):
            raise OSError(number, os.strerror(number))
        return real(*args)

    monkeypatch.setattr(owner, name, flaky)


def test_a_manifest_that_may_not_be_read_is_no_mount_that_is_away(
    folder: Path, impatient: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    fails_once(monkeypatch, Path, "read_bytes", errno.EACCES)
    with pytest.raises(DataError, match=r"manifest\.json cannot be read: .*Permission denied"):
        ShardSource(folder)
    assert impatient == []


def test_a_lasting_io_error_stops_loudly_and_is_no_bad_sample(
    folder: Path, impatient: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = ShardSource(folder)
    member = source.members(SampleRef(0, 0))[0]

    def broken(file: int, size: int, offset: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", broken)
    with pytest.raises(DataError, match=r"cannot be read \(4 tries\)") as caught:
        source.read(SampleRef(0, 0), member)
    assert not isinstance(caught.value, DecodeError)
    assert len(impatient) == 3


def test_a_tar_cut_while_the_run_reads_it_is_noticed(folder: Path, impatient: list[float]) -> None:
    source = ShardSource(folder)
    member = source.members(SampleRef(2, 5))[-1]
    os.truncate(folder / "tiny-000002.tar", member.offset + 3)
    with pytest.raises(DataError, match="truncated or replaced while the run read it"):
        source.read(SampleRef(2, 5), member)


def test_the_fingerprint_changes_with_the_content(tmp_path: Path) -> None:
    one, same = write_shards(tmp_path / "a"), write_shards(tmp_path / "b")
    other = write_shards(tmp_path / "c", members=noisy_frames)
    assert ShardSource(one).fingerprint == ShardSource(same).fingerprint
    assert ShardSource(one).fingerprint != ShardSource(other).fingerprint


def test_an_edited_manifest_is_refused(folder: Path) -> None:
    path = folder / "manifest.json"
    record = json.loads(path.read_text())
    record["shards"][0]["samples"] = 4
    path.write_text(json.dumps(record))
    with pytest.raises(DataError, match="edited by hand"):
        ShardSource(folder)

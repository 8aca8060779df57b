"""Whatever a tar holds: each of its files is in the index, or counted, or the tar is refused. A stream agrees, and
shows or counts each file of what an index refuses for its names."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.making.foreign_tar import with_clip
from umt_ds.data.shards import stream
from umt_ds.data.shards.left_out import LeftOut
from umt_ds.data.shards.records import read_members
from umt_ds.data.shards.sample_record import is_of_record
from umt_ds.data.shards.suffixes import media_of
from umt_ds.data.shards.tars import index_tar, scan_tar
from umt_ds.errors import UmtError

Samples = list[tuple[str, dict[str, bytes]]]
Entry = tuple[str, bytes, bytes]  # name, content, type

SUFFIXES = st.sampled_from([
    "jpg", "JPG", "txt", "json", "cls", "mp4", "npy", "tif", "heic", "000.jpg", "001.jpg", "5_4.0.jpg", "5.jpg",
    "5.txt", "5.mp4", "depth.png", "png", "", "é", "a\0b",
])  # fmt: skip
INSIDE = ["./", "d/", "v1.0/", "d\\", "__MACOSX/", "__meta__/"]
FOLDERS = st.sampled_from([*[""] * 24, *INSIDE * 4, "../", "/", "\udcff/"])
STEMS = st.sampled_from(["a", "b", "b1", "v_1", "._a", "", "x y", "日", "n" * 120]) | st.text(max_size=3)
NAMES = st.builds("{}{}.{}".format, FOLDERS, STEMS, SUFFIXES) | st.builds("{}{}".format, FOLDERS, STEMS)
CONTENTS = st.sampled_from(
    [b"", b"x", b"y" * 600, b"{}", b'{"status": "failed_to_download"}', b'{"status": 5}', b"[" * 9]
)
FILES = st.sampled_from([tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE])
OTHERS = st.sampled_from(
    [tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, b"V", b"?"]
)
ENTRIES = st.lists(st.tuples(NAMES, CONTENTS, FILES | FILES | OTHERS), max_size=8)
PLAIN = st.lists(st.builds("{}{}.{}".format, st.sampled_from(["", "d/", "v1.0/"]), st.sampled_from(["a", "b", "c1"]),
                           st.sampled_from(["jpg", "txt", "json", "mp4", "000.jpg", "001.jpg", "JPG", "5.5.jpg"])),
                 max_size=8)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream.time, "sleep", lambda _: None)
        yield tmp_path_factory.mktemp("fuzz") / "x.tar"


def written(entries: list[Entry], format: int) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format, errors="surrogateescape") as archive:
        for name, data, kind in entries:
            info = tarfile.TarInfo(name)
            is_old_folder = (
                name.partition("\0")[0].endswith("/") and kind == tarfile.AREGTYPE
            )  # as V7 writes them; it has no content
            info.type, info.linkname = tarfile.REGTYPE if is_old_folder else kind, "a.jpg"
            info.size = len(data) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def by_index(tar: Path, left: LeftOut) -> Samples | None:
    """The samples that the index keeps; None: the tar is refused."""
    try:
        scanned = scan_tar(tar, left, is_text=lambda suffix: is_of_record(suffix.rpartition(".")[2]))
        index = with_clip(scanned, left).index
    except UmtError as error:
        str(error).encode()
        return None
    assert scanned.sha256 == hashlib.sha256(tar.read_bytes()).hexdigest()
    inside = [member for row in range(len(index)) for member in index.members(row)]
    assert all(0 <= m.offset <= m.offset + m.size <= tar.stat().st_size for m in inside)
    assert len(scanned.index.suffixes) + left.files.total() == len(inside) + left.num_files
    return [(index.key(row), read_members(tar, index.members(row))) for row in range(len(index))]


def by_stream(tar: Path, left: LeftOut) -> Samples | None:
    found: Samples = []
    try:
        for sample in stream._samples_of(str(tar), left):
            sizes = {suffix: len(data) for suffix, data in sample.content.items()}
            if left.holds_clip(sample.key, sizes, sample.content.__getitem__):
                found.append((sample.key, dict(sample.content)))
    except UmtError as error:
        str(error).encode()
        return None
    return found


def read_both_ways(place: Path, data: bytes) -> tuple[Samples | None, LeftOut, Samples | None, LeftOut]:
    place.write_bytes(data)
    of_index, of_stream = LeftOut(), LeftOut()
    found, shown = by_index(place, of_index), by_stream(place, of_stream)
    if found is not None:
        assert shown == found
        assert of_index == of_stream
    for sentence in of_stream.sentences("shown").values():
        assert sentence.isprintable()
    return found, of_index, shown, of_stream


@given(entries=ENTRIES, format=st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
def test_every_file_is_in_the_index_or_counted_and_the_stream_agrees(
    place: Path, entries: list[Entry], format: int
) -> None:
    try:
        data = written(entries, format)
    except (ValueError, UnicodeError):  # a name that this format cannot hold
        return
    found, of_index, shown, of_stream = read_both_ways(place, data)
    assert shown is not None
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        num_files = sum(not info.isdir() for info in archive)
    for samples, left in ((found, of_index), (shown, of_stream)):
        if samples is None:
            continue
        assert sum(len(content) for _, content in samples) + left.num_files == num_files
        for _, content in samples:
            assert media_of(list(content)) != "none"
            assert any(content.values())


@given(names=PLAIN)
def test_a_plain_tar_has_the_samples_that_webdataset_reads(place: Path, names: list[str]) -> None:
    from webdataset.tariterators import group_by_keys, tar_file_expander

    data = written([(name, f"of {name}".encode(), tarfile.REGTYPE) for name in names], tarfile.USTAR_FORMAT)
    try:
        oracle: list[dict[str, Any]] = list(group_by_keys(tar_file_expander([{"url": "", "stream": io.BytesIO(data)}])))
    except ValueError:  # a name that is there twice
        oracle = []
    place.write_bytes(data)
    try:
        index = index_tar(place)
    except UmtError:
        keys = [sample["__key__"] for sample in oracle]
        assert len(set(keys)) < len(keys) or not oracle
        return
    rows = [read_members(place, index.members(row)) for row in range(len(index))]
    assert [(index.key(row), content) for row, content in enumerate(rows)] == [
        (sample["__key__"], {suffix: value for suffix, value in sample.items() if not suffix.startswith("__")})
        for sample in oracle
    ]
    assert by_stream(place, LeftOut()) == by_index(place, LeftOut())


@given(data=st.data())
def test_damage_is_refused_or_reads_the_same_both_ways(place: Path, data: st.DataObject) -> None:
    names = ["a.jpg", "a.json", "n" * 120 + ".jpg", "b.000.jpg"]
    entries = [(name, json.dumps({"of": name}).encode(), tarfile.REGTYPE) for name in names]
    content = bytearray(written(entries, data.draw(st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))))
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(names) * 1024 + 2048))
        content[at : at + 1] = data.draw(st.binary(min_size=1, max_size=1))
    if data.draw(st.booleans()):
        _mend_checksums(content)  # by whoever means it
    del content[data.draw(st.integers(0, len(content)) | st.just(len(content))) :]
    read_both_ways(place, bytes(content))


def _mend_checksums(content: bytearray) -> None:
    for block in range(0, len(content), 512):
        header = content[block : block + 512]
        if header[257:262] == b"ustar":
            header[148:156] = b" " * 8
            content[block + 148 : block + 156] = f"{sum(header):06o}\0 ".encode()


@given(content=st.binary(max_size=1200))
def test_what_is_no_tar_is_refused(place: Path, content: bytes) -> None:
    if content.strip(b"\0"):
        found, _, shown, _ = read_both_ways(place, content)
        assert found is shown is None

"""Tars of strangers: every file of them is part of a sample, or is counted with its true reason; never half of one."""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

import pytest
from PIL import Image

from data_prep.checking.samples import samples_of
from data_prep.checking.verify import verify
from data_prep.making.foreign import adopt
from umt_ds.data.shards.left_out import LeftOut
from umt_ds.data.shards.records import load_index, sample_key
from umt_ds.data.shards.stream import _clips_of_all, _samples_of
from umt_ds.data.shards.tars import index_tar
from umt_ds.errors import DataError


def picture(kind: str = "JPEG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (20, 10), "teal").save(file, kind)
    return file.getvalue()


JPEG = picture()
FAILED = json.dumps({"status": "failed_to_download"}).encode()


def write_tar(
    path: Path, files: Mapping[str, bytes] | list[tuple[str, bytes]], *, format: int = tarfile.PAX_FORMAT
) -> Path:
    with tarfile.open(path, "w", format=format, errors="surrogateescape") as archive:
        for name, data in files.items() if isinstance(files, Mapping) else files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def indexed(folder: Path) -> tuple[list[str], str]:
    """The keys that `umt-data index` takes from the tars of a folder, and all that it says."""
    adopted = adopt(folder)
    return [sample.key for shard in adopted.manifest.shards for sample in samples_of(folder / shard.file)], "\n".join(
        adopted.notes
    )


def streamed(tar: Path, caplog: pytest.LogCaptureFixture) -> tuple[list[str], str]:
    """The same for a stream of one tar."""
    caplog.clear()
    caplog.set_level("INFO")
    samples = _clips_of_all([{"url": str(tar)}], num_tars=2, name="web")
    return [sample.key for sample in samples], caplog.text


# (files, keys of the samples that hold a clip, what is said)
CASES: dict[str, tuple[dict[str, bytes], list[str], list[str]]] = {
    "leftovers of macOS": (
        {
            "./._a.jpg": b"\0\5\x16\7", "./a.jpg": JPEG, "./a.txt": b"teal", "./.DS_Store": b"x", "b.jpg": JPEG,
            "__MACOSX/._b.jpg": b"\0", "sub/._c.jpg": b"\0", "sub/.jpg": JPEG, ".jpg": JPEG,
        },
        ["a", "b"],
        ["ignored 6 files that belong to no sample: hidden files 6 (./._a.jpg)"],
    ),
    "a dot in the key": (
        {
            "v_0.5_4.0.jpg": JPEG, "v_0.5_4.0.txt": b"teal", "v_0.7_5.0.jpg": JPEG, "v_0.7_5.0.json": FAILED,
            "v_1_5.jpg": JPEG, "v_2.5.mp4": b"x", "v_2.5.json": b"{}", "v_3.5.jpg": JPEG, "v_3.5.txt": b"teal",
        },
        ["v_1_5"],
        [
            "4 samples are not DONE: their key has a dot, and a key ends at the first dot",
            "v_0.5_4.0.jpg is the file 5_4.0.jpg of sample v_0; rename it to v_0_5_4_0.jpg",
        ],
    ),
    "a dot in the key beside a key that ends there": (
        {"v_1.mp4": b"x", "v_1.5.mp4": b"x", "w.jpg": JPEG, "w.depth.png": b"x", "w.npz": b"x"},
        ["v_1", "w"],
        ["1 samples are not DONE: their key has a dot", "2 files beside the clip of their sample are not read (.depth"],
    ),
    "a dot in the key beside a key that ends there, both with a text": (
        {"v_1.jpg": JPEG, "v_1.txt": b"one", "v_1.5.jpg": JPEG, "v_1.5.txt": b"one and a half",
         "w.000.jpg": JPEG, "w.000.txt": b"its first frame", "w.json": b"{}"},
        ["w"],
        ["2 samples are not DONE: their key has a dot", "5.jpg is the file 5.jpg of sample v_1; rename it to v_1_5."],
    ),
    "a dot in the key beside a key that ends there and holds no clip": (
        {"v_1.heic": b"x", "v_1.5.mp4": b"x", "v_1.5.seg.npz": b"x", "v_2.txt": b"", "v_2.5.mp4": b"x", "w.jpg": JPEG},
        ["w"],
        [
            "2 samples are not DONE: their key has a dot",
            "1 samples without media are not DONE (files of kinds not read: .heic 1), such as v_1",
            "1 samples without media are not DONE (only json, txt or cls), such as v_2",
        ],
    ),
    "a text for each frame": (
        {f"v.{n:03d}.{suffix}": data for n in range(3) for suffix, data in (("jpg", JPEG), ("txt", b"a card"))},
        ["v"],
        ["3 files beside the clip of their sample are not read (.000.txt 1, .001.txt 1, .002.txt 1), such as"],
    ),
    "a dot in the key, which ends in seconds of three decimals": (
        {f"v.{n}.{suffix}": data for n in ("000", "500") for suffix, data in (("jpg", JPEG), ("txt", b"a card"))}
        | {"w.jpg": JPEG},
        ["w"],
        ["2 samples are not DONE: their key has a dot"],
    ),
    "a dot in the key, without any text, cannot be told from frames, whose numbers then look odd": (
        {"x_0.25.jpg": JPEG, "x_0.75.jpg": JPEG, "w.001.jpg": JPEG, "w.002.jpg": JPEG},
        ["x_0", "w"],
        ["1 samples have frames whose numbers do not count up from 0 or 1, such as x_0.25.jpg"],
    ),
    "a dot in the key of a clip of frames": (
        {**{f"v_1.5.{n:03d}.jpg": JPEG for n in range(32)}, "v_1.5.json": b"{}", "w.000.jpg": JPEG},
        ["w"],
        ["1 samples are not DONE: their key has a dot", "file 5.000.jpg of sample v_1; rename it to v_1_5.000.jpg"],
    ),
    "downloads that failed, kinds not read, and only text": (
        {
            "a.json": FAILED, "a.txt": b"", "b.heic": b"x", "b.json": b'{"status": "success"}', "c.svg": b"x",
            "d.txt": b"teal", "d.cls": b"1", "e.jpg": b"", "f.json": b"[]", "g.jpg": JPEG, "README": b"read me",
        },
        ["g"],
        [
            "1 samples without media are not DONE (downloads that failed), such as a",
            "2 samples without media are not DONE (files of kinds not read: .heic 1, .svg 1), such as b",
            "2 samples without media are not DONE (only json, txt or cls), such as d",
            "1 samples without media are not DONE (file is empty, 0 bytes), such as e.jpg",
            "ignored 1 files that belong to no sample: files without a suffix 1 (README)",
        ],
    ),
    "names of other writers": (
        {
            "v1.0/a.JPG": JPEG, "v1.0/a.TXT": b"teal", "v1.0\\b.jpg": JPEG, ".\\c.Jpeg": JPEG, "x//d.jpg": JPEG,
            "__meta__/e.jpg": JPEG, "BZh.jpg": JPEG, "PaxHeaders.77/a.jpg": b"x", "Thumbs.db": b"x",
            "f" * 150 + "/" + "g" * 150 + ".jpg": JPEG, "тест.jpg": JPEG,
        },
        ["v1.0/a", "v1.0/b", "c", "x/d", "__meta__/e", "BZh", "f" * 150 + "/" + "g" * 150, "тест"],
        ["ignored 2 files that belong to no sample: hidden files 2 (PaxHeaders.77/a.jpg)"],
    ),
    "several clips in a sample": (
        {"a.jpg": JPEG, "a.mp4": b"x", "a.webp": b"x", "b.jpg": JPEG, "b.png": JPEG, "c.jpg": JPEG, "c.tif": b"x"},
        ["a", "b", "c"],
        ["3 samples hold several clips; used is mp4 of jpg, mp4, webp: 1, jpg of jpg, png: 1, jpg of jpg, tif: 1"],
    ),
    "pictures that Pillow reads": (
        {"a.tif": picture("TIFF"), "b.avif": picture("AVIF"), "c.jfif": JPEG, "d.jpe": JPEG, "e.webp": picture("WEBP"),
         "f.000.tiff": picture("TIFF"), "f.001.tiff": picture("TIFF"), "g.bmp": picture("BMP"),
         "h.ppm": picture("PPM")},
        list("abcdefgh"),
        [],
    ),
}  # fmt: skip


def test_a_set_of_which_nothing_is_read_says_why_each_time(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", {"v_0.5_4.0.mp4": b"x", "v_1.5_4.0.mp4": b"x"})
    for _ in range(2):
        with pytest.raises(DataError, match=r"hold no frames(.|\n)*2 samples are not indexed: their key has a dot"):
            adopt(tmp_path)


@pytest.mark.parametrize("case", CASES)
def test_index_and_stream_take_the_same_samples_and_say_the_same_of_the_rest(
    tmp_path: Path, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    files, keys, said = CASES[case]
    tar = write_tar(tmp_path / "x.tar", files)
    found, told = indexed(tmp_path)
    assert found == keys
    assert [line for line in said if line.replace("DONE", "indexed") not in told] == []
    shown, logged = streamed(tar, caplog)
    assert shown == keys
    assert [line for line in said if line.replace("DONE", "shown") not in logged] == []
    if not said:
        assert logged == ""


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_entries_that_are_no_files_are_counted_and_those_of_every_format_are_read(tmp_path: Path, format: int) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=format) as archive:
        for name, kind in (("d", tarfile.DIRTYPE), ("d/l.jpg", tarfile.SYMTYPE), ("d/h.jpg", tarfile.LNKTYPE),
                           ("d/p.jpg", tarfile.FIFOTYPE), ("d/c.jpg", tarfile.CHRTYPE)):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "d/a.jpg"
            archive.addfile(info)
        for name in ("d/a.jpg", "d" * 60 + "/" + "a" * 60 + ".jpg"):
            info = tarfile.TarInfo(name)
            info.size = len(JPEG)
            archive.addfile(info, io.BytesIO(JPEG))
    keys, told = indexed(tmp_path)
    assert keys == ["d/a", "d" * 60 + "/" + "a" * 60]
    links = "links (tar -h stores what they lead to) 2 (d/l.jpg)"
    assert f"ignored 4 files that belong to no sample: {links}, devices, pipes and other entries that" in told


def test_sparse_files_are_counted_and_their_bytes_are_not_taken_for_what_they_hold(tmp_path: Path) -> None:
    sparse = tmp_path / "b.jpg"
    with sparse.open("wb") as file:
        file.seek(1 << 20)
        file.write(JPEG)
    (tmp_path / "a.jpg").write_bytes(JPEG)
    tar = tmp_path / "x.tar"
    assert os.system(f"cd {tmp_path} && tar --sparse -cf x.tar a.jpg b.jpg") == 0
    left = LeftOut()
    assert [bytes(key) for key in index_tar(tar, left).keys] == [b"a"]
    assert left.files == {"sparse files (written by tar --sparse)": 1}
    sparse_bytes = {"jpg": bytes(1 << 20) + JPEG}  # a stream needs no place for them, and tarfile puts them together
    assert [(s.key, s.content) for s in _samples_of(str(tar))] == [("a", {"jpg": JPEG}), ("b", sparse_bytes)]


@pytest.mark.parametrize("path", ["__MACOSX/x.mp4", "PaxHeader/x.mp4", "@LongLink/x.mp4", "Thumbs.db.mp4", ".d/x.mp4"])
def test_no_key_of_our_own_sets_is_taken_for_a_leftover(tmp_path: Path, path: str) -> None:
    key = sample_key(path)
    assert [bytes(key) for key in index_tar(write_tar(tmp_path / "x.tar", {f"{key}.json": b"{}"})).keys] == [
        key.encode()
    ]


def test_a_stream_says_each_reason_of_the_first_tar_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    tars = [write_tar(tmp_path / f"{n}.tar", {"a.jpg": JPEG, "b.txt": b"", "._c.jpg": b""}) for n in range(3)]
    assert len(list(_clips_of_all([{"url": str(tar)} for tar in tars], num_tars=3, name="web"))) == 3
    assert [record.getMessage().partition(": ")[0] for record in caplog.records] == [str(tars[0])] * 2


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([("a.jpg", JPEG), ("b.jpg", JPEG), ("a.txt", b"")], "sample key 'a' occurs twice(.|\n)*tar --sort=name"),
        ([("v_1.5.jpg", b"x"), ("w.jpg", b"x"), ("v_1.7.jpg", b"x")], r"'v_1' occurs twice(.|\n)*write v_1_7\.jpg for"),
        ([("a.jpg", JPEG), ("./a.jpg", JPEG)], r"sample 'a' has two files \.jpg(.|\n)*tar -r"),
        ([("a.jpg", JPEG), ("a.JPG", JPEG)], r"sample 'a' has two files \.jpg"),
        ([("..\\a.jpg", JPEG)], "points outside its folder"),
        ([("\\\\server\\a.jpg", JPEG)], "points outside its folder"),
        ([("a/../../b.jpg", JPEG)], "points outside its folder"),
        ([("a\udcff.jpg", JPEG)], "is not UTF-8"),
    ],
)
def test_an_index_refuses_names_that_are_no_addresses(
    tmp_path: Path, files: list[tuple[str, bytes]], said: str
) -> None:
    tar = write_tar(tmp_path / "x.tar", files, format=tarfile.GNU_FORMAT)
    with pytest.raises(DataError, match=said):
        index_tar(tar)


def test_an_index_refuses_tars_put_one_behind_the_other(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar", {"a.jpg": JPEG})
    tar.write_bytes(tar.read_bytes() * 2)
    with pytest.raises(DataError, match=r"holds more behind its end(.|\n)*ignore-zeros"):
        index_tar(tar)


@pytest.mark.parametrize(
    ("files", "contents", "said"),
    [
        (
            [("a.jpg", JPEG), ("b.jpg", JPEG), ("a.txt", b"teal"), ("b.jpg", b"other")],
            [("a", {"jpg": JPEG}), ("b", {"jpg": JPEG}), ("b", {"jpg": b"other"})],
            "2 samples have the key of an earlier one of their tar (do the files of a sample lie apart? "
            "tar --sort=name), such as a",
        ),
        (
            [("a.jpg", b"old"), ("a.txt", b"teal"), ("./a.JPG", JPEG)],
            [("a", {"jpg": JPEG, "txt": b"teal"})],
            "files that a later one of their name replaces 1 (./a.JPG)",
        ),
        ([("../a.jpg", JPEG), ("/b.jpg", JPEG)], [("../a", {"jpg": JPEG}), ("b", {"jpg": JPEG})], ""),
        ([("a\udcff.jpg", JPEG)], [("a?", {"jpg": JPEG})], ""),
    ],
)
def test_a_stream_has_no_addresses_and_shows_what_an_index_refuses(
    tmp_path: Path,
    files: list[tuple[str, bytes]],
    contents: list[tuple[str, dict[str, bytes]]],
    said: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    tar = write_tar(tmp_path / "x.tar", files, format=tarfile.GNU_FORMAT)
    samples = _clips_of_all([{"url": str(tar)}], num_tars=2, name="web")
    assert [(sample.key, sample.content) for sample in samples] == contents
    assert said in caplog.text


def test_a_stream_shows_the_first_of_tars_put_one_behind_the_other_and_says_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tar = write_tar(tmp_path / "x.tar", {"a.jpg": JPEG})
    tar.write_bytes(tar.read_bytes() * 2)
    keys, logged = streamed(tar, caplog)
    assert keys == ["a"]
    assert "tars behind the end of the first (tar --ignore-zeros shows them) 1" in logged


def broken(kind: str, whole: bytes) -> bytes:
    match kind:
        case "gz":
            return gzip.compress(whole)
        case "zip":
            return b"PK\x03\x04" + whole
        case "cut":
            return whole[:1024]
        case "header":
            return whole[:1024] + b"\1" * 512 + whole[1536:]
        case "empty":
            return b""
        case _:
            return b"no tar at all" * 100


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("gz", r"is compressed \(gzip\)(.|\n)*pipe:gzip -dc"),
        ("zip", "is a zip archive and no tar"),
        ("cut", "it was cut off"),
        ("header", "the header of a file in it is damaged"),
        ("empty", "empty file"),
        ("none", "truncated header|bad checksum|invalid header"),
    ],
)
def test_what_is_no_whole_tar_says_what_it_is(
    tmp_path: Path, kind: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("umt_ds.data.shards.stream.time.sleep", lambda _: None)
    tar = write_tar(tmp_path / "x.tar", {"a.jpg": b"x" * 512, "b.jpg": b"y" * 512})
    tar.write_bytes(broken(kind, tar.read_bytes()))
    for read in (index_tar, lambda tar: list(_samples_of(str(tar)))):
        with pytest.raises(DataError, match=said) as caught:
            read(tar)
        assert str(tar) in str(caught.value)


def test_a_tar_that_may_not_be_read_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "umt_ds.data.shards.tars.opened", raising(PermissionError(errno.EACCES, "Permission denied", "x"))
    )
    with pytest.raises(DataError, match=r"x\.tar cannot be read as a tar: Permission denied\n  hint: check its perm"):
        index_tar(write_tar(tmp_path / "x.tar", {"a.jpg": JPEG}))


def raising(error: Exception) -> Callable[[Path], NoReturn]:
    def call(path: Path) -> NoReturn:
        raise error

    return call


def test_a_header_that_points_backwards_is_no_endless_loop(tmp_path: Path) -> None:
    """A negative size, as GNU tar's binary numbers can have it."""
    info = tarfile.TarInfo("a.jpg")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + b"\xfc\x00"  # -1024
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    tar = tmp_path / "x.tar"
    tar.write_bytes(write_tar(tar, {"z.jpg": b"x" * 512}).read_bytes()[:1024] + bytes(header) + bytes(1024))
    with pytest.raises(DataError, match="cannot be read as a tar"):
        index_tar(tar)


def test_what_lies_beside_the_tars_is_said(tmp_path: Path) -> None:
    write_tar(tmp_path / "00000.tar", {"a.jpg": JPEG})
    (tmp_path / "more").mkdir()
    write_tar(tmp_path / "more" / "00001.tar", {"b.jpg": JPEG})
    for name in ("._00000.tar", "00002.tar.gz", "00003.TAR", "00004.tgz", "00005.tar.part", "00000.tar.idx"):
        (tmp_path / name).write_bytes(b"x")
    keys, told = indexed(tmp_path)
    assert keys == ["a"]
    assert "ignored 1 hidden files that end in .tar, as macOS leaves them (._00000.tar)" in told
    assert "ignored 3 archives that do not end in .tar: unpack or rename them (00002.tar.gz)" in told
    assert "ignored 1 tars that are not whole, as a download leaves them (00005.tar.part)" in told
    assert "ignored 1 tars in folders below: --subfolders indexes each folder by itself (more/00001.tar)" in told


def test_a_tar_whose_name_is_no_text_is_named(tmp_path: Path) -> None:
    write_tar(tmp_path / "a\udcff.tar", {"a.jpg": JPEG})
    with pytest.raises(DataError, match=r"the name of the tar 'a\\udcff\.tar' is not plain text"):
        adopt(tmp_path)


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_what_is_called_a_tar_and_is_no_file_is_named(tmp_path: Path, kind: str) -> None:
    tar = tmp_path / "00000.tar"
    match kind:
        case "folder":
            tar.mkdir()
        case "link":
            tar.symlink_to(tmp_path / "gone")
        case _:
            os.mkfifo(tar)
    with pytest.raises(DataError, match=r"00000\.tar cannot be read as a tar: it is (no file|a link)"):
        adopt(tmp_path)


def test_a_sample_that_is_split_over_two_tars_is_said(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", {"a.jpg": JPEG, "b.jpg": JPEG})
    write_tar(tmp_path / "1.tar", {"b.txt": b"teal", "c.jpg": JPEG})
    keys, told = indexed(tmp_path)
    assert keys == ["a", "b", "c"]
    assert "1 samples are split over two tars, and each part stands alone: b in 0.tar and 1.tar" in told


def test_tars_that_were_indexed_before_are_said_to_be_not_looked_through(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", {"a.jpg": JPEG, "b.txt": b""})
    adopt(tmp_path)
    (tmp_path / "manifest.json").unlink()  # as an interrupted run leaves it
    assert "1 tars had an index: what they hold besides is not said (--force says it)" in indexed(tmp_path)[1]


def test_capital_suffixes_hold_captions_and_all_pictures_decode(tmp_path: Path) -> None:
    files, keys, _ = CASES["pictures that Pillow reads"]
    write_tar(tmp_path / "x.tar", {**files, "z.JPG": JPEG, "z.TXT": b"teal"})
    assert "1 of 9 samples have a caption" in indexed(tmp_path)[1]
    assert verify(tmp_path, every=1).decoded == len(keys) + 1
    assert [member.suffix for member in load_index(tmp_path / "x.tar").members(8)] == ["jpg", "txt"]

"""The shard contract: keys that any tool can split, indexes that name every byte, damage that is seen."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from umt_ds.data.shards.manifest import MANIFEST, Manifest, load_manifest, shard_entries
from umt_ds.data.shards.records import index_path, load_index, read_members, sample_key
from umt_ds.data.shards.suffixes import IMAGE_SUFFIXES, media_of, pixels_of
from umt_ds.data.shards.tars import index_tar, split_member_name
from umt_ds.errors import DataError

MEMBERS = (("a/x.000.jpg", b"first"), ("a/x.001.jpg", b"second!"), ("a/x.json", b"{}"), ("b.json", b"[1]"))


def write_tar(path: Path, members: Sequence[tuple[str, bytes]] = MEMBERS) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("v.mp4", "v"),
        ("dir/v.mp4", "dir/v"),
        ("a.b/c.d.mp4", "a%2Eb/c%2Ed"),
        ("no_suffix", "no_suffix"),
        ("/rooted/v.mp4", "rooted/v"),
        ("../up.mp4", "%2E%2E/up"),
        ("50% off~.mp4", "50%25%20off%7E"),
        ("日本.mp4", "%E6%97%A5%E6%9C%AC"),
    ],
)
def test_key_is_the_path_without_suffix_and_odd_characters(path: str, key: str) -> None:
    assert sample_key(path) == key


@given(st.lists(st.text("ab.~%é /", min_size=1, max_size=6).filter(lambda s: s.strip("/")), min_size=2, max_size=2))
def test_different_stems_have_different_keys_that_webdataset_splits_whole(stems: list[str]) -> None:
    first, second = (sample_key(f"{stem}.mp4") for stem in stems)
    if stems[0].strip("/") != stems[1].strip("/"):
        assert first != second
    assert split_member_name(f"{first}.000.jpg") == (first, "000.jpg")


@pytest.mark.parametrize(
    ("suffixes", "media"),
    [
        (("000.jpg", "json"), "frames"),
        (("npy", "json"), "npy"),
        (("mp4", "txt"), "video"),
        (("JPG", "txt"), "image"),
        (("json", "txt", "cls"), "none"),
    ],
)
def test_media_are_told_from_the_suffixes(suffixes: tuple[str, ...], media: str) -> None:
    assert media_of(suffixes) == media


@pytest.mark.parametrize(
    ("suffixes", "media", "places"),
    [
        (("avif", "jpg"), "image", (1,)),
        (("000.tif", "mp4"), "video", (1,)),
        (("000.tif", "000.png", "001.png"), "frames", (1, 2)),
        (("mxf", "bmp"), "image", (1,)),
        (("10.jpg", "2.jpg", "json", "1.jpg"), "frames", (3, 1, 0)),
        (("001.bmp", "000.bmp"), "frames", (1, 0)),
        (("png", "jpg"), "image", (0,)),
        (("tif", "m2v"), "video", (1,)),
    ],
)
def test_a_sample_with_a_clip_of_the_first_suffixes_keeps_it_and_frames_are_in_the_order_of_their_numbers(
    suffixes: tuple[str, ...], media: str, places: tuple[int, ...]
) -> None:
    """Sets are read by these rules every time: a suffix that is read from some day on must not change older ones."""
    assert pixels_of(suffixes) == (media, places)


def test_every_picture_suffix_has_a_reader() -> None:
    Image.init()
    readers = Image.registered_extensions()
    assert [suffix for suffix in IMAGE_SUFFIXES if readers.get(f".{suffix}") not in Image.OPEN] == []


def test_index_names_the_bytes_that_tarfile_reads(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar")
    index_tar(tar).save(index_path(tar))
    index = load_index(tar)
    assert [index.key(row) for row in range(len(index))] == ["a/x", "b"]
    raw = tar.read_bytes()
    with tarfile.open(tar) as archive:
        for row in range(len(index)):
            for member in index.members(row):
                expected = archive.extractfile(f"{index.key(row)}.{member.suffix}")
                assert expected is not None
                assert raw[member.offset : member.offset + member.size] == expected.read()
    assert read_members(tar, index.members(0)) == {"000.jpg": b"first", "001.jpg": b"second!", "json": b"{}"}


def test_the_same_tar_gives_the_same_index_bytes(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar")
    for name in ("one.npz", "two.npz"):
        index_tar(tar).save(tmp_path / name)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


def test_an_empty_tar_has_no_samples(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar", ())
    index_tar(tar).save(index_path(tar))
    assert len(load_index(tar)) == 0


def test_long_names_are_indexed(tmp_path: Path) -> None:
    name = "d" * 180 + "/" + "f" * 180
    tar = write_tar(tmp_path / "x.tar", [(f"{name}.json", b"{}")])
    assert index_tar(tar).key(0) == name


@pytest.mark.parametrize("size", [600, 1024, 1500, 4096])
def test_a_truncated_tar_is_refused(tmp_path: Path, size: int) -> None:
    tar = write_tar(tmp_path / "x.tar")  # 4 members of one header and one data block: 4096 bytes, then zeros
    tar.write_bytes(tar.read_bytes()[:size])
    with pytest.raises(DataError, match=r"truncated|cut off|cannot be read"):
        index_tar(tar)


def test_a_damaged_header_does_not_end_the_tar_unseen(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar")
    raw = bytearray(tar.read_bytes())
    raw[2048 + 148] ^= 0x0F  # checksum of the third header
    tar.write_bytes(raw)
    with pytest.raises(DataError):
        index_tar(tar)


def test_an_index_of_another_tar_is_refused(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar")
    index_tar(tar).save(index_path(tar))
    tar.write_bytes(tar.read_bytes() + bytes(512))
    with pytest.raises(DataError, match="does not match its tar"):
        load_index(tar)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 not a zip", b"\x93NUMPY"])
def test_a_damaged_index_is_refused(tmp_path: Path, damage: bytes) -> None:
    tar = write_tar(tmp_path / "x.tar")
    index_path(tar).write_bytes(damage)
    with pytest.raises(DataError, match="cannot be read"):
        load_index(tar)


def test_an_index_whose_tables_disagree_is_refused(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar")
    index = index_tar(tar)
    replace(index, crcs=index.crcs[:-1]).save(index_path(tar))
    with pytest.raises(DataError, match="tables differ"):
        load_index(tar)


def test_a_missing_index_names_the_command_that_makes_it(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar")
    with pytest.raises(DataError) as caught:
        load_index(tar)
    assert f"umt-data index {tmp_path}" in str(caught.value)


@pytest.mark.parametrize("name", ["/etc/passwd.json", "../x.json", "a/../../x.json"])
def test_members_that_leave_their_folder_are_refused(tmp_path: Path, name: str) -> None:
    tar = write_tar(tmp_path / "x.tar", [(name, b"{}")])
    with pytest.raises(DataError, match="points outside"):
        index_tar(tar)


def test_a_key_that_comes_back_later_is_refused(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar", [("a.json", b""), ("b.json", b""), ("a.jpg", b"")])
    with pytest.raises(DataError, match="occurs twice"):
        index_tar(tar)


def test_member_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar", [("stray\udcff.json", b"{}")])
    with pytest.raises(DataError, match="not UTF-8"):
        index_tar(tar)


def test_a_flipped_bit_is_seen_when_the_member_is_read(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar")
    members = index_tar(tar).members(0)
    raw = bytearray(tar.read_bytes())
    raw[members[1].offset] ^= 1
    tar.write_bytes(raw)
    assert read_members(tar, members[:1]) == {"000.jpg": b"first"}
    with pytest.raises(DataError, match="checksum"):
        read_members(tar, members)


def manifest_in(folder: Path) -> Manifest:
    tar = write_tar(folder / "set-000000.tar")
    index_tar(tar).save(index_path(tar))
    manifest = Manifest("set", "frames", shard_entries([tar]), labels=("a", "b"), options={"frames": 2})
    manifest.save(folder)
    return manifest


def test_a_manifest_reads_back_as_written(tmp_path: Path) -> None:
    written = manifest_in(tmp_path)
    assert load_manifest(tmp_path) == written


def test_the_fingerprint_changes_with_content_and_labels_and_not_with_the_tool(tmp_path: Path) -> None:
    manifest = manifest_in(tmp_path)
    shard = manifest.shards[0]
    assert replace(manifest, tool="other").fingerprint == manifest.fingerprint
    assert replace(manifest, labels=("b", "a")).fingerprint != manifest.fingerprint
    assert replace(manifest, shards=(replace(shard, sha256="0"),)).fingerprint != manifest.fingerprint


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"samples": 2', '"samples": 3', "edited by hand"),
        ('"format": 1', '"format": 9', "format 9"),
        ('"shards"', '"shard"', "damaged"),
        ("set-000000.tar", "../../elsewhere.tar", "edited by hand"),
    ],
)
def test_a_manifest_that_was_changed_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    manifest_in(tmp_path)
    path = tmp_path / MANIFEST
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DataError, match=message):
        load_manifest(tmp_path)


def test_a_manifest_that_points_outside_its_folder_is_refused(tmp_path: Path) -> None:
    manifest = manifest_in(tmp_path)
    replace(manifest, shards=(replace(manifest.shards[0], file="../set-000000.tar"),)).save(tmp_path)
    with pytest.raises(DataError, match="points outside"):
        load_manifest(tmp_path)


def test_a_manifest_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="damaged"):
        load_manifest(tmp_path)


def test_arrays_of_an_index_are_plain_numpy(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar")
    index_tar(tar).save(index_path(tar))
    with np.load(index_path(tar), allow_pickle=False) as arrays:  # readable without this package, and no pickle
        assert arrays["tar_size"] == tar.stat().st_size
        assert json.loads(json.dumps(arrays["starts"].tolist())) == [0, 3, 4]


# ---------------------------------------------------------------- class lists


@pytest.mark.parametrize("depth", [0, 1, 3], ids=["made", "split", "filtered, split and merged"])
def test_a_set_names_the_classes_of_each_label_field_whatever_it_was_made_of(depth: int) -> None:
    options: dict[str, object] = {"classes": {"motion": ["up", "down"], "empty": [], "odd": "text"}}
    for _ in range(depth):
        options = {"made_with": options}
    manifest = Manifest("tiny", "frames", (), labels=("a", "b"), options=options)
    assert manifest.class_lists == {"label": ("a", "b"), "motion_label": ("up", "down")}


@pytest.mark.parametrize("options", [{}, {"classes": 3}, {"made_with": 3}, {"made_with": {"classes": None}}])
def test_a_set_without_class_lists_has_none(options: dict[str, object]) -> None:
    assert Manifest("tiny", "frames", (), options=options).class_lists == {}

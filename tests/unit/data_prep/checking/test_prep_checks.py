"""verify finds every planted fault and names it; index adopts foreign tars; stats and sheet show a set."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.checking.faults import VerifyReport
from data_prep.checking.samples import StoredSample, samples_of
from data_prep.checking.sheet import write_sheet
from data_prep.checking.stats import collect_stats, table, write_plots
from data_prep.checking.verify import verify
from data_prep.clip import RunOptions, StoreOptions
from data_prep.making.foreign import adopt
from data_prep.making.prepare import prepare
from data_prep.sources.folder import list_folder
from tests.support.videos import frame_number, write_video, write_videos
from umt_ds.data.shards.manifest import MANIFEST, load_manifest, shard_entries
from umt_ds.data.shards.records import index_path, load_index
from umt_ds.data.shards.tars import index_tar
from umt_ds.errors import DataError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips in two shards, with captions and labels."""
    videos = write_videos(tmp_path_factory.mktemp("videos"), 6)
    csv = videos.parent / f"{videos.name}.csv"
    rows = [f"v{n:02d}.mp4,caption number {n},{'even' if n % 2 == 0 else 'odd'}" for n in range(6)]
    csv.write_text("\n".join(["file,caption,label", *rows]) + "\n")
    out = videos.parent / f"{videos.name}-set"
    listing = list_folder(videos, captions=csv).first_in_order()
    prepare(listing, out, name="set", store=StoreOptions(4, 32, 90, 3), run=RunOptions(workers=1))
    return out


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(made, tmp_path / "set"))


def kinds(out: Path) -> set[str]:
    return {kind for kind, _ in verify(out, every=1).faults}


def flip(path: Path, offset: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[offset] ^= 0xFF
    path.write_bytes(raw)


def flip_a_frame(out: Path) -> None:
    tar = out / "set-000000.tar"
    flip(tar, index_tar(tar).members(0)[0].offset + 5)


def cut_the_tar(out: Path) -> None:
    tar = out / "set-000001.tar"
    tar.write_bytes(tar.read_bytes()[:-2048])


def flip_padding(out: Path) -> None:
    tar = out / "set-000001.tar"
    flip(tar, tar.stat().st_size - 1)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (flip_a_frame, {"sha256 differs from the manifest", "member damaged (CRC)"}),
        (cut_the_tar, {"shard or index missing or mismatched"}),
        (flip_padding, {"sha256 differs from the manifest"}),
        (lambda out: (out / "set-000000.tar").unlink(), {"shard or index missing or mismatched"}),
        (lambda out: (out / "set-000000.index.npz").unlink(), {"shard or index missing or mismatched"}),
        (lambda out: flip(out / "set-000000.index.npz", 900), {"shard or index missing or mismatched"}),
        (lambda out: shutil.copy(out / "set-000000.tar", out / "extra.tar"), {"shard not in the manifest"}),
    ],
)
def test_verify_names_the_damage(out: Path, damage: Callable[[Path], object], expected: set[str]) -> None:
    damage(out)
    assert kinds(out) == expected


def rewrite(tar: Path, change: Callable[[str, bytes], list[tuple[str, bytes]]]) -> None:
    """Each member (name, data) of the tar becomes what `change` says; index and manifest are made to fit."""
    with tarfile.open(tar) as archive:
        members = [(m.name, archive.extractfile(m).read()) for m in archive]  # type: ignore[union-attr]
    with tarfile.open(tar, "w") as archive:
        for name, data in (new for member in members for new in change(*member)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    index_tar(tar).save(index_path(tar))
    sign_again(tar.parent)


def sign_again(out: Path) -> None:
    """A manifest of the shards as they are now, by which nothing else is known of them."""
    shards = shard_entries(sorted(out.glob("*.tar")))
    replace(load_manifest(out), shards=shards, index=None, statistics=None).save(out)


def with_json(**changes: object) -> Callable[[str, bytes], list[tuple[str, bytes]]]:
    def change(name: str, data: bytes) -> list[tuple[str, bytes]]:
        return [(name, json.dumps({**json.loads(data), **changes}).encode() if name.endswith(".json") else data)]

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda name, data: [(name, b"{" if name.endswith(".json") else data)], "json damaged"),
        (lambda name, data: [(name, data)] if name.endswith(".json") else [], "sample without media"),
        (lambda name, data: [(name, b"no jpeg" if name.endswith(".jpg") else data)], "frames cannot be decoded"),
        (lambda name, data: [] if name.endswith(".001.jpg") else [(name, data)], "frames differ from the json"),
        (with_json(key="another"), "json has another key than the tar"),
        (with_json(label=2), "label outside the class list"),
        (with_json(label=0, label_name="odd"), "label outside the class list"),
    ],
)
def test_verify_sees_what_was_wrong_before_the_checksums_were_made(
    out: Path, change: Callable[[str, bytes], list[tuple[str, bytes]]], expected: str
) -> None:
    rewrite(out / "set-000000.tar", change)
    assert verify(out, every=1).kinds == {expected: 3}


def test_verify_finds_an_empty_frame(out: Path) -> None:
    rewrite(out / "set-000001.tar", lambda name, data: [(name, b"" if name.endswith(".003.jpg") else data)])
    report = verify(out, every=1000)
    assert report.kinds == {"empty frame or video": 3}


def test_verify_finds_a_key_that_is_in_two_shards(out: Path) -> None:
    for suffix in (".tar", ".index.npz"):
        shutil.copy(out / f"set-000000{suffix}", out / f"set-000002{suffix}")
    sign_again(out)
    report = verify(out)
    assert report.kinds["key occurs twice"] == 3
    assert all("set-000000.tar and set-000002.tar" in what for kind, what in report.faults if "twice" in kind)


def test_verify_misses_no_clip_between_plan_samples_and_bad_csv(out: Path) -> None:
    (out / "set-000001.tar").unlink()
    sign_again(out)
    assert kinds(out) == {"clips unaccounted for"}


def test_a_sample_that_kills_its_decoder_is_one_fault(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.checking.verify._decode_some", die_on_row_1)
    report = verify(out, every=1)
    assert report.kinds == {"decoder crashed or hung": 2}
    assert report.decoded == 4
    assert "SIGSEGV" in report.faults[0][1]


def die_on_row_1(sample: StoredSample, *, frames: int) -> None:
    """A stand-in for decoding; in the worker process."""
    if sample.key == load_index(sample.tar).key(1):
        os.kill(os.getpid(), signal.SIGSEGV)


def test_verify_counts_what_it_checked_over_the_whole_set(out: Path) -> None:
    report = verify(out, every=2, workers=2)
    assert (report.shards, report.samples, report.decoded) == (2, 6, 3)  # samples 0, 2 and 4: rows 0, 2 and 1
    assert report.table() == "2 shards, 6 samples, frames of 3 decoded: all good"
    assert verify(out, every=4).decoded == 2
    assert report.to_json() == {"shards": 2, "samples": 6, "decoded": 3, "faults": {}, "examples": []}


def test_verify_keeps_the_first_faults_of_a_kind_and_counts_all() -> None:
    report = VerifyReport()
    for number in range(1000):
        report.add("a", number)
    report.add("b", "x")
    assert (report.kinds, len(report.faults)) == ({"a": 1000, "b": 1}, 101)
    assert "1,001 faults" in report.table()
    assert report.to_json()["examples"][-1] == {"kind": "b", "what": "x"}


def test_verify_without_a_manifest_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a folder of finished shards"):
        verify(tmp_path)


def test_stats_are_those_of_the_samples(out: Path) -> None:
    stats = collect_stats(out)
    assert (stats["samples"], stats["shards"]) == (6, 2)
    assert stats["label"] == {"even": 3, "odd": 3}
    assert stats["stored_size"] == {"43x32": 6}
    assert stats["duration_s"]["median"] == 1.2
    assert stats["frames_stored"]["max"] == 4
    assert stats["caption_words"]["mean"] == 3
    assert (stats["with_caption"], stats["with_label"], stats["captions"]["max"]) == (6, 6, 1)
    assert (stats["source_size"], stats["source_short_side"]["median"]) == ({"64x48": 6}, 48)
    assert stats["hours"] == round(6 * 1.2 / 3600, 3)
    assert sum(stats["duration_s"]["histogram"]["counts"]) == 6
    assert json.loads((out / "stats.json").read_text()) == stats == collect_stats(out, workers=2)
    assert "43x32 6" in table(stats)
    assert "6 with a caption, 0 without" in table(stats)


def test_stats_leave_out_what_a_sample_does_not_state(tmp_path: Path) -> None:
    foreign_tar(tmp_path / "a.tar", {"jpg": picture()}, count=3)
    foreign_tar(
        tmp_path / "b.tar", {"jpg": picture(), "json": b'{"caption": ["one", "two words"], "fps": 25}'}, count=1
    )
    adopt(tmp_path)
    stats = collect_stats(tmp_path)
    assert (stats["samples"], stats["with_caption"], stats["with_label"]) == (4, 1, 0)
    assert (stats["fps"]["mean"], stats["fps"]["count"], stats["duration_s"]) == (25, 1, {})
    assert (stats["captions"]["max"], stats["caption_words"]["max"]) == (2, 1)


def test_of_kinds_without_end_only_the_first_are_told_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("data_prep.checking.stats._MOST_KINDS", 2)
    for number, label in enumerate("abcdab"):
        foreign_tar(
            tmp_path / f"{number}.tar", {"jpg": picture(), "json": b'{"label": "%s"}' % label.encode()}, count=1
        )
    adopt(tmp_path)
    assert collect_stats(tmp_path)["label"] == {"a": 2, "b": 2, "(others)": 2}


def test_plots_show_numbers_and_labels(out: Path, tmp_path: Path) -> None:
    write_plots(collect_stats(out), tmp_path / "stats.png")
    write_plots(collect_stats(out), tmp_path / "again.png")
    assert (tmp_path / "stats.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    shown = np.asarray(Image.open(tmp_path / "stats.png").convert("RGB"))
    quarters = [quarter for half in np.split(shown, 2) for quarter in np.split(half, 3, axis=1)]
    assert all((quarter < 200).any(axis=2).mean() > 0.02 for quarter in quarters)  # something is drawn in each
    many = {**collect_stats(out), "label": {f"class {n}": 100 - n for n in range(100)}, "fps": {}}
    write_plots(many, tmp_path / "many.png")


def test_the_sheet_shows_first_middle_and_last_frame(out: Path, tmp_path: Path) -> None:
    png = tmp_path / "sheet.png"
    assert write_sheet(out, png, samples=4) == 4
    sheet = np.asarray(Image.open(png))
    # stored frames are 43x32, centred in cells of 160x120 that begin at (8, 8); stored 0, 2, 3 are frames 1, 7, 10
    centres = [sheet[68, 88 + column * 160] for column in range(3)]
    assert [frame_number(pixel) for pixel in centres] == [1, 7, 10]


def foreign_tar(path: Path, suffixes: dict[str, bytes], *, count: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for number in range(count):
            for suffix, data in suffixes.items():
                info = tarfile.TarInfo(f"{number:09d}.{suffix}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return path


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (20, 10), (90, 90, 90)).save(file, "JPEG")
    return file.getvalue()


def array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.full((5, 8, 8, 3), 90, np.uint8))
    return file.getvalue()


def test_foreign_tars_are_indexed_by_their_media_and_their_frames_read(tmp_path: Path) -> None:
    mp4 = write_video(tmp_path / "v.mp4").read_bytes()
    for media, suffixes in {
        "image": {"jpg": picture(), "txt": b"a grey field"},
        "npy": {"npy": array(), "txt": b"a grey field"},
        "video": {"mp4": mp4, "json": b'{"caption": "a grey field"}'},
    }.items():
        folder = tmp_path / media
        tars = [foreign_tar(folder / f"{n:05d}.tar", suffixes, count=2 + n) for n in range(2)]
        before = [tar.read_bytes() for tar in tars]
        manifest = adopt(folder).manifest
        assert (manifest.media, manifest.num_samples, manifest.name) == (media, 5, media)
        assert [tar.read_bytes() for tar in tars] == before
        assert verify(folder, every=1).decoded == 5
        sample = next(samples_of(tars[0]))
        assert sample.record()["caption"] == "a grey field"
        assert load_manifest(folder) == manifest


def test_an_indexed_folder_is_left_alone_without_force_and_keeps_its_labels_with_it(out: Path) -> None:
    with pytest.raises(DataError, match="indexed already"):
        adopt(out)
    before = load_manifest(out)
    index_path(out / "set-000000.tar").unlink()
    after = adopt(out, force=True).manifest
    assert (after.labels, after.options, after.shards) == (before.labels, before.options, before.shards)


def test_an_unfinished_set_is_not_adopted_as_foreign(out: Path) -> None:
    (out / MANIFEST).unlink()
    with pytest.raises(DataError, match="not finished"):
        adopt(out)


def test_tars_of_nothing_we_know_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \*\.tar"):
        adopt(tmp_path)
    foreign_tar(tmp_path / "x.tar", {"pdf": b"x"})
    with pytest.raises(DataError, match="hold no frames"):
        adopt(tmp_path)


def test_a_cut_foreign_tar_is_named(tmp_path: Path) -> None:
    tar = foreign_tar(tmp_path / "x.tar", {"jpg": picture()})
    tar.write_bytes(tar.read_bytes()[:900])
    with pytest.raises(DataError, match=r"x\.tar"):
        adopt(tmp_path)

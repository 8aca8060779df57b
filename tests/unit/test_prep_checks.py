"""verify finds every planted fault and names it; index adopts foreign tars; stats and sheet show a set."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.clip import RunOptions, StoreOptions
from data_prep.foreign import index_folder
from data_prep.prepare import prepare
from data_prep.samples import caption_text, samples_of
from data_prep.sheet import write_sheet
from data_prep.sources.folder import list_folder
from data_prep.stats import collect_stats, table
from data_prep.verify import verify
from tests.support.videos import frame_number, write_video, write_videos
from umt_ds.data.records import MANIFEST, index_path, index_tar, load_manifest
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


def replace_by_noise_and_index_again(out: Path) -> None:
    """Damage before the checksums were made: only decoding can see it."""
    tar = out / "set-000000.tar"
    with tarfile.open(tar) as archive:
        members = [(m.name, archive.extractfile(m).read()) for m in archive]  # type: ignore[union-attr]
    with tarfile.open(tar, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            data = b"no jpeg" if name.endswith(".jpg") else data
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    index_tar(tar).save(index_path(tar))
    index_folder(out, force=True)


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
        (replace_by_noise_and_index_again, {"frames cannot be decoded"}),
    ],
)
def test_verify_names_the_damage(out: Path, damage: Callable[[Path], object], expected: set[str]) -> None:
    assert kinds(out) == set()
    damage(out)
    assert kinds(out) == expected


def test_verify_counts_what_it_checked(out: Path) -> None:
    report = verify(out, every=2)
    assert (report.shards, report.samples, report.decoded) == (2, 6, 4)  # samples 0 and 2 of each shard of 3
    assert report.table() == "2 shards, 6 samples, frames of 4 decoded: all good"


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
    assert json.loads((out / "stats.json").read_text()) == stats
    assert "43x32 6" in table(stats)


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
        manifest = index_folder(folder)
        assert (manifest.media, manifest.num_samples, manifest.name) == (media, 5, media)
        assert [tar.read_bytes() for tar in tars] == before
        assert verify(folder, every=1).decoded == 5
        sample = next(samples_of(tars[0]))
        assert caption_text(sample.record()) == "a grey field"
        assert load_manifest(folder) == manifest


def test_an_indexed_folder_is_left_alone_without_force_and_keeps_its_labels_with_it(out: Path) -> None:
    with pytest.raises(DataError, match="indexed already"):
        index_folder(out)
    before = load_manifest(out)
    index_path(out / "set-000000.tar").unlink()
    after = index_folder(out, force=True)
    assert (after.labels, after.options, after.shards) == (before.labels, before.options, before.shards)


def test_an_unfinished_set_is_not_adopted_as_foreign(out: Path) -> None:
    (out / MANIFEST).unlink()
    with pytest.raises(DataError, match="not finished"):
        index_folder(out)


def test_tars_of_nothing_we_know_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \*\.tar"):
        index_folder(tmp_path)
    foreign_tar(tmp_path / "x.tar", {"pdf": b"x"})
    with pytest.raises(DataError, match="hold no frames"):
        index_folder(tmp_path)


def test_a_cut_foreign_tar_is_named(tmp_path: Path) -> None:
    tar = foreign_tar(tmp_path / "x.tar", {"jpg": picture()})
    tar.write_bytes(tar.read_bytes()[:900])
    with pytest.raises(DataError, match=r"x\.tar"):
        index_folder(tmp_path)

"""Near duplicates: planted copies are found, other clips are not, and what was found can be looked at."""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from data_prep.clip import RunOptions, StoreOptions
from data_prep.leaks.near_duplicates import (
    LEAK_COLUMNS,
    Hashed,
    NearReport,
    frame_hashes,
    match_clips,
    near_duplicates,
    set_names,
    write_leaks,
    write_pairs,
)
from data_prep.making.prepare import prepare
from data_prep.sources.folder import list_folder
from tests.support.videos import write_video
from umt_ds.errors import ConfigError

Frame = NDArray[np.uint8]
Change = Callable[[list[Image.Image]], list[Image.Image]]


def scene(seed: int, *, frames: int = 30, size: tuple[int, int] = (96, 64)) -> list[Image.Image]:
    """A smooth random landscape over which the camera moves."""
    random = np.random.default_rng(seed)
    land = Image.fromarray(random.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize(
        (192, 128), Image.Resampling.BICUBIC
    )
    return [land.crop((n, n, n + size[0], n + size[1])) for n in range(frames)]


def make_set(folder: Path, clips: Mapping[str, Sequence[Image.Image]]) -> Path:
    for name, pictures in clips.items():
        arrays = [np.asarray(picture) for picture in pictures]
        write_video(folder / "videos" / f"{name}.mp4", size=pictures[0].size, pictures=arrays)
    listing = list_folder(folder / "videos").first_in_order()
    prepare(listing, folder / "set", name="set", store=StoreOptions(8, 64, 90, 4), run=RunOptions(workers=1))
    return folder / "set"


def coarse(picture: Image.Image) -> Image.Image:
    """What strong compression leaves."""
    return picture.quantize(12).convert("RGB")


CHANGES: dict[str, Change] = {
    "reencoded": lambda clip: [coarse(picture) for picture in clip],
    "half": lambda clip: [picture.resize((48, 32)) for picture in clip],
    "shifted": lambda clip: clip[4:],
    "darker": lambda clip: [picture.point(lambda level: level * 0.7) for picture in clip],
    "mirrored": lambda clip: [ImageOps.mirror(picture) for picture in clip],
    "letterboxed": lambda clip: [ImageOps.expand(picture, (0, 16), 0) for picture in clip],
}


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Five validation clips, and a training set with each change of the first one and five other clips."""
    folder = tmp_path_factory.mktemp("near")
    val = make_set(folder / "val", {f"v{seed}": scene(seed) for seed in range(5)})
    planted = {f"copies/{name}": change(scene(0)) for name, change in CHANGES.items()}
    others = {f"other{seed}": scene(seed) for seed in range(100, 105)}
    black = {"black": [Image.new("RGB", (96, 64), (3, 3, 3))] * 10}
    return make_set(folder / "train", {**planted, **others, **black}), val


@pytest.fixture(scope="module")
def report(sets: tuple[Path, Path]) -> NearReport:
    train, val = sets
    return near_duplicates(train, [val], workers=2)


def test_every_changed_copy_is_found_and_nothing_else(report: NearReport) -> None:
    assert [(pair.train_key, pair.against_key) for pair in report.pairs] == [
        (f"copies/{name}", "v0") for name in sorted(CHANGES)
    ]
    assert {pair.train_key for pair in report.pairs if pair.mirrored} == {"copies/mirrored"}
    assert (report.train, report.against, report.blank, report.unread) == (12, 5, 1, ())


def test_a_pair_says_how_alike_it_is(report: NearReport) -> None:
    half = next(pair for pair in report.pairs if pair.train_key == "copies/half")
    assert (half.matching, half.usable, half.against) == (8, 8, "val/set")
    assert half.mean_distance < 4
    assert half.detail == f"8 of 8 frames, mean distance {half.mean_distance:.1f}"


def test_leaks_csv_has_a_row_for_each_pair(report: NearReport, tmp_path: Path) -> None:
    write_leaks(tmp_path / "leaks.csv", [*(pair.row() for pair in report.pairs), ("a", "b", "c", "id", "X")])
    rows = list(csv.reader((tmp_path / "leaks.csv").open()))
    assert tuple(rows[0]) == LEAK_COLUMNS
    assert rows[1] == ["a", "b", "c", "id", "X"]
    assert rows[2][:4] == ["copies/darker", "v0", "val/set", "near"]
    assert len(rows) == 2 + len(CHANGES)


def test_pairs_are_drawn_side_by_side(sets: tuple[Path, Path], report: NearReport, tmp_path: Path) -> None:
    train, val = sets
    assert write_pairs(tmp_path / "pairs.png", report.pairs, train=train, against=[val], most=2) == 2
    left, right = np.split(np.asarray(Image.open(tmp_path / "pairs.png")).astype(int), 2, axis=1)
    assert left.shape == right.shape
    assert np.abs(left - right).mean() < 30  # the same scene on both sides
    assert np.unique(left[40:120]).size > 50


def brute_force(train: Hashed, others: Hashed, distance: int, share: float) -> dict[tuple[str, int], tuple[int, bool]]:
    """By loops over clips and frames: (train key, against clip) → (matching frames, mirrored)."""

    def frames(table: Hashed, hashes: NDArray[np.uint64], clip: int) -> list[int]:
        return [int(h) for h in hashes[table.starts[clip] : table.starts[clip + 1]]]

    found: dict[tuple[str, int], tuple[int, bool]] = {}
    for row, key in enumerate(train.keys):
        ours = frames(train, train.hashes, row)
        for clip in range(len(others.starts) - 1):
            for mirrored, hashes in ((False, others.hashes), (True, others.mirrored)):
                theirs = frames(others, hashes, clip)
                near = sum(any((a ^ b).bit_count() <= distance for b in ours) for a in theirs)
                if near and near >= share * len(theirs) and near > found.get((key, clip), (0, False))[0]:
                    found[key, clip] = near, mirrored
    return found


def test_the_comparison_is_that_of_all_frames_with_all_frames() -> None:
    random = np.random.default_rng(0)
    pool = random.integers(0, 2**64, 12, dtype=np.uint64)  # few pictures, so that many frames are alike

    def some(clips: int) -> Hashed:
        counts = random.integers(0, 5, clips)
        counts[3] = 0  # a blank clip
        frames = int(counts.sum())
        noise = random.choice(np.array([0, 1, 3, 1 << 63], dtype=np.uint64), frames)
        return Hashed(
            keys=tuple(f"k{n}" for n in range(clips)),
            starts=np.cumsum([0, *counts]),
            hashes=random.choice(pool, frames) ^ noise,
            mirrored=random.choice(pool, frames) ^ noise,
        )

    train, others = some(20), some(70)  # more than one block of the others
    for distance, share in ((2, 0.5), (1, 0.25), (0, 1.0)):
        found = match_clips(train, others, distance=distance, share=share)
        seen = {(key, clip): (matching, mirrored) for key, clip, matching, _, mirrored in found}
        expected = brute_force(train, others, distance, share)
        assert expected
        assert {pair: matching for pair, (matching, _) in seen.items()} == {
            pair: matching for pair, (matching, _) in expected.items()
        }


def test_uniform_frames_have_no_hash_and_black_bars_do_not_change_one() -> None:
    assert frame_hashes(np.full((48, 64, 3), 128, np.uint8)) is None
    assert frame_hashes(np.zeros((48, 64, 3), np.uint8)) is None
    picture = scene(1)[0]
    boxed = ImageOps.expand(picture, (30, 10), 0)
    plain, found = frame_hashes(np.asarray(picture)), frame_hashes(np.asarray(boxed))
    assert plain is not None
    assert found is not None
    assert (plain[0] ^ found[0]).bit_count() <= 4
    mirrored = frame_hashes(np.asarray(ImageOps.mirror(picture)))
    assert mirrored is not None
    assert mirrored[0] == plain[1]


def test_sets_are_named_by_as_much_of_their_path_as_keeps_them_apart(tmp_path: Path) -> None:
    train, k400, k600 = tmp_path / "k400" / "train", tmp_path / "k400" / "val", tmp_path / "k600" / "val"
    assert set_names(train, [k400]) == ["val"]
    assert set_names(train, [k400, k600]) == ["k400/val", "k600/val"]
    assert set_names(train, [k400, train]) == ["val", "train"]
    with pytest.raises(ConfigError, match="named twice"):
        set_names(train, [k400, k400])


def test_a_set_against_itself_gives_each_pair_once_and_no_clip_with_itself(sets: tuple[Path, Path]) -> None:
    train, _ = sets
    report = near_duplicates(train, [train])
    pairs = [(pair.against_key, pair.train_key) for pair in report.pairs]
    copies = {f"copies/{name}" for name in CHANGES}
    assert len(pairs) == len(set(pairs)) >= len(copies) - 1
    assert all(earlier < later for earlier, later in pairs), "to exclude the later one of each leaves one"
    assert {key for pair in pairs for key in pair} == copies
    assert report.blank == 1


def die(tar: Path, **options: object) -> None:
    """A stand-in for the work on a shard; in the worker process."""
    os.kill(os.getpid(), signal.SIGSEGV)


def test_a_shard_that_could_not_be_compared_is_named(sets: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    train, val = sets
    monkeypatch.setattr("data_prep.leaks.near_duplicates._compare_shard", die)
    report = near_duplicates(train, [val])
    assert (report.pairs, report.train, report.against) == ((), 0, 5)
    assert [line.partition(":")[0] for line in report.unread] == [f"set-{shard:06d}.tar" for shard in range(3)]
    assert "SIGSEGV" in report.unread[0]

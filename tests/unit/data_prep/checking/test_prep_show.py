"""show says everything that is stored of one sample, and draws its frames."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.checking.show import show
from data_prep.clip import RunOptions, StoreOptions
from data_prep.making.foreign import adopt
from data_prep.making.prepare import prepare
from data_prep.sources.folder import list_folder
from tests.support.shards import write_shards
from tests.support.videos import frame_number, write_video
from umt_ds.data.shards.records import load_index
from umt_ds.errors import DataError


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five clips in two shards; one has blanks and dots in its name."""
    folder = tmp_path_factory.mktemp("show")
    for name in ("a/one", "a/two", "b/three", "b/my clip.v2", "b/four"):
        write_video(folder / "videos" / f"{name}.mp4")
    listing = list_folder(folder / "videos").first_in_order()
    prepare(listing, folder / "set", name="set", store=StoreOptions(4, 32, 90, 3), run=RunOptions(workers=1))
    return folder / "set"


def test_a_sample_is_shown_with_its_place_members_and_json(out: Path) -> None:
    index = load_index(out / "set-000001.tar")
    text = show(out, index.key(0))
    assert f"key     {index.key(0)}\n" in text
    assert "sample 3 of 5" in text
    assert "set-000001.tar: shard 1 of 2, row 0 of 2" in text
    assert "before  (first of its shard)" in text
    assert f"after   {index.key(1)}" in text
    for member in index.members(0):
        assert f"{member.suffix:<12}{member.size:>12,}{member.offset:>16,}" in text
    assert '"source_frames": [1, 4, 7, 10]' in text
    assert '"times_s": [0.1, 0.4, 0.7, 1.0]' in text


def test_of_thousands_of_files_and_numbers_the_first_and_last_are_told(tmp_path: Path) -> None:
    record = json.dumps({"times_s": [number / 4 for number in range(1200)]}).encode()
    files = {f"{number:04d}.jpg": b"x" for number in range(1200)}
    text = show(write_shards(tmp_path, [1], members=lambda _: {**files, "json": record}), "clip-0000")
    assert "… and 1,195 more …" in text
    assert '"times_s": [0.0, 0.25, 0.5, … 1,194 more …, 299.25, 299.5, 299.75]' in text
    assert len(text.splitlines()) < 25


@pytest.mark.parametrize("name", ["b/my%20clip%2Ev2", "b/my clip.v2", "b/my clip.v2.mp4"])
def test_a_key_may_be_given_as_the_path_of_its_video(out: Path, name: str) -> None:
    assert "key     b/my%20clip%2Ev2\n" in show(out, name)


@pytest.mark.parametrize("name", ["my clip", "my clip.jpg", "x\n y"])
def test_a_key_of_others_is_found_as_it_stands_in_the_tar(tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for key in ("my clip", "x\n y"):
            member = tarfile.TarInfo(f"{key}.jpg")
            member.size = 1
            tar.addfile(member, io.BytesIO(b"x"))
    adopt(tmp_path)
    assert show(tmp_path, name).endswith("\n{}")  # it says nothing of itself


def test_an_unknown_key_is_an_error_with_the_nearest_ones(out: Path) -> None:
    with pytest.raises(DataError, match="no sample 'b/tree'") as caught:
        show(out, "b/tree")
    assert "nearest: b/three" in str(caught.value)
    with pytest.raises(DataError, match="no key is like it"):
        show(out, "zzzzzzzz")


def test_frames_are_drawn_in_their_order(out: Path, tmp_path: Path) -> None:
    show(out, "a/one", tmp_path / "one.png")
    strip = np.asarray(Image.open(tmp_path / "one.png"))
    width = strip.shape[1] // 4
    assert [frame_number(strip[60, column * width + width // 2]) for column in range(4)] == [1, 4, 7, 10]
    assert strip[125:, :width].min() < 100  # number and time are written below

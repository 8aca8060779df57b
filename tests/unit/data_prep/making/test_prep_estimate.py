"""The line that says what time and disk a set will take."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.clip import RunOptions, StoreOptions
from data_prep.making import estimate as module
from data_prep.making.estimate import Estimate, estimate
from data_prep.making.prepare import prepare
from data_prep.sources.folder import list_folder
from data_prep.state.plan import open_plan
from tests.support.videos import write_videos

ONE = RunOptions(workers=1)


def test_the_size_is_foretold_from_a_few_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = write_videos(tmp_path / "videos", 12, frames=20)
    store = StoreOptions(frames=8, short_side=48)
    listing = list_folder(videos).first_in_order()
    plan = open_plan(tmp_path / "set", name="set", listing=listing, store=store)
    assert estimate(plan, [0], run=ONE) is None  # so few clips are made at once
    monkeypatch.setattr(module, "CLIPS_WORTH_AN_ESTIMATE", 12)
    monkeypatch.setattr(module, "_SAMPLE", 4)
    found = estimate(plan, [0], run=ONE)
    assert found is not None
    assert (found.clips, found.measured) == (12, 4)
    assert found.seconds_a_clip >= 0.9 * found.core_seconds_a_clip > 0
    summary = prepare(listing, tmp_path / "set", name="set", store=store, run=ONE)
    assert 12 * found.bytes_a_clip == pytest.approx(summary.bytes, rel=0.1)


def test_the_line_says_what_matters_and_warns_of_a_small_disk() -> None:
    found = Estimate(clips=1_000_000, measured=32, seconds_a_clip=0.72, core_seconds_a_clip=0.36, bytes_a_clip=400_000)
    line = found.text(processes=64, free=10**12)
    assert line == (
        "about 3.1 h with 64 processes (100.0 core-hours) and 400.0 GB for 1,000,000 clips (from 32); 1.00 TB free"
    )
    assert found.text(processes=64, free=10**11).endswith("100.0 GB free: WARNING, that is not enough")
    assert "free" not in found.text(processes=64, free=None)  # an object store

"""`umt-data folder --first-seconds`: of a long video the frames that published code counts, a shorter one as it is."""

from __future__ import annotations

import json
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from data_prep.clip import Clip, Sample, StoreOptions
from data_prep.decode import make_sample
from data_prep.sources.before import Before, leave_out
from data_prep.sources.folder import list_folder
from tests.support.umt_data import Umt
from tests.support.videos import pictures_of, shown_number, write_numbered_video, write_video
from umt_ds.data.clips import read_record
from umt_ds.data.shards.manifest import load_manifest
from umt_ds.data.shards.source import ShardSource
from umt_ds.errors import ConfigError

NTSC = Fraction(30000, 1001)


def made(path: Path, first_s: float | None, **store: Any) -> Sample:
    clip = Clip("k", path.name, first_s=first_s)
    sample = make_sample(clip, root=path.parent, media="video", store=StoreOptions(short_side=48, **store))
    assert isinstance(sample, Sample), sample
    return sample


def record(sample: Sample) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(sample.members["json"])
    return found


def published(path: Path, *, first_s: float, count: int) -> list[int]:
    """The frames that UMT shows of a file: its reader, and its rule `middle`, written down once more."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate is not None
        fps, length = float(stream.average_rate), sum(1 for _ in container.decode(stream))
    if length / fps > first_s:
        length = int(first_s * fps)
    edges = np.linspace(0, length, count + 1).astype(int)
    return [int(start + end - 1) // 2 for start, end in pairwise(edges)]


@pytest.mark.parametrize("fps", [25, NTSC, 30])
def test_views_of_the_first_seconds_are_the_frames_that_published_code_shows(
    tmp_path: Path, fps: int | Fraction
) -> None:
    path = write_numbered_video(tmp_path / "v.mp4", range(100), fps=fps)
    sample = made(path, 2.0, views="retrieval:12")
    expected = published(path, first_s=2.0, count=12)
    assert record(sample)["source_frames"] == expected
    assert record(sample)["clip_frames"] == [0, int(2 * fps)]
    assert [shown_number(picture) for picture in pictures_of(sample)] == expected


def test_a_real_video_shows_the_frames_of_published_code(shared: Path) -> None:
    path = shared / "data" / "clips" / "drumming_60s.webm"
    sample = made(path, 30.0, views="retrieval:12")
    assert record(sample)["source_frames"] == published(path, first_s=30.0, count=12)


@pytest.mark.parametrize("store", [{"frames": 4}, {"views": "retrieval:12"}, {"store": "mp4"}, {"store": "npy"}])
def test_a_shorter_video_is_stored_as_it_is(tmp_path: Path, store: dict[str, Any]) -> None:
    path = write_video(tmp_path / "v.mp4", frames=20, fps=10)
    assert made(path, 2.0, **store).members == made(path, None, **store).members
    assert made(path, 1.9, **store).members != made(path, None, **store).members


@pytest.mark.parametrize("store", ["frames", "mp4"])
def test_frames_for_training_are_spread_over_the_first_seconds(tmp_path: Path, store: Any) -> None:
    path = write_video(tmp_path / "v.mp4", frames=40, fps=10)
    found = record(made(path, 1.6, frames=4, store=store))
    assert found["source_frames"] == (list(range(16)) if store == "mp4" else [2, 6, 10, 14])
    assert (found["duration_s"], found["num_frames_total"]) == (1.6, 40)


def test_keys_are_those_of_whole_videos_and_the_set_says_what_it_holds(tmp_path: Path, umt: Umt) -> None:
    for name, frames in {"long": 40, "short": 12}.items():
        write_video(tmp_path / "v" / f"{name}.mp4", frames=frames, fps=10)
    made = umt("folder", tmp_path / "v", tmp_path / "set", "--first-seconds", "2", "--frames", "2", "--workers", "1")
    assert made.code == 0, made.text
    source = ShardSource(tmp_path / "set")
    seconds = {source.key(ref): read_record(source, ref)["duration_s"] for ref in source.refs()}
    assert seconds == {"long": 2.0, "short": 1.2}
    assert load_manifest(tmp_path / "set").options["first_seconds"] == 2
    assert umt("verify", tmp_path / "set").code == 0
    without = umt("folder", tmp_path / "v", tmp_path / "set", "--frames", "2", "--workers", "1")
    assert without.code == 2, "another set is not mixed with it"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--kind", "image"), "--first-seconds is for videos, and --kind image has no seconds"),
        (("--spans", "spans.csv"), "--spans says what the clips are, and so does --first-seconds 30"),
        (("--first-seconds", "0"), "0"),
    ],
)
def test_what_it_says_nothing_of_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, umt: Umt, options: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "v" / "a.mp4")
    Path("spans.csv").write_text("file,start,end\na.mp4,0,1\n")
    found = umt("folder", "v", "out", "--first-seconds", "30", *options)
    assert found.code == 2
    assert said in found.text
    assert not Path("out").exists()
    with pytest.raises(ConfigError):
        list_folder(tmp_path / "v", kind="frames", first_s=30)


def test_limits_of_length_are_of_the_part_that_is_stored(tmp_path: Path) -> None:
    for name, frames in {"long": 40, "short": 12}.items():
        write_video(tmp_path / f"{name}.mp4", frames=frames, fps=10)
    listing = list_folder(tmp_path, first_s=2)
    assert [clip.key for clip in leave_out(listing, Before(max_seconds=2), workers=1).clips] == ["long", "short"]
    assert [clip.key for clip in leave_out(listing, Before(min_seconds=1.5), workers=1).clips] == ["long"]

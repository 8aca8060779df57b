"""Scenes of long videos: cuts where the picture changes, as spans that fit, found once though the command is ended."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from data_prep.clip import RunOptions
from data_prep.sources import scenes
from data_prep.sources.scenes import SceneOptions, scenes_of, write_scenes
from data_prep.sources.spans import list_spans
from tests.support.videos import write_video
from umt_ds.errors import ConfigError, MachineError

COLOURS = ((20, 20, 20), (230, 230, 230), (200, 30, 30))


def film(path: Path, seconds: tuple[float, ...], *, fps: int = 10) -> Path:
    """Scenes of one colour each, so many seconds long."""
    shown = [
        np.full((48, 64, 3), COLOURS[n % 3], np.uint8) for n, s in enumerate(seconds) for _ in range(round(s * fps))
    ]
    return write_video(path, pictures=shown, fps=fps)


def rows(out: Path) -> list[tuple[str, float, float]]:
    with out.open() as file:
        return [(row["file"], float(row["start"]), float(row["end"])) for row in csv.DictReader(file)]


def test_a_scene_begins_with_the_first_frame_of_another_picture(tmp_path: Path) -> None:
    pytest.importorskip("scenedetect")
    film(tmp_path / "a.mp4", (2, 3, 1))
    assert scenes_of("a.mp4", root=tmp_path, options=SceneOptions()) == [(0.0, 2.0), (2.0, 5.0), (5.0, 6.0)]


def test_long_scenes_are_cut_into_equal_parts_and_short_ones_left_out(tmp_path: Path) -> None:
    pytest.importorskip("scenedetect")
    film(tmp_path / "v" / "a.mp4", (5, 1))
    (tmp_path / "v" / "b.mp4").write_bytes(b"no video")
    out = tmp_path / "scenes.csv"
    options = SceneOptions(min_seconds=1.2, max_seconds=2.5)
    found = write_scenes(tmp_path / "v", out, options=options, run=RunOptions(workers=1))
    assert rows(out) == [("a.mp4", 0.0, 2.5), ("a.mp4", 2.5, 5.0)]
    assert (found.videos, found.spans, found.short, found.bad_share) == (1, 2, 1, 0.5)
    assert (tmp_path / "scenes.bad.csv").read_text().splitlines()[1].startswith('b.mp4,,"not a video container')
    assert [clip.span_s for clip in list_spans(tmp_path / "v", spans=out).clips] == [(0, 2.5), (2.5, 5)]
    with pytest.raises(ConfigError, match="is there already"):
        write_scenes(tmp_path / "v", out, options=options, run=RunOptions(workers=1))


def test_without_pyscenedetect_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scenedetect", None)
    with pytest.raises(MachineError, match="PySceneDetect cannot be loaded") as missing:
        write_scenes(tmp_path, tmp_path / "s.csv", options=SceneOptions(), run=RunOptions(workers=1))
    assert "umt_ds[scenes]" in str(missing.value.hint)
    assert not list(tmp_path.iterdir())


def test_the_same_command_goes_on_after_the_videos_that_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scenes, "_check_installed", lambda: None)
    film(tmp_path / "v" / "a.mp4", (1,))
    out, options = tmp_path / "scenes.csv", SceneOptions()
    begun = tmp_path / "scenes.csv.begun"
    header = json.dumps({"threshold": 27.0, "min_seconds": 2.0, "max_seconds": 60.0})
    begun.write_text(f'{header}\n["a.mp4", [[0.0, 7.0]]]\n["b.mp4", [[0')  # killed while it wrote
    write_scenes(tmp_path / "v", out, options=options, run=RunOptions(workers=1))
    assert rows(out) == [("a.mp4", 0.0, 7.0)], "as was found before"
    assert not begun.exists()
    out.unlink()
    begun.write_text(f"{header}\n")
    with pytest.raises(ConfigError, match="begun with other options"):
        write_scenes(tmp_path / "v", out, options=SceneOptions(threshold=20), run=RunOptions(workers=1))
    with pytest.raises(ConfigError, match="less than twice"):
        SceneOptions(min_seconds=5, max_seconds=8)

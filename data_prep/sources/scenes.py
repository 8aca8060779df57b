"""`umt-data scenes`: where long videos are cut, as the list of spans that `umt-data folder --spans` takes.

Our own reader shows every frame to PySceneDetect's ContentDetector, so that a span is in the seconds by which frames
are taken later, and a damaged video is refused for the same reason. The door to scenedetect.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.clip import Refusal, RunOptions
from data_prep.decode import check_readable
from data_prep.engines import WorkerFailure, map_ordered
from data_prep.sources.scan import FoundFiles, scan_videos
from data_prep.sources.spans import SPAN_COLUMNS
from data_prep.state.clips_file import csv_of_refusals
from umt_ds.data.pixels.video import Pixels, Timeline
from umt_ds.data.pixels.video_scan import SeeFrame, scan_frames
from umt_ds.data.shards.fetch import local_copy, reading, why_not
from umt_ds.data.shards.storage import write_whole
from umt_ds.errors import ConfigError, DecodeError, MachineError
from umt_ds.terminal import progress

# Pixels of the short side. PySceneDetect's own `detect` looks at 256 of the width, samples them without antialias, and
# has ffmpeg make colours by tables. To make full-size RGB for that takes three times as long. Where the frames are the
# same, so are the cuts: of 33 clips, all but a noisy one of 176x144 pixels (`data_prep/README.md`, "Long videos").
_SIDE = 128
_DIGITS = 6  # of seconds: a frame is found by its time within a millionth of a second
_SAME_PLACE = 1e-9
_SHORTEST_S = 0.6  # cuts that follow each other sooner are one: the default of the command `scenedetect`

Scenes = list[tuple[float, float]]  # start and end in seconds
Found = dict[str, Scenes | str]  # by video; or why it cannot be read


@dataclass(frozen=True)
class SceneOptions:
    """What makes a scene."""

    threshold: float = 27.0  # ContentDetector's own default: how much hue, saturation and lightness change on average
    min_seconds: float = 2.0  # shorter scenes are left out
    max_seconds: float = 60.0  # longer ones are cut into equal parts

    def __post_init__(self) -> None:
        """Raises ConfigError for lengths that no scene has."""
        if self.max_seconds < 2 * self.min_seconds:
            raise ConfigError(
                f"--max-seconds {self.max_seconds:g} is less than twice --min-seconds {self.min_seconds:g}",
                hint="a scene that is a little too long is cut into two parts, and they must not be too short",
            )


@dataclass(frozen=True)
class FoundScenes:
    """What came of all videos."""

    videos: int  # that were read
    spans: int  # in the csv
    short: int  # scenes that were left out
    refused: tuple[Refusal, ...]  # videos that cannot be read

    @property
    def bad_share(self) -> float:
        """Of the videos."""
        return len(self.refused) / max(1, self.videos + len(self.refused))


def write_scenes(videos: Path, out: Path, *, options: SceneOptions, run: RunOptions) -> FoundScenes:
    """Write the scenes of all videos below `videos` to the csv `out`, in the order of their names.

    What is found of each video is kept beside it (`out` + `.begun`), so that the same command goes on where it was
    ended. Raises ConfigError where `out` is there, or was begun with other options; MachineError without PySceneDetect.
    """
    if out.exists():
        raise ConfigError(f"{out} is there already", hint="delete it to look for scenes again, or name another file")
    _check_installed()
    found = scan_videos(videos)
    begun = _Begun(out.with_name(f"{out.name}.begun"), options)
    to_do = [video for video in found.videos if video not in begun.of]
    work = partial(scenes_of, root=found.folder, options=options)
    results = map_ordered(work, to_do, workers=run.workers, timeout_s=run.timeout_s, memory_gb=run.memory_gb)
    with closing(results), progress(total=len(found.videos), initial=len(begun.of), unit="video", desc="scenes") as bar:
        for video, result in zip(to_do, results, strict=True):
            begun.add(video, result)
            bar.update()
    summary = _summary(found, begun.of, options)
    write_whole(bad_csv(out), csv_of_refusals(summary.refused))
    write_whole(out, _csv(found, begun.of, options))
    begun.path.unlink()
    return summary


def bad_csv(out: Path) -> Path:
    """`scenes.csv` → `scenes.bad.csv`: the videos that cannot be read, and why."""
    return out.with_name(f"{out.stem}.bad.csv")


def scenes_of(video: str, *, root: Path, options: SceneOptions) -> Scenes | str:
    """All scenes of one video, short ones too, or why it cannot be read. For a process that may die."""
    place = root / video
    try:
        with local_copy(place, root=root) as path:
            own_root = root if path == place else path.parent
            try:
                return reading(path, partial(_scenes, path, options), root=own_root)
            except DecodeError:
                check_readable(path, root=own_root)  # before it is believed
                raise
    except DecodeError as error:
        return error.what
    except OSError as error:
        return why_not(error)


def _scenes(path: Path, options: SceneOptions) -> Scenes:
    from scenedetect import ContentDetector, FrameTimecode

    cuts: list[int] = []

    def begin(timeline: Timeline) -> SeeFrame:
        if timeline.rate == 0:
            raise DecodeError("says nothing about the times of its frames, which scenes need")
        rate = Fraction(timeline.count / max(timeline.duration_s, 1e-3)).limit_denominator(1001)
        detector = ContentDetector(options.threshold, min_scene_len=max(1, round(_SHORTEST_S * rate)))
        cuts.clear()

        def see(number: int, frame: Pixels) -> None:
            found = detector.process_frame(FrameTimecode(number, fps=rate), np.ascontiguousarray(frame[..., ::-1]))
            cuts.extend(cut.frame_num for cut in found)

        return see

    timeline = scan_frames(path, begin, short_side=_SIDE)
    edges = [timeline.seconds[0], *(timeline.seconds[cut] for cut in sorted(set(cuts)) if cut), timeline.end_s]
    return [part for scene in pairwise(edges) for part in _parts(scene, options.max_seconds)]


def _parts(scene: tuple[float, float], longest_s: float) -> Iterator[tuple[float, float]]:
    """A scene in equal parts of at most so many seconds."""
    start, end = scene
    count = max(1, math.ceil((end - start) / longest_s - _SAME_PLACE))
    edges = [round(start + (end - start) * part / count, _DIGITS) for part in range(count + 1)]
    yield from pairwise(edges)


class _Begun:
    """What was found until now: a line of options, then a line for each video."""

    def __init__(self, path: Path, options: SceneOptions) -> None:
        self.path, self.of = path, Found()
        header = json.dumps(asdict(options))
        lines = path.read_text().split("\n") if path.exists() else []
        if len(lines) < 2:  # none, or one that was cut off while it was written
            path.write_text(f"{header}\n")
            return
        if lines[0] != header:
            raise ConfigError(
                f"{path} was begun with other options: {lines[0][:200]}",
                hint="give those again to go on, or delete it to begin anew",
            )
        for line in lines[1:-1]:  # the last is empty, or was cut off
            video, scenes = _parsed(line, path)
            self.of[video] = scenes
        write_whole(path, "".join(f"{line}\n" for line in lines[:-1]).encode())

    def add(self, video: str, result: Scenes | str | WorkerFailure) -> None:
        found = result.reason if isinstance(result, WorkerFailure) else result
        with self.path.open("a") as file:
            file.write(json.dumps([video, found]) + "\n")
        self.of[video] = found


def _parsed(line: str, path: Path) -> tuple[str, Scenes | str]:
    try:
        video, found = json.loads(line)
        scenes: Any = found if isinstance(found, str) else [(float(start), float(end)) for start, end in found]
        return str(video), scenes
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path} is damaged: {error}", hint="delete it to begin anew") from error


def _csv(found: FoundFiles, of: Found, options: SceneOptions) -> bytes:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(SPAN_COLUMNS)
    for video in found.videos:
        rows.writerows((video, f"{start:.6f}", f"{end:.6f}") for start, end in _long_enough(of[video], options))
    return text.getvalue().encode()


def _long_enough(scenes: Scenes | str, options: SceneOptions) -> Scenes:
    if isinstance(scenes, str):
        return []
    return [(start, end) for start, end in scenes if end - start >= options.min_seconds - _SAME_PLACE]


def _summary(found: FoundFiles, of: Found, options: SceneOptions) -> FoundScenes:
    scenes = [of[video] for video in found.videos]
    spans = sum(len(_long_enough(one, options)) for one in scenes)
    total = sum(len(one) for one in scenes if not isinstance(one, str))
    refused = [Refusal(video, reason) for video in found.videos if isinstance(reason := of[video], str)]
    return FoundScenes(len(scenes) - len(refused), spans, total - spans, (*refused, *found.unusable))


def _check_installed() -> None:
    try:
        import scenedetect  # noqa: F401  (here, before a thousand workers miss it)
    except ImportError as error:
        raise MachineError(
            f"PySceneDetect cannot be loaded: {error}",
            hint="pip install 'umt_ds[scenes]' (scenedetect-headless, with the OpenCV that needs no window system)",
        ) from error

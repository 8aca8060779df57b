"""`umt bench prep`: how fast umt-data is, against what the same cores do without it.

All ways work on the same files, in turns, so that whatever else the machine does slows each of them alike:

    ffmpeg   decodes and scales every frame, and throws it away: `ffmpeg -threads 1 -i FILE -vf scale=-2:256 -f null -`
    decord   the usual script: VideoReader, get_batch of 32 numbers, Pillow resizes, Pillow saves 32 JPEG
    umt-data `data_prep.making.prepare.prepare`, from folder to finished shards, with all it does besides decoding

Rates are told per second and per core-second (user and system time of all processes): the second is what a corpus
costs, and hardly changes when the machine is shared.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle, groupby, islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from data_prep.clip import Clip, Listing, Outcome, RunOptions, Sample, StoreOptions
from data_prep.decode import evenly_spread, make_sample
from data_prep.engines import map_ordered
from data_prep.making.prepare import build_shards, prepare
from data_prep.sources.folder import list_folder
from data_prep.spool import bytes_on_disk, kept, spool_file, with_member
from data_prep.state.plan import open_plan
from umt_ds.bench.machine import Clock, aligned, spread
from umt_ds.data.pixels.video import Pixels, write_mp4
from umt_ds.environment import temporary_folder
from umt_ds.errors import ConfigError

PACKAGES = ("av", "decord", "pillow", "numpy")  # for the header
SHORT_SIDE, FRAMES, QUALITY = StoreOptions.short_side, StoreOptions.frames, StoreOptions.quality
CORPORA = {"ten million such clips": 10_000_000, "K710's 658,000, if they were such clips": 658_000}
_SIZE, _FPS = (596, 336), 25  # of most of WebVid
# a textured clip costs a second or two to make: more than these are copies
_DIFFERENT_CLIPS = 12


@dataclass(frozen=True)
class Run:
    """What one way did to all clips once."""

    clips: int
    wall_s: float
    core_s: float  # user and system time, all processes
    bytes: int  # written


@dataclass
class Table:
    """The runs of each way, by name, one a round; and why a way was left out."""

    files: int
    runs: dict[str, list[Run]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def text(self) -> str:
        """Medians over the rounds, with the least and the most."""
        columns = ("", "videos/s", "videos/core-s", "x ffmpeg", "x decord", "kB a video")
        rows = [columns, *(self._row(way) for way in self.runs)]
        lines = aligned(rows)
        lines += [f"{way}: skipped, {reason}" for way, reason in self.skipped.items()]
        return "\n".join([*lines, "", *self._costs()])

    def _row(self, way: str) -> tuple[str, ...]:
        runs = self.runs[way]
        size = f"{runs[0].bytes / runs[0].clips / 1e3:,.0f}" if runs[0].bytes else "-"
        return (
            way,
            spread([run.clips / run.wall_s for run in runs]),
            spread([run.clips / run.core_s for run in runs]),
            *(self._ratio(way, other) for other in ("ffmpeg", "decord")),
            size,
        )

    def _ratio(self, way: str, other: str) -> str:
        """Videos per core-second, against the other way's in the same round."""
        if other not in self.runs or other == way:
            return "-"
        pairs = zip(self.runs[way], self.runs[other], strict=True)
        return spread([(mine.clips / mine.core_s) / (its.clips / its.core_s) for mine, its in pairs])

    def _costs(self) -> Iterator[str]:
        runs = next(runs for way, runs in self.runs.items() if way.startswith("umt-data"))
        core_s = median(run.core_s / run.clips for run in runs)
        size = runs[0].bytes / runs[0].clips
        for name, clips in CORPORA.items():
            yield f"{name}: {core_s * clips / 3600:,.0f} core-hours, {size * clips / 1e12:,.2f} TB"


def measure_prep(videos: Path | None, *, clips: int, rounds: int, workers: Sequence[int]) -> Table:
    """Every way over the same `clips` videos, `rounds` times in turns. Without `videos`, clips are made.

    Raises ConfigError where `videos` holds fewer, or one that umt-data refuses: each way would skip others.
    """
    with TemporaryDirectory(dir=temporary_folder()) as name:
        scratch = Path(name)
        listing = _listing(videos, scratch, clips)
        if len(listing.clips) < clips:
            raise ConfigError(f"{videos} holds {len(listing.clips)} videos, not {clips}", hint="ask for fewer: --clips")
        ways: dict[str, Callable[[], Run]] = {"ffmpeg": partial(_by_ffmpeg, listing)}
        table = Table(len(listing.clips))
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as decord_process:
            ways["decord"] = lambda: decord_process.submit(_by_decord, _paths(listing)).result()
            for count in workers:
                ways[f"umt-data, {count} worker{'s' * (count > 1)}"] = partial(_by_umt_data, listing, scratch, count)
            for way, reason in _absent().items():
                table.skipped[way] = reason
                del ways[way]
            for number in range(-1, rounds):  # the first loads programs, libraries and files, and does not count
                for way, run in ways.items():
                    done = run()
                    if number >= 0:
                        table.runs.setdefault(way, []).append(done)
    return table


def _absent() -> dict[str, str]:
    reasons = {}
    if shutil.which("ffmpeg") is None:
        reasons["ffmpeg"] = "no ffmpeg on the PATH"
    try:
        import decord  # noqa: F401
    except ImportError:
        reasons["decord"] = "decord is not installed"
    return reasons


def _listing(videos: Path | None, scratch: Path, clips: int) -> Listing:
    return list_folder(videos or make_clips(scratch / "videos", clips)).first_in_order(clips)


def _paths(listing: Listing) -> list[Path]:
    return [listing.root / clip.source for clip in listing.clips]


def _by_ffmpeg(listing: Listing) -> Run:
    with Clock() as clock:
        for path in _paths(listing):
            command = ["ffmpeg", "-v", "quiet", "-nostdin", "-threads", "1", "-i", str(path)]
            subprocess.run([*command, "-vf", f"scale=-2:{SHORT_SIDE}", "-f", "null", "-"], check=True)
    return Run(len(listing.clips), clock.wall_s, clock.core_s, 0)


def _by_decord(paths: Sequence[Path]) -> Run:
    """The script that everybody has, in a process of its own: decord can crash, and keeps memory."""
    import decord

    size = 0
    with Clock() as clock:
        for path in paths:
            reader = decord.VideoReader(str(path), num_threads=1)
            for frame in reader.get_batch(evenly_spread(len(reader), FRAMES)).asnumpy():
                size += len(_small_jpeg(frame))
    return Run(len(paths), clock.wall_s, clock.core_s, size)


def _small_jpeg(frame: Pixels) -> bytes:
    picture = Image.fromarray(frame)
    scale = min(1.0, SHORT_SIDE / min(picture.size))
    file = io.BytesIO()
    small = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)
    small.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def _by_umt_data(listing: Listing, scratch: Path, workers: int) -> Run:
    with TemporaryDirectory(dir=scratch) as out:
        with Clock() as clock:
            summary = prepare(
                listing, Path(out), name="bench", store=StoreOptions(), run=RunOptions(workers, timeout_s=600)
            )
        if summary.refused:
            first = summary.refused[0]
            raise ConfigError(f"{first.source} is refused: {first.reason}", hint="measure with whole videos only")
        return Run(len(listing.clips), clock.wall_s, clock.core_s, summary.bytes)


@dataclass(frozen=True)
class WriterRate:
    """How fast one process takes what workers have made, and makes shards of it."""

    what: str
    clips: int
    bytes: int  # of the shards
    wall_s: float
    core_s: float  # of the writing process alone

    def text(self) -> str:
        each_s = self.core_s / self.clips
        return (
            f"  {self.what}: {1 / each_s:,.0f} clips/s, {self.bytes / self.core_s / 1e6:,.0f} MB/s "
            f"({each_s * 1e3:.2f} ms of a core each; here, beside its workers, {self.clips / self.wall_s:,.0f} clips/s)"
        )


def measure_writer(clips: int, *, workers: int) -> str:
    """What the one process of `umt-data` that writes shards can take: its workers have the members ready."""
    cases = {
        "videos, 32 JPEG of 22 kB": (clips, 32, 22_000),
        "pictures, 1 JPEG of 30 kB": (clips, 1, 30_000),
        "videos, an array of 11 MB": (max(1, clips // 20), 1, 32 * 256 * 455 * 3),
    }
    rates = [_write_ready(what, *case, workers=workers) for what, case in cases.items()]
    return "\n".join(["what one writer of a set takes, by its own core time:", *(rate.text() for rate in rates)])


def _write_ready(what: str, clips: int, frames: int, size: int, *, workers: int) -> WriterRate:
    listing = Listing(Path("/"), tuple(Clip(f"clip-{n:07d}", f"{n}.mp4") for n in range(clips)))
    with TemporaryDirectory(dir=temporary_folder()) as name:
        plan = open_plan(Path(name), name="bench", listing=listing.first_in_order(), store=StoreOptions())
        work = partial(_ready, frames=frames, size=size)
        wall_s, core_s = time.perf_counter(), time.process_time()
        build_shards(plan, plan.pending(), run=RunOptions(workers), work=work)
        wall_s, core_s = time.perf_counter() - wall_s, time.process_time() - core_s
        written = sum(tar.stat().st_size for tar in plan.out.glob("*.tar"))
        return WriterRate(what, clips, written, wall_s, core_s)


def _ready(clip: Clip, *, frames: int, size: int, spool: Path, **_: object) -> Sample:
    """A sample of so many frames that takes no time to make."""
    content = np.random.default_rng(0).bytes(size)
    members = kept(((f"{number:03d}.jpg", [content]) for number in range(frames)), spool_file(spool, clip.key))
    return Sample(clip.key, with_member(members, "json", b'{"key":"%s"}' % clip.key.encode()))


def measure_long(minutes: float) -> str:
    """What one worker holds of a video of 15 s, and of one of so many minutes, of which it stores every frame."""
    lines = ["memory of one worker, MB resident at most, every frame stored as JPEG:"]
    with TemporaryDirectory(dir=temporary_folder()) as name:
        for seconds in (15.0, 60 * minutes):
            video = Path(name, f"{seconds:g}.mp4")
            again = cycle(list(_moving_textures(0, _SIZE, 2 * _FPS)))
            write_mp4(video, islice(again, int(seconds * _FPS)), fps=_FPS, gop=250, crf=23)
            work = partial(_peak, spool=Path(name))
            started = time.perf_counter()
            (peak,) = map_ordered(work, [video], workers=1, timeout_s=600)
            assert isinstance(peak, tuple), peak
            frames, size, most = peak
            lines.append(
                f"  {seconds:,.0f} s: {most / 1e6:.0f} MB; {frames:,} frames, {size / 1e6:,.0f} MB of JPEG, made in "
                f"{time.perf_counter() - started:.0f} s"
            )
    return "\n".join(lines)


def _peak(video: Path, *, spool: Path) -> tuple[int, int, int]:
    """Make a sample, as a worker of umt-data does: its frames, its bytes, and the most that the process held."""
    clip, store = Clip(video.stem, video.name), StoreOptions(fps=_FPS)
    outcome = make_sample(clip, root=video.parent, media="video", store=store, spool=spool)
    assert isinstance(outcome, Sample), outcome
    status = Path("/proc/self/status").read_text()
    most = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return len(outcome.members) - 1, bytes_on_disk(outcome.members), most * 1024


def measure_memory(videos: Path | None, *, clips: int) -> str:
    """Prepares `clips` clips (again and again the same files) in one worker; says what its processes hold."""
    with TemporaryDirectory(dir=temporary_folder()) as name:
        listing = _listing(videos, Path(name), min(clips, _DIFFERENT_CLIPS))
        work = partial(_weigh, root=listing.root)
        many = islice(cycle(listing.clips), clips)
        held = [one for one in map_ordered(work, many, workers=1, timeout_s=600) if isinstance(one, tuple)]
    lines = [f"memory of one worker over {clips:,} clips, MB resident after so many of its clips:"]
    for number, (_, group) in enumerate(groupby(held, key=lambda one: one[0]), start=1):
        sizes = [size / 1e6 for _, size in group]
        shown = sorted({min(n, len(sizes)) for n in (1, 10, 100, 500, 1000)})
        lines.append(f"  process {number}: " + ", ".join(f"{sizes[n - 1]:.0f} ({n})" for n in shown))
    return "\n".join(lines)


def _weigh(clip: Clip, *, root: Path) -> tuple[int, int]:
    """Make a sample, as a worker of umt-data does; the worker's id and resident bytes."""
    outcome: Outcome = make_sample(clip, root=root, media="video", store=StoreOptions())
    assert isinstance(outcome, Sample), outcome
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return os.getpid(), pages * os.sysconf("SC_PAGE_SIZE")


def make_clips(folder: Path, count: int, *, size: tuple[int, int] = _SIZE, frames: int = 15 * _FPS) -> Path:
    """`count` clips such as WebVid has: 596x336, 15 s at 25 frames a second, a key frame each ten seconds."""
    folder.mkdir()
    for number in range(count):
        path = folder / f"clip-{number:04d}.mp4"
        if number < _DIFFERENT_CLIPS:
            write_mp4(path, _moving_textures(number, size, frames), fps=_FPS, gop=250, crf=23)
        else:
            shutil.copyfile(folder / f"clip-{number % _DIFFERENT_CLIPS:04d}.mp4", path)
    return folder


def _moving_textures(seed: int, size: tuple[int, int], frames: int) -> Iterator[Pixels]:
    """A cloudy background that pans, and a disc of another cloud that crosses it: u8 [H,W,3] each."""
    width, height = size
    random = np.random.default_rng(seed)
    behind, before = (_clouds(random, width + frames, height + frames) for _ in range(2))
    y, x = np.mgrid[:height, :width]
    for t in range(frames):
        disc = (x - width * t / frames) ** 2 + (y - height / 2) ** 2 < (height / 4) ** 2
        frame = behind[t // 2 : t // 2 + height, t : t + width].copy()
        frame[disc] = before[:height, frames - t : frames - t + width][disc]
        yield frame


def _clouds(random: np.random.Generator, width: int, height: int) -> Pixels:
    """Noise that is stronger the coarser it is, as in natural pictures: u8 [H,W,3]."""
    total = np.zeros((height, width, 3))
    for scale in (2, 4, 8, 16, 32, 64):
        noise = random.integers(0, 256, (height // scale + 2, width // scale + 2, 3), dtype=np.uint8)
        smooth = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        total += scale * np.asarray(smooth, dtype=np.float64)
    return np.asarray(total / (2 + 4 + 8 + 16 + 32 + 64)).astype(np.uint8)

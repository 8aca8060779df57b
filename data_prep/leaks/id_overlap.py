"""Clips of one list that stand in another one too: by YouTube id, and by the part of the video.

A list is an official Kinetics csv, or a finished set of shards whose json says youtube_id, time_start and time_end.
Two clips of one video show the same people and place even where their seconds differ: so all of it counts as leaked,
and the seconds are said beside it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from data_prep.checking.samples import ShardClips, each_used_shard
from data_prep.leaks.near_duplicates import is_same_place, set_names
from data_prep.tables.kinetics import LONGEST_S, YOUTUBE_ID, read_kinetics
from umt_ds.data.shards.storage import absolute, kind_of
from umt_ds.errors import DataError, DecodeError

Kind = Literal["id", "time"]  # the same video; the same seconds of it


@dataclass(frozen=True, slots=True)  # slots: a list has up to 650,000
class Span:
    """Seconds `start` to `end` of a YouTube video, and the sample key of this clip."""

    key: str
    youtube_id: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Leak:
    """A clip of the training list that shows a video of another list (or, as a repeat, of its own)."""

    train: Span
    against: Span
    list_name: str

    @property
    def kind(self) -> Kind:
        return "time" if self.train.start < self.against.end and self.against.start < self.train.end else "id"

    @property
    def detail(self) -> str:
        """What they share, in seconds: `overlaps 12-20 s` or `other part (10-20 and 30-40 s)`."""
        ours, theirs = self.train, self.against
        if self.kind == "time":
            return f"overlaps {max(ours.start, theirs.start):g}-{min(ours.end, theirs.end):g} s"
        return f"other part ({ours.start:g}-{ours.end:g} and {theirs.start:g}-{theirs.end:g} s)"

    def row(self) -> tuple[str, ...]:
        """Its row of leaks.csv."""
        ours, theirs = self.train, self.against
        ranges = f"{ours.start:g}-{ours.end:g} s and {theirs.start:g}-{theirs.end:g} s"
        return ours.key, theirs.key, self.list_name, self.kind, f"{ours.youtube_id}: {ranges}"


@dataclass(frozen=True)
class SpanList:
    """The clips of one list. `skipped` rows or samples say no YouTube id or no times: they cannot be compared."""

    name: str
    spans: Sequence[Span]
    skipped: int = 0


# --- comparing


Videos = Mapping[str, Sequence[tuple[str, Span]]]  # clips by YouTube id, each with the name of its list


def by_video(lists: Iterable[SpanList]) -> Videos:
    """The clips of several lists by YouTube id."""
    videos: dict[str, list[tuple[str, Span]]] = {}
    for spans in lists:
        for span in spans.spans:
            videos.setdefault(span.youtube_id, []).append((spans.name, span))
    return videos


def find_leaks(train: Iterable[Span], against: Videos) -> list[Leak]:
    """Each pair of a clip of `train` and a clip of `against` that show one video, sorted."""
    leaks = [Leak(span, other, name) for span in train for name, other in against.get(span.youtube_id, ())]
    return sorted(leaks, key=lambda leak: (leak.train.key, leak.list_name, leak.against.key))


def find_leaks_within(spans: Sequence[Span], name: str) -> list[Leak]:
    """Each pair of two clips of one list that show one video, once, sorted. The one of the later key is `train`: to
    exclude those leaves one clip of each video."""
    videos: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        videos[span.youtube_id].append(span)
    pairs = (
        (later, earlier)
        for same in videos.values()
        for earlier, later in combinations(sorted(same, key=lambda span: span.key), 2)
    )
    leaks = [Leak(later, earlier, name) for later, earlier in pairs]
    return sorted(leaks, key=lambda leak: (leak.train.key, leak.against.key))


def find_repeats(spans: Iterable[Span], name: str) -> list[Leak]:
    """The clips of one list whose video has been there before, each with the earlier one that ends last; sorted."""
    videos: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        videos[span.youtube_id].append(span)
    repeats: list[Leak] = []
    for same in videos.values():
        first, *later = sorted(same, key=lambda span: (span.start, span.end, span.key))
        for span in later:
            repeats.append(Leak(span, first, name))
            first = max(first, span, key=lambda span: span.end)
    return sorted(repeats, key=lambda repeat: (repeat.train.key, repeat.against.key))


@dataclass(frozen=True)
class OverlapReport:
    """What a training list has in common with other lists."""

    train: SpanList
    against: tuple[SpanList, ...]
    leaks: tuple[Leak, ...]
    repeats: tuple[Leak, ...] | None = None  # within the training list, if that was asked

    def keys(self, kind: Kind = "id") -> list[str]:
        """The training clips to leave out, sorted: all of a leaked video, or only those of the same seconds."""
        return sorted({leak.train.key for leak in self.leaks if kind == "id" or leak.kind == "time"})

    def table(self) -> str:
        """Training clips by list: how many share a video, how many of them the same seconds."""
        rows = [
            (other.name, len(other.spans), [leak for leak in self.leaks if leak.list_name == other.name])
            for other in self.against
        ]
        if len(rows) > 1:
            rows.append(("any of them", sum(len(other.spans) for other in self.against), list(self.leaks)))
        width = max(len("against"), *(len(name) for name, _, _ in rows)) if rows else 0
        lines = [f"{self.train.name}: {len(self.train.spans):,} clips"]
        if rows:
            lines.append(f"{'against':<{width}} {'clips':>9} {'same video':>11} {'same seconds':>13}")
        for name, clips, leaks in rows:
            videos = len({leak.train.key for leak in leaks})
            seconds = len({leak.train.key for leak in leaks if leak.kind == "time"})
            lines.append(f"{name:<{width}} {clips:>9,} {videos:>11,} {seconds:>13,}")
        if self.repeats is not None:
            ids = len({repeat.train.youtube_id for repeat in self.repeats})
            same = sum(repeat.kind == "time" for repeat in self.repeats)
            lines.append(f"{ids:,} videos have several clips in {self.train.name}; {same:,} of these overlap")
        lines += [
            f"not compared: {spans.skipped:,} entries of {spans.name} without YouTube id and times"
            for spans in (self.train, *(other for other in self.against if other.spans is not self.train.spans))
            if spans.skipped
        ]
        return "\n".join(lines)


def compare(train: SpanList, against: Sequence[SpanList]) -> OverlapReport:
    """What `train` has in common with each list of `against`, which may be itself, and how it repeats itself. The
    names of the lists of `against` must differ."""
    leaks = find_leaks(train.spans, by_video(other for other in against if other.spans is not train.spans))
    for itself in (other for other in against if other.spans is train.spans):
        leaks += find_leaks_within(itself.spans, itself.name)
    return OverlapReport(train, tuple(against), tuple(leaks), tuple(find_repeats(train.spans, train.name)))


def check_leaks(train: Path, against: Sequence[Path], *, workers: int = 0) -> OverlapReport:
    """`compare` for files: each path is an official csv or the folder of a finished set.

    Raises DataError where one cannot be read, ConfigError where one of `against` is named twice.
    """
    names = set_names(train, against)
    own = read_spans(train, absolute(train).name, workers=workers)
    others = [
        replace(own, name=name) if is_same_place(train, path) else read_spans(path, name, workers=workers)
        for path, name in zip(against, names, strict=True)
    ]
    return compare(own, others)


# --- reading


def read_spans(path: Path, name: str, *, workers: int = 0) -> SpanList:
    """The clips of an official csv, or of a finished set of shards."""
    return spans_of_csv(path, name) if kind_of(path) == "file" else spans_of_set(path, name, workers=workers)


def spans_of_csv(csv: Path, name: str) -> SpanList:
    """The clips of an official csv. Raises DataError as `read_kinetics` does."""
    read = read_kinetics(csv)
    spans = [Span(row.name, row.youtube_id, row.start, row.end) for row in read.rows]
    return SpanList(name, spans, len(read.unusable))


def spans_of_set(folder: Path, name: str, *, workers: int = 0) -> SpanList:
    """The clips of a finished set, or those that the items of a table use, by their json.

    Raises DataError where a shard or json cannot be read.
    """
    spans: list[Span] = []
    skipped = 0
    for shard, read in each_used_shard(_spans_of_shard, folder, desc=name, workers=workers):
        if not isinstance(read, list):
            raise DataError(f"{folder / shard.file} cannot be read: {read.reason}")
        found = [span for span in read if span]
        spans += found
        skipped += len(read) - len(found)
    return SpanList(name, spans, skipped)


def _spans_of_shard(clips: ShardClips) -> list[Span | None]:
    spans = []
    for sample, record in clips.records():
        if isinstance(record, DecodeError):
            raise sample.damaged(record)
        spans.append(_span(sample.key, record))
    return spans


def _span(key: str, record: Mapping[str, Any]) -> Span | None:
    """None where the json does not say which part of which YouTube video it is."""
    video, start, end = (record.get(field) for field in ("youtube_id", "time_start", "time_end"))
    if not isinstance(video, str) or not YOUTUBE_ID.fullmatch(video):
        return None
    times = [time for time in (start, end) if isinstance(time, int | float) and not isinstance(time, bool)]
    if len(times) < 2 or not 0 <= times[0] < times[1] < LONGEST_S:
        return None
    return Span(key, video, *times)

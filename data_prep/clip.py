"""What travels through umt-data: a Listing of Clips; each Clip becomes a Sample or a Refusal."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from umt_ds.errors import DataError, shown

Extra = Mapping[str, str | int | float]
# What a clip is made from: a video (or folder of numbered frames), a picture, a finished sample of another set
SourceMedia = Literal["video", "image", "sample"]
Store = Literal["frames", "npy", "mp4"]


# How Python writes what it has in memory: <_io.BytesIO object at 0x7f9713e8a210>
_ADDRESS = re.compile(r"<[^<>]* at 0x[0-9a-fA-F]+>")


@dataclass(frozen=True, slots=True)  # slots: a corpus has millions
class Clip:
    """One video (or a span of it), one folder of numbered frames, or one picture, to become one sample."""

    key: str
    source: str  # path below the listing's root, with forward slashes; or a cell of a parquet file there
    captions: tuple[str, ...] = ()
    label: int | None = None
    label_name: str | None = None
    span_s: tuple[float, float] | None = None  # where the clip lies, if the file is the whole video
    extra: Extra = field(default_factory=dict)  # more fields of the sample's json
    is_of_whole: bool = False  # the file is the whole video for sure; else one as long as `span_s` is the cut clip
    first_s: float | None = None  # of the file the first seconds are the clip, as `Timeline.first` counts them


class Cell(NamedTuple):
    """A cell of a parquet file, with the bytes of a clip that is no file of its own. As text it is the clip's source.

    >>> str(Cell("data/train-0.parquet", "image", 7)), Cell.parse("data/train-0.parquet#image[7]").row
    ('data/train-0.parquet#image[7]', 7)
    """

    file: str  # path below the listing's root
    column: str
    row: int  # of the file

    def __str__(self) -> str:
        return f"{self.file}#{self.column}[{self.row}]"

    @classmethod
    def parse(cls, source: str) -> Cell | None:
        """The cell that a source names; None where that is the path of a file."""
        named = _CELL.fullmatch(source)
        return None if named is None else cls(named[1], named[2], int(named[3]))


_CELL = re.compile(r"(.+\.(?i:parquet))#(.+)\[(\d+)\]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A clip that became no sample, and why, in words a person understands. `key` is empty where it never had one.

    A reason is one line, and the same wherever and whenever it is given: libraries write line ends and addresses.
    """

    source: str
    reason: str
    key: str = ""

    def __post_init__(self) -> None:
        reason = _ADDRESS.sub("the file", self.reason) if "<" in self.reason else self.reason
        reason = " ".join(reason.split())
        if reason != self.reason:  # else millions of rows share one
            object.__setattr__(self, "reason", reason)


@dataclass(frozen=True)
class Sample:
    """A clip as it will lie in the tar: its members by suffix (`json`, `000.jpg`, …)."""

    key: str
    members: Mapping[str, bytes]


Outcome = Sample | Refusal


@dataclass(frozen=True)
class Listing:
    """The clips of a corpus, and what was found beside them.

    `left_out` are entries known to be no sample before anything is decoded: they go to bad.csv and do not
    count against --max-bad. `about` goes into the manifest's options; `notes` are sentences for the user.
    """

    root: Path
    clips: tuple[Clip, ...]
    media: SourceMedia = "video"
    left_out: tuple[Refusal, ...] = ()
    labels: tuple[str, ...] = ()
    about: Mapping[str, object] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    is_dealt: bool = False  # the clips lie in the order of the shards already: their files want to be read so

    def first_in_order(self, limit: int | None = None) -> Listing:
        """At most `limit` clips, in the order in which they are dealt to shards: by a hash of the key.

        A fixed order makes the shards' bytes independent of who decodes what when; a hashed one makes each
        shard, and the first n clips, a fair sample of the set, also where folders are classes. A listing that
        `is_dealt` keeps its own order.
        Raises DataError where two clips have the same key.
        """
        counts = Counter(clip.key for clip in self.clips)
        repeated = sorted(key for key, count in counts.items() if count > 1)
        if repeated:
            raise self._repeated(repeated)
        if self.is_dealt:
            return replace(self, clips=self.clips[:limit])
        ordered = sorted(self.clips, key=lambda clip: hashlib.sha256(clip.key.encode()).digest())
        return replace(self, clips=tuple(ordered[:limit]))

    def _repeated(self, keys: Sequence[str]) -> DataError:
        files = [clip.source for clip in self.clips if clip.key == keys[0]]
        more = f" and {len(files) - 2:,} more" if len(files) > 2 else ""
        where = " and ".join(shown(file, 120) for file in files[:2]) + more
        if self.media == "sample":
            return DataError(
                f"{len(keys):,} keys belong to several samples; '{shown(keys[0])}' in {where}",
                hint="a set has each key once: leave out one of them, by `umt-data filter SET OUT --exclude LIST`",
            )
        return DataError(
            f"{len(keys):,} sample keys belong to several files; '{shown(keys[0])}' to {where}",
            hint="the key is the path without its suffix: rename or remove one of them, or keep them apart by "
            "`--keys path` (the key is the whole path), where the command has it",
        )


@dataclass(frozen=True)
class StoreOptions:
    """What decides the bytes of the shards."""

    frames: int = 32  # per clip, evenly spread; shorter videos give each of their frames once
    short_side: int = 256  # pixels; smaller videos are never enlarged
    quality: int = 90  # JPEG
    per_shard: int = 512  # clips
    store: Store = "frames"  # JPEGs, one array, or the whole clip as H.264
    fps: float | None = None  # instead of `frames`: so many frames a second, for long videos
    # instead of `frames`: those that evaluation shows, in the one spelling of `umt_ds.data.order.views.views_text`
    views: str | None = None

    def described(self) -> dict[str, Any]:
        """As plan and manifest state them. `views` only where it was asked for: other sets keep their fingerprint."""
        return {name: value for name, value in asdict(self).items() if name != "views" or value is not None}


@dataclass(frozen=True)
class RunOptions:
    """How the work is done; nothing here changes a byte of the shards."""

    workers: int
    timeout_s: float = 60.0  # per clip, or per 1,000 frames of a longer one
    max_bad: float = 0.01  # share of refused clips above which the command fails
    memory_gb: float = 8.0  # that one decoding process may use


@dataclass(frozen=True)
class ExecutionOptions:
    """Where and how the work is done, as asked."""

    engine: str = "local"
    tasks: int = 8
    sbatch: tuple[str, ...] = ()
    logs: Path | None = None
    wait: bool = False
    ray_address: str | None = None

    def unused(self) -> list[str]:
        """The options, as they were given, that mean something to another engine only."""
        given = {name: value for name, value in vars(self).items() if value != getattr(ExecutionOptions(), name)}
        of_others = {name: value for name, value in given.items() if _ENGINE_OF.get(name, self.engine) != self.engine}
        return [one for name, value in of_others.items() for one in as_given(name, value)]


_ENGINE_OF = {"tasks": "slurm", "sbatch": "slurm", "logs": "slurm", "wait": "slurm", "ray_address": "ray"}


def as_given(name: str, value: object) -> list[str]:
    """An option of a command as it was given, with its values."""
    option = f"--{name.replace('_', '-')}"
    values = value if isinstance(value, tuple) else [value]
    return [option if one is True else f"{option} {one}" for one in values]

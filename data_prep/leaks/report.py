"""`umt-data leaks`: what a training list shares with other lists, by video, by seconds, and by what the frames show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from data_prep.leaks.exclusion import how_many, write_keys
from data_prep.leaks.id_overlap import Kind, OverlapReport, check_leaks
from data_prep.leaks.near_duplicates import NearReport, near_duplicates, write_leaks, write_pairs
from umt_ds.data.shards.manifest import MANIFEST, load_manifest
from umt_ds.data.shards.source import ShardSource
from umt_ds.data.shards.storage import kind_of
from umt_ds.errors import ConfigError, DataError, shown, some

_MOST_UNREAD = 8  # that are named


@dataclass(frozen=True)
class LeakReport:
    """What was compared and found. `near` is None where frames were not looked at."""

    train: Path
    against: tuple[Path, ...]
    overlap: OverlapReport
    near: NearReport | None = None

    def near_keys(self) -> list[str]:
        """The training clips that look like others, sorted. A person should look at them: see `near_duplicates.py`."""
        return sorted({pair.train_key for pair in self.near.pairs}) if self.near else []

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found, and nothing was left uncompared because it cannot be read."""
        return not self.overlap.leaks and not (self.near and (self.near.pairs or self.near.unread))

    def table(self) -> str:
        """The result for a terminal."""
        lines = [self.overlap.table()]
        if self.near:
            counts = Counter(pair.against for pair in self.near.pairs)
            found = ", ".join(f"{name} {count:,}" for name, count in counts.most_common()) or "none"
            lines.append(f"near duplicates by their frames: {found}")
            lines.append(
                f"compared {self.near.train:,} clips with {self.near.against:,}; "
                f"{self.near.blank:,} show nothing but plain frames and {len(self.near.unread):,} cannot be read"
            )
            lines += [f"cannot be read: {shown(what, 300)}" for what in self.near.unread[:_MOST_UNREAD]]
            if len(self.near.unread) > _MOST_UNREAD:
                lines.append(f"… and {len(self.near.unread) - _MOST_UNREAD:,} more that cannot be read")
        return "\n".join(lines)


def find_leaks(train: Path, against: Sequence[Path], *, near: dict[str, float] | None, workers: int) -> LeakReport:
    """Compare lists (csv) or finished sets by id and seconds and, if `near` holds its settings, sets by their frames.

    Raises ConfigError where frames are asked of a csv, DataError where a list or set cannot be read or, without frames,
    has nothing that can be compared: that would look as if nothing leaked.
    """
    overlap = check_leaks(train, against, workers=workers)
    if near is None:
        _check_compared(overlap)
        return LeakReport(train, tuple(against), overlap)
    lists = [path for path in (train, *against) if kind_of(path) == "file"]
    if lists:
        raise ConfigError(f"--near looks at frames, and {lists[0]} is a list", hint="name finished sets only")
    found = near_duplicates(
        train, against, frames=int(near["frames"]), distance=int(near["distance"]), share=near["share"], workers=workers
    )
    return LeakReport(train, tuple(against), overlap, found)


def _check_compared(overlap: OverlapReport) -> None:
    for side in ((overlap.train,), overlap.against):
        skipped = sum(spans.skipped for spans in side)
        if skipped and not any(spans.spans for spans in side):
            names = some((spans.name for spans in side), each=200)
            raise DataError(
                f"none of the {skipped:,} clips of {names} says which seconds of which YouTube video it shows",
                hint="--near compares what the frames of finished sets show",
            )


EXCLUDE, EXCLUDE_NEAR, LEAKS, PAIRS = "exclude.txt", "exclude_near.txt", "leaks.csv", "pairs.png"


def write_found(found: LeakReport, out: Path, *, kind: Kind = "id") -> list[str]:
    """Write `out/leaks.csv` (every pair), `out/exclude.txt` (training keys that share a video, or of `kind` "time" its
    seconds) and, where frames were compared, `out/exclude_near.txt` and, if it holds keys, `out/pairs.png`.

    Returns what to do with them, a sentence a line.
    """
    out.mkdir(parents=True, exist_ok=True)
    near = found.near.pairs if found.near else ()
    write_leaks(out / LEAKS, [*(leak.row() for leak in found.overlap.leaks), *(pair.row() for pair in near)])
    shared, alike = (keys_of_items(found.train, keys) for keys in (found.overlap.keys(kind), found.near_keys()))
    write_keys(out / EXCLUDE, shared)
    if found.near:
        write_keys(out / EXCLUDE_NEAR, alike)
        (out / PAIRS).unlink(missing_ok=True)  # of an earlier comparison
    if near:
        write_pairs(out / PAIRS, near, train=found.train, against=found.against)
    return list(_advice(found, out, shared=len(shared), alike=len(alike), kind=kind))


def keys_of_items(train: Path, keys: list[str]) -> list[str]:
    """What names these clips in a list for --exclude: of a table all items over them, sorted."""
    if not keys or not kind_of(train / MANIFEST) or not load_manifest(train).parts:
        return keys
    wanted = set(keys)
    with closing(ShardSource(train, max_open=1)) as source:
        names = (each for shard in range(len(source.counts)) for each in _names_of_items(source, shard))
        return sorted(key for key, clip in names if clip in wanted)


def _names_of_items(source: ShardSource, shard: int) -> Iterator[tuple[str, str]]:
    """Of each item of a shard its key, and that of its sample."""
    samples = source.sample_keys(shard)
    rows = source.rows(shard).tolist()
    return zip(source.keys(shard), (samples[row] for row in rows), strict=True)


def _advice(found: LeakReport, out: Path, *, shared: int, alike: int, kind: Kind) -> Iterator[str]:
    """Which of the lists hold keys, and what to do with those that do."""
    if found.overlap.leaks or alike:
        yield f"see {out}/{LEAKS}"
    if shared:
        yield f"give {out}/{EXCLUDE} ({how_many(shared)}) to --exclude"
    elif found.overlap.leaks:
        yield f"{out}/{EXCLUDE} holds no key: videos are shared, and none of their seconds (--same-seconds)"
    if alike:
        too = ", too" if shared else ""
        yield f"look at {out}/{PAIRS}, then give {out}/{EXCLUDE_NEAR} ({how_many(alike)}) to --exclude{too}"
    if not shared and not alike and not found.overlap.leaks:
        hold_none = f"and {out}/{EXCLUDE_NEAR} hold" if found.near else "holds"
        yield f"nothing is to be left out: {out}/{EXCLUDE} {hold_none} no key"
    if not found.near and (out / EXCLUDE_NEAR).exists():
        yield f"{out}/{EXCLUDE_NEAR} is of an earlier comparison: this one did not look at frames"

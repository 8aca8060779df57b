"""`umt-data leaks`: what a training list shares with other lists, by video, by seconds, and by what the frames show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.near import NearReport, near_duplicates, write_leaks, write_pairs
from data_prep.overlap import Kind, Report, check_leaks
from umt_ds.data.places import kind_of, write_whole
from umt_ds.errors import ConfigError


@dataclass(frozen=True)
class Found:
    """What was compared and found. `near` is None where frames were not looked at."""

    train: Path
    against: tuple[Path, ...]
    overlap: Report
    near: NearReport | None = None

    def near_keys(self) -> list[str]:
        """The training clips that look like others, sorted. A person should look at them: see `near.py`."""
        return sorted({pair.train_key for pair in self.near.pairs}) if self.near else []

    def table(self) -> str:
        """The result for a terminal."""
        lines = [self.overlap.table()]
        if self.near:
            counts = Counter(pair.against for pair in self.near.pairs)
            shown = ", ".join(f"{name} {count:,}" for name, count in counts.most_common()) or "none"
            lines.append(f"near duplicates by their frames: {shown}")
            lines.append(
                f"compared {self.near.train:,} clips with {self.near.against:,}; "
                f"{self.near.blank:,} show nothing but plain frames and {len(self.near.unread):,} cannot be read"
            )
            lines += [f"cannot be read: {what}" for what in self.near.unread[:8]]
        return "\n".join(lines)


def find_leaks(train: Path, against: Sequence[Path], *, near: dict[str, float] | None, workers: int) -> Found:
    """Compare lists (csv) or finished sets by id and seconds and, if `near` holds its settings, sets by their frames.

    Raises ConfigError where frames are asked of a csv, DataError where a list or set cannot be read.
    """
    overlap = check_leaks(train, against, workers=workers)
    if near is None:
        return Found(train, tuple(against), overlap)
    lists = [path for path in (train, *against) if kind_of(path) == "file"]
    if lists:
        raise ConfigError(f"--near looks at frames, and {lists[0]} is a list", hint="name finished sets only")
    found = near_duplicates(
        train, against, frames=int(near["frames"]), distance=int(near["distance"]), share=near["share"], workers=workers
    )
    return Found(train, tuple(against), overlap, found)


def write_found(found: Found, out: Path, *, kind: Kind = "id") -> None:
    """Write `out/leaks.csv` (every pair), `out/exclude.txt` (training keys that share a video, or of `kind` "time" its
    seconds) and, where frames were compared, `out/exclude_near.txt` and `out/pairs.png`.
    """
    out.mkdir(parents=True, exist_ok=True)
    near = found.near.pairs if found.near else ()
    write_leaks(out / "leaks.csv", [*(leak.row() for leak in found.overlap.leaks), *(pair.row() for pair in near)])
    _write_keys(out / "exclude.txt", found.overlap.keys(kind))
    if near:
        _write_keys(out / "exclude_near.txt", found.near_keys())
        write_pairs(out / "pairs.png", near, train=found.train, against=found.against)


def _write_keys(path: Path, keys: Sequence[str]) -> None:
    write_whole(path, "".join(f"{key}\n" for key in keys).encode())

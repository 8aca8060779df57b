"""What img2dataset and video2dataset say of the downloads that a tar was made of: NAME_stats.json beside NAME.tar."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from umt_ds.data.shards.fetch import read_whole
from umt_ds.errors import shown

COUNTS = ("count", "successes", "failed_to_download", "failed_to_resize", "failed_to_subsample")


@dataclass
class Downloads:
    """What img2dataset or video2dataset say of the downloads that the tars came from."""

    totals: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    without_stats: list[str] = field(default_factory=list)
    short: list[str] = field(default_factory=list)

    def add(self, tar: Path, samples: int) -> None:
        """Count what is said of the downloads of one tar, which holds so many samples."""
        stats = _read_stats(tar.with_name(f"{tar.name.removesuffix('.tar')}_stats.json"))
        if stats is None:
            self.without_stats.append(tar.name)
            return
        numbers = {name: n for name, n in stats.items() if name in COUNTS and type(n) is int}
        self.totals.update(numbers)
        reasons = stats.get("status_dict")
        if isinstance(reasons, dict):
            self.reasons.update({str(reason): n for reason, n in reasons.items() if type(n) is int})
        if samples < numbers.get("successes", 0):  # there may be more: a video can be cut into several clips
            self.short.append(f"{tar.name} holds {samples:,} samples of {numbers['successes']:,} that were downloaded")

    def notes(self, folder: Path) -> Iterator[str]:
        """Sentences on how many succeeded, and what is missing in `folder`."""
        if not self.totals:
            return
        kinds = [f"{self.totals[name]:,} {name}" for name in COUNTS[2:] if self.totals[name]]
        yield (
            f"{self.totals['successes']:,} of {self.totals['count']:,} downloads succeeded"
            f"{'; ' if kinds else ''}{', '.join(kinds)}"
        )
        del self.reasons["success"]
        for reason, count in self.reasons.most_common(5):
            yield f"{count:>8,}  {shown(reason, 100)}"
        if self.without_stats:
            yield (
                f"{len(self.without_stats)} tars have no _stats.json ({self.without_stats[0]}): "
                "their download may have been cut off"
            )
        tarless = [s.name for s in folder.glob("*_stats.json") if not _tar_of(s).is_file()]
        if tarless:
            yield f"{len(tarless)} shards have a _stats.json and no tar ({min(tarless)})"
        yield from self.short[:5]
        if len(self.short) > 5:
            yield f"… and {len(self.short) - 5} more tars hold less than was downloaded"


def _read_stats(path: Path) -> dict[str, Any] | None:
    """A _stats.json, None where there is none that can be read: it is only told of, nothing depends on it."""
    try:
        stats = json.loads(read_whole(path))
    except (OSError, ValueError, RecursionError):
        return None
    return stats if isinstance(stats, dict) else None


def _tar_of(stats: Path) -> Path:
    return stats.with_name(f"{stats.name.removesuffix('_stats.json')}.tar")

"""The end of a set: bad.csv, manifest.json, and what became of every clip of its plan."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

from data_prep.clip import Refusal
from data_prep.state.clips_file import csv_of_refusals
from data_prep.state.plan import Plan
from data_prep.state.statistics import STATISTICS
from umt_ds import __version__
from umt_ds.data.pixels.video import versions
from umt_ds.data.shards.manifest import Manifest, SetFile, ShardEntry
from umt_ds.data.shards.node_index import make_index
from umt_ds.data.shards.set_index import INDEX
from umt_ds.data.shards.storage import is_local, publish, remove_half_made, scratch_for, write_whole
from umt_ds.errors import DataError

BAD_CSV = "bad.csv"


@dataclass(frozen=True)
class Summary:
    """What became of every entry of the listing: samples + refused + left_out are all of them."""

    out: Path
    name: str
    samples: int
    shards: int
    bytes: int
    refused: tuple[Refusal, ...]
    left_out: int

    @property
    def bad_share(self) -> float:
        """Refused clips of those that were decoded."""
        return len(self.refused) / max(1, self.samples + len(self.refused))


# Writes the statistics of a set whose shards have these entries into a local folder
StatisticsOf = Callable[[Plan, Mapping[int, ShardEntry], Path], SetFile]


def finish(plan: Plan, *, statistics_of: StatisticsOf) -> Summary:
    """Write bad.csv and the manifest of a set whose shards are all done. Raises DataError where some are not."""
    by_shard, refused = _all_done(plan)
    entries = tuple(by_shard.values())
    left_out = plan.left_out()
    write_whole(plan.out / BAD_CSV, csv_of_refusals([*refused, *left_out]))
    with scratch_for(plan.out, alone=True) as made:
        manifest = Manifest(
            name=plan.name,
            media=_media_of(plan),
            shards=entries,
            labels=plan.labels,
            options=plan.options(),
            tool=tool(),
            index=make_index(made, plan.out, entries),
            statistics=statistics_of(plan, by_shard, made),
            earlier=_earlier(plan, by_shard),
        )
        publish_set(made, plan.out, manifest)
    if is_local(plan.out):
        remove_half_made(plan.state)
        _remove_partial(plan)
    return summary_of(plan)


def publish_set(made: Path, folder: Path, manifest: Manifest) -> None:
    """Move the files of the whole set from the local folder `made` to where it lies, and write its manifest.

    All are made before the first is moved: whoever reads a set that grows finds what was there until then, and the new
    ones from then on, but for the moments in which they are moved.
    """
    for name in (STATISTICS, INDEX):  # large ones take seconds to a store: no run waits for statistics
        publish(made / name, folder / name)
    manifest.save(folder)


def _remove_partial(plan: Plan) -> None:
    """Remove what processes left that were killed while they wrote a small file; a user's own files stay."""
    files = r"manifest\.json|(index|statistics)\.arrow|bad\.csv|stats\.json|.+\.index\.npz"
    ours = re.compile(rf"({files})\..+-\d+\.partial")
    left = [path for path in plan.out.glob("*.partial") if ours.fullmatch(path.name)]
    for path in (*left, *plan.state.rglob("*.partial")):
        if path.parent.name.startswith(".making-"):
            continue  # of somebody who lives, or it would be gone
        path.unlink(missing_ok=True)


def summary_of(plan: Plan) -> Summary:
    """What became of the clips of a plan. Raises DataError where shards are missing."""
    by_shard, refused = _all_done(plan)
    entries = by_shard.values()
    samples, size = sum(entry.samples for entry in entries), sum(entry.bytes for entry in entries)
    return Summary(plan.out, plan.name, samples, len(entries), size, refused, len(plan.left_out()))


def _all_done(plan: Plan) -> tuple[dict[int, ShardEntry], tuple[Refusal, ...]]:
    """The entries of the shards that hold a sample, by shard, and all refusals."""
    records = plan.done(range(plan.num_shards))
    if len(records) < plan.num_shards:
        missing = [shard for shard in range(plan.num_shards) if shard not in records]
        raise DataError(
            f"{len(missing)} of the {plan.num_shards} shards of {plan.out} are not made yet "
            f"({', '.join(map(str, missing[:8]))}{', …' if len(missing) > 8 else ''})",
            hint="give the command that began the set again: it makes what is missing",
        )
    done = {shard: records[shard] for shard in range(plan.num_shards)}
    entries = {shard: record.entry for shard, record in done.items() if record.entry}
    return entries, tuple(refusal for record in done.values() for refusal in record.refused)


def _earlier(plan: Plan, entries: Mapping[int, ShardEntry]) -> tuple[int, ...]:
    """How many shards with a sample the set had each time before clips were added."""
    counts = [sum(shard < end for shard in entries) for end in plan.partition.ends]
    return tuple(count for count, after in pairwise(counts) if 0 < count < after)


def _media_of(plan: Plan) -> str:
    """What a sample holds, in the words of suffixes.media_of."""
    match plan.media:
        case "image":
            return "image"
        case "sample":
            return str(plan.about["media"])
        case "video":
            return "video" if plan.store.store == "mp4" else plan.store.store


def tool() -> str:
    """This program and the libraries that decide pixels and bytes."""
    return f"umt-data {__version__} ({versions()}, pillow {version('pillow')})"

"""What a run asks of a store of shards: counted by the index of its first source there, nothing of which is read."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from itertools import islice

from umt_ds.config.run import RunConfig
from umt_ds.data.clips import members_shown
from umt_ds.data.order.frames import FramePolicy
from umt_ds.data.shards.fetch import together
from umt_ds.data.shards.source import ShardSource
from umt_ds.data.shards.storage import is_local
from umt_ds.data.shards.stream import Tars
from umt_ds.keyed import Stream
from umt_ds.tasks.loader import source_specs

_LOOKED_AT = 64  # clips


@dataclass(frozen=True)
class StoreReads:
    """Of a clip that no cache has, in the mean: bytes that are fetched, bytes of them that are shown, requests."""

    fetched: float
    shown: float
    requests: float

    def text(self, clips_per_s: float, *, max_gap_kb: int) -> str:
        """A line of `umt plan`."""
        return (
            f"{clips_per_s * self.fetched / 1e6:,.0f} MB/s in {clips_per_s * self.requests:,.0f} requests/s from the "
            f"store while no node has a clip in its cache: {self.fetched / self.shown:.1f} times the bytes that are "
            f"shown, {self.requests:.1f} requests a clip (data.cache.max_gap_kb={max_gap_kb})"
        )


def store_reads(config: RunConfig) -> StoreReads | None:
    """None where no indexed shards of the run lie in a store. Raises DataError where they cannot be opened."""
    for spec in source_specs(config):
        if not isinstance(spec.shards, Tars) and not is_local(spec.shards):
            with closing(ShardSource(spec.shards, max_open=1, look=False)) as source:
                return _counted(source, spec.frames, config)
    return None


def _counted(source: ShardSource, frames: FramePolicy, config: RunConfig) -> StoreReads:
    clips = fetched = shown = requests = 0
    for draw, ref in enumerate(islice(source.refs(), _LOOKED_AT)):
        stream = Stream(config.seed, "frames", draw)
        members = members_shown(
            source,
            ref,
            choose=lambda count, stream=stream: frames.choose(count, stream),  # type: ignore[misc]
            with_record=config.task.label_field is not None,
        )
        runs = list(together(((one.offset, one.size) for one in members), max_gap=config.data.cache.max_gap_kb << 10))
        clips, requests = clips + 1, requests + len(runs)
        fetched += sum(end - start for start, end, _ in runs)
        shown += sum(one.size for one in members)
    return StoreReads(fetched / max(1, clips), max(1, shown) / max(1, clips), requests / max(1, clips))

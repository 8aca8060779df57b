"""What an item of a long video costs: eight frames around a second of one of 15 s, and of one of 15 minutes (AVA)."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from data_prep.making.item_table import read_items, write_table
from data_prep.protocols.known import protocol
from tests.support.shards import picture, write_shards
from umt_ds.data.clips import read_clip
from umt_ds.data.shards.manifest import load_manifest
from umt_ds.data.shards.node_index import publish_index
from umt_ds.data.shards.records import Member, SampleRef
from umt_ds.data.shards.source import ShardSource

_FPS = 30
_LEAST_S = 2.0  # of reading, for each line


class _Counted(ShardSource):
    """Counts the bytes that are read."""

    num_read = 0

    def read(self, ref: SampleRef, member: Member) -> bytes:
        self.num_read += member.size
        return super().read(ref, member)


def items_of_long_videos(folder: Path) -> Iterator[str]:
    """Frames are JPEG of 340x256, about 20 kB, as those of films are."""
    yield f"{'':<14}{'frames':>8}{'table, s':>10}   an item without decoding: ms (kB read)"
    yield f"{'':<14}{'':>8}{'':>10}{'its frames':>17}{'and the table':>17}{'and the json':>17}"
    for name, seconds in (("15 s", 15), ("15 minutes", 901)):
        base = _film(folder / f"{seconds}", seconds)
        (folder / "val.csv").write_text(
            "".join(f"film,{second:04d},0.1,0.2,0.3,0.4,12,0\n" for second in range(902, 898 + seconds))
        )
        started = time.perf_counter()
        read = read_items(base, annotations=[folder / "val.csv"], protocol=protocol("ava-val"))
        write_table(read, folder / f"table-{seconds}")
        made_s = time.perf_counter() - started
        source = _Counted(folder / f"table-{seconds}")
        costs = [_cost(source, *asked) for asked in ((False, ()), (True, ("boxes", "actions")), (True, ()))]
        yield f"{name:<14}{seconds * _FPS:>8,}{made_s:>10.1f}" + "".join(f"{cost:>17}" for cost in costs)


def _film(folder: Path, seconds: int) -> Path:
    """A set of one film."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 60, (8, 256, 340, 3), dtype=np.uint8)
    pictures = [picture(one, format="JPEG") for one in noise]
    count = seconds * _FPS
    record = {"times_s": [round(n / _FPS, 3) for n in range(count)], "source_frames": list(range(count))}
    files = {f"{number:03d}.jpg": pictures[number % len(pictures)] for number in range(count)}
    files = dict(sorted({**files, "json": json.dumps(record).encode()}.items()))
    write_shards(folder, [1], members=lambda _: files, key=lambda _: "film")
    manifest = load_manifest(folder)
    replace(manifest, index=publish_index(folder, manifest.shards)).save(folder)
    return folder


def _cost(source: _Counted, with_record: bool, asked: tuple[str, ...]) -> str:
    """Milliseconds and kB of an item, once its video is known."""
    refs = list(source.refs())

    def read(ref: SampleRef) -> None:
        read_clip(source, ref, choose=_middle, with_record=with_record, asked=asked, leave_jpegs=True)

    read(refs[0])
    source.num_read, count, started = 0, 0, time.perf_counter()
    while time.perf_counter() - started < _LEAST_S:
        read(refs[count % len(refs)])
        count += 1
    each_ms = (time.perf_counter() - started) / count * 1e3
    return f"{each_ms:.2f} ({source.num_read / count / 1e3:.0f})"


def _middle(count: int) -> list[int]:
    """Eight frames at a stride of 8 around the middle, as UMT shows them."""
    return [min(max(count // 2 - 29 + 8 * number, 0), count - 1) for number in range(8)]

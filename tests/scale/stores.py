"""Training and preparation from a store whose every answer takes 30 ms: bytes, requests and clips a second.

The store is a folder behind `tests/support/faulty_store.py`, in any number of processes; its files come from the page
cache, so nothing but requests costs time there that costs none on a disk. Clips are 32 JPEG frames of about 15 kB.
"""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from PIL import Image

from data_prep.checking.stats import collect_stats
from data_prep.checking.verify import verify
from data_prep.clip import Clip, Listing, RunOptions, Sample, StoreOptions
from data_prep.decode import make_sample
from data_prep.making.foreign import adopt
from data_prep.making.prepare import build_shards, close_set
from data_prep.sources.sets import Filter, list_sets
from data_prep.state.plan import Plan, open_plan
from tests.support.faulty_store import fault, in_store, requests_in
from tests.support.shards import write_shards
from umt_ds.data.loader import Loader, LoaderPlan, SourceSpec
from umt_ds.data.order.frames import FramePolicy
from umt_ds.data.shards.block_cache import BlockCache
from umt_ds.data.shards.remote import Traffic

LATENCY_S = 0.03
NUM_FRAMES, SHOWN = 32, 8
SHARDS = (100, 100, 100, 100)
STEPS, MICRO, WORKERS = 25, 16, 2  # 400 draws: one pass over 400 clips

GAPS_KB = (0, 16, 32, 48, 64, 96, 256)  # data.cache.max_gap_kb

PLAN = LoaderPlan(seed=1, global_draws=MICRO, micro=MICRO, image_side=224, window=4, num_workers=WORKERS)


@lru_cache
def frames(count: int = NUM_FRAMES) -> tuple[bytes, ...]:
    """JPEG files of 340 x 256 with about as much detail as those of a video."""
    chance = np.random.default_rng(0)
    files = []
    for _ in range(count):
        coarse = Image.fromarray(chance.integers(0, 256, (32, 43, 3), np.uint8)).resize((340, 256))
        noisy = np.asarray(coarse) // 2 + chance.integers(0, 12, (256, 340, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(noisy).save(file, "JPEG", quality=88)
        files.append(file.getvalue())
    return tuple(files)


def clip(number: int, *, count: int = NUM_FRAMES) -> dict[str, bytes]:
    """Its members in the order in which `umt-data` writes them."""
    record = {"label": number % 10, "duration_s": 10.0, "source_width": 340, "source_height": 256}
    return {**{f"{n:03d}.jpg": data for n, data in enumerate(frames(count))}, "json": json.dumps(record).encode()}


def make_store(folder: Path) -> Path:
    """The same folder as one of the store."""
    for path in [path for path in folder.iterdir() if not path.name.startswith(".")]:
        fault(path, f"slow {LATENCY_S}")
    return in_store(folder)


def set_of_clips(folder: Path, *, count: int = NUM_FRAMES) -> Path:
    return write_shards(folder / f"set-{count}", SHARDS, members=partial(clip, count=count))


# ---------------------------------------------------------------- training


def training_from_a_store(folder: Path) -> Iterator[str]:
    """One pass of 400 draws by two workers; sparse frames, 8 of 32."""
    shards = set_of_clips(folder)
    used = bytes_used(shards)
    draws = STEPS * MICRO
    yield f"{draws} draws of {SHOWN} of {NUM_FRAMES} frames, {used / draws / 1e3:,.0f} kB each; {WORKERS} workers"
    yield ""
    yield f"{'':38}{'fetched / used':>16}{'requests a clip':>17}{'clips/s':>9}{'core ms a clip':>16}"
    seconds, core_s, _ = one_pass(shards, None, PLAN)
    yield f"{'from a disk':38}{'':16}{'':17}{draws / seconds:9.0f}{1000 * core_s / draws:16.1f}"
    there = make_store(shards)
    cache = BlockCache(folder / "cache", max_bytes=10**10)
    next_pass = replace(PLAN, seed=2)  # other frames of the same clips
    fewer = make_store(set_of_clips(folder, count=NUM_FRAMES // 2))
    rows: list[tuple[str, Path, LoaderPlan, BlockCache | None]] = [
        ("from a store, nothing cached", there, PLAN, cache),
        ("the same draws again, from the cache", there, PLAN, cache),
        ("other frames of the clips, from there", there, next_pass, cache),
        *((f"without a cache, gaps to {gap} kB", there, replace(PLAN, max_gap=gap << 10), None) for gap in GAPS_KB),
        (f"{NUM_FRAMES // 2} stored frames, gaps to 256 kB", fewer, PLAN, None),
    ]
    for name, place, plan, kept in rows:
        seconds, core_s, traffic = one_pass(place, kept, plan)
        moved = f"{traffic.fetched / used:16.2f}{traffic.requests / draws:17.2f}"
        yield f"{name:38}{moved}{draws / seconds:9.0f}{1000 * core_s / draws:16.1f}"


def one_pass(shards: Path, cache: BlockCache | None, plan: LoaderPlan) -> tuple[float, float, Traffic]:
    """Seconds that STEPS batches take, counted from the end of the first, which starts the workers; seconds of a core,
    which a busy machine does not change; and what was moved. The last two are of these batches and of none made ahead.
    """
    loader = Loader([SourceSpec("clips", shards, FramePolicy("sparse", SHOWN))], plan, label_field="label", cache=cache)
    core = core_seconds()
    list(loader.micro_batches(0))
    begin = time.perf_counter()
    for step in range(1, STEPS):
        list(loader.micro_batches(step))
    seconds, traffic = time.perf_counter() - begin, loader.traffic
    loader.close()
    made = STEPS + WORKERS * PLAN.prefetch  # when the last batch is taken, these are made or being made
    return seconds * STEPS / (STEPS - 1), (core_seconds() - core) * STEPS / made, traffic


def core_seconds() -> float:
    """Of this process and of its workers that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def bytes_used(shards: Path) -> int:
    """The bytes of all members that the pass reads."""
    plan = replace(PLAN, num_workers=0)
    loader = Loader([SourceSpec("clips", shards, FramePolicy("sparse", SHOWN))], plan, label_field="label")
    (source,) = loader.builder.draws.sources
    read, sizes = source.read, list[int]()
    source.read = lambda ref, member: sizes.append(member.size) or read(ref, member)  # type: ignore[assignment,method-assign,arg-type,union-attr]
    for step in range(STEPS):
        list(loader.micro_batches(step))
    loader.close()
    return sum(sizes)


# ---------------------------------------------------------------- preparing


def preparing_from_a_store(folder: Path) -> Iterator[str]:
    """What the commands that read a set fetch of it."""
    shards = set_of_clips(folder)
    held = sum(path.stat().st_size for path in shards.glob("*.tar"))
    samples = sum(SHARDS)
    there = make_store(shards)
    keep = Filter(min_seconds=1)
    work: dict[str, Callable[[], object]] = {
        "stats without statistics.arrow": lambda: collect_stats(there),
        "filter without it: what stays": lambda: list_sets([there], keep=keep, verb="filter"),
        "index": lambda: adopt(there, force=True),
        "verify": lambda: verify(there, workers=WORKERS),
        "stats": lambda: collect_stats(there),  # fetches the file, once a node
        "filter: what stays": lambda: list_sets([there], keep=keep, verb="filter"),
        "filter: copying 100 samples": partial(copy_samples, there, shards),
    }
    yield f"{samples} samples, {held / 1e6:,.0f} MB"
    yield ""
    yield f"{'':32}{'fetched / held':>16}{'requests a sample':>19}{'seconds':>9}"
    for name, do in work.items():
        yield measured(name, do, shards, held)
    made, plan = planned_set(folder)
    held = sum(path.stat().st_size for path in made.glob("*.tar"))
    yield measured("finish", lambda: close_set(plan), made, held)
    for page in (made / ".umt-data" / "statistics").iterdir():
        page.unlink()
    yield measured("finish without what was counted", lambda: close_set(plan), made, held)


def measured(name: str, do: Callable[[], object], folder: Path, held: int) -> str:
    """The line of what a command fetches of the files below `folder`, whose tars have `held` bytes."""
    requests_in(folder)
    begin = time.perf_counter()
    do()
    seconds = time.perf_counter() - begin
    asked = requests_in(folder)
    fetched = sum(one.bytes for one in asked if one.what == "GOT")
    requests = sum(one.what != "GOT" for one in asked)
    return f"{name:32}{fetched / held:16.3f}{requests / sum(SHARDS):19.2f}{seconds:9.1f}"


def planned_set(folder: Path) -> tuple[Path, Plan]:
    """A set in the making whose shards are all there, and its plan as one in the store."""
    out = folder / "made"
    listing = Listing(folder, tuple(Clip(f"clip-{n:04d}", f"{n}.mp4") for n in range(sum(SHARDS)))).first_in_order()
    plan = open_plan(out, name="set", listing=listing, store=StoreOptions(per_shard=SHARDS[0]))
    build_shards(plan, range(plan.num_shards), run=RunOptions(workers=WORKERS), work=made_clip)
    return out, replace(plan, out=make_store(out))


def made_clip(clip_: Clip, **_: object) -> Sample:
    return Sample(clip_.key, clip(int(clip_.key[-4:])))


def copy_samples(there: Path, shards: Path) -> None:
    tar = sorted(path.name for path in shards.glob("*.tar"))[0]
    for row in range(SHARDS[0]):
        make_sample(Clip("k", tar, extra={"row": row}), root=there, media="sample", store=StoreOptions())

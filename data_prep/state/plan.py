"""The plan of a set of shards: which clips become which shard, what of it is done, and who may work on it.

    OUT/NAME-000000.tar, NAME-000000.index.npz, …
    OUT/.umt-data/plan.json         what the set is made of; a later run must agree with it
    OUT/.umt-data/clips.jsonl       every clip of the plan, a line each, in the order of the shards (clips_file.py)
    OUT/.umt-data/left_out.csv      what was known to be no sample before anything was decoded
    OUT/.umt-data/done/000000.json  shard 0 is whole, with what it refused (done.py)
    OUT/.umt-data/lock, …           who works here (claim.py)
    OUT/bad.csv, OUT/manifest.json, OUT/stats.json    when every shard is done (manifest.py)

Shards are a fixed partition of the listing's clips, so nothing in OUT depends on who did what when. A process that
makes some of the shards, on this machine or another, needs nothing but OUT: it reads its own clips only. Clips that are
added later are a further batch, in shards of their own behind those that there are (growth.py).
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from data_prep.clip import Clip, Listing, Refusal, SourceMedia, Store, StoreOptions
from data_prep.state.claim import Claim, claim, one_at_a_time, refuse_beside_jobs
from data_prep.state.clips_file import (
    Partition,
    PlannedClips,
    clips_files,
    csv_of_refusals,
    read_refusals,
    write_clips,
)
from data_prep.state.done import Done, ShardFiles, parse_done, read_done, recover
from data_prep.state.growth import Growth, new_clips
from data_prep.state.writer import check_name
from umt_ds.data.order.views import is_views_text
from umt_ds.data.shards.fetch import read_whole
from umt_ds.data.shards.records import index_path, write_json
from umt_ds.data.shards.storage import (
    absolute,
    as_path,
    has_file,
    kind_of,
    publish,
    read_files,
    scratch_for,
    sizes_in,
)
from umt_ds.errors import ConfigError, DataError, MachineError, shown, some

STATE_FOLDER = ".umt-data"
_RECORD, _COMING = re.compile(r"\d{6,}\.json"), re.compile(r"(\d{6,})\.next\.json")
_PLAN, _LEFT_OUT = "plan.json", "left_out.csv"


@dataclass(frozen=True)
class Plan:
    """Which clips become which shard of the set `name` in `out`."""

    out: Path
    name: str
    root: Path
    media: SourceMedia
    store: StoreOptions
    batches: tuple[int, ...]  # clips: those that the set was begun with, and those that were added each time
    labels: tuple[str, ...]
    about: dict[str, Any] = field(default_factory=dict)
    growth: Growth | None = field(default=None, compare=False)  # how a listing differs from the set begun here before

    @property
    def state(self) -> Path:
        return self.out / STATE_FOLDER

    @property
    def num_clips(self) -> int:
        return sum(self.batches)

    @cached_property
    def partition(self) -> Partition:
        return Partition(self.batches, self.store.per_shard)

    @property
    def num_shards(self) -> int:
        return self.partition.ends[-1]

    def num_clips_of(self, shard: int) -> int:
        """How many clips one shard has; the last of a batch can have fewer."""
        return self.partition.num_clips_of(shard)

    def clips_of(self, shard: int) -> tuple[Clip, ...]:
        """The clips of one shard. Raises DataError where they cannot be read."""
        return self.planned.of_shard(shard)

    @cached_property
    def planned(self) -> PlannedClips:
        """All clips."""
        return PlannedClips(self.state, self.partition)

    def tar(self, shard: int) -> Path:
        return self.out / f"{self.name}-{shard:06d}.tar"

    def files(self, shard: int) -> ShardFiles:
        return ShardFiles(self.tar(shard), self.state / "done" / _record_name(shard))

    def pending(self, shards: Iterable[int] | None = None, *, retry_failed: bool = False) -> list[int]:
        """Those of `shards` (all) that are still to be made; with `retry_failed` also those that refused some clip."""
        shards = range(self.num_shards) if shards is None else list(shards)
        done = self.done(shards)
        return [shard for shard in shards if shard not in done or (retry_failed and done[shard].refused)]

    def num_done(self) -> int:
        """How many shards have their record, at a glance: for a progress bar."""
        return sum(_RECORD.fullmatch(name) is not None for name in sizes_in(self.state / "done"))

    def done(self, shards: Iterable[int]) -> dict[int, Done]:
        """The records of those of `shards` that are finished and whose files are still there."""
        sizes = sizes_in(self.out)
        there = sizes_in(self.state / "done")
        names = {name: shard for shard in shards if (name := _record_name(shard)) in there}
        done: dict[int, Done] = {}
        for name, data in read_files(self.state / "done", names).items():
            shard = names[name]
            record = self._checked(shard, parse_done(data, self.files(shard).record))
            tar, entry = self.tar(shard), record.entry
            if entry is None or (sizes.get(tar.name) == entry.bytes and index_path(tar).name in sizes):
                done[shard] = record
        return done

    def done_now(self, shard: int) -> Done | None:
        """The record of a shard, if it is finished and its files are there."""
        files = self.files(shard)
        record = self._checked(shard, read_done(files.record)) if has_file(files.record) else None
        return record if record and files.is_whole(record) else None

    def _checked(self, shard: int, done: Done) -> Done:
        """Raises DataError for the record of something else."""
        file = done.entry.file if done.entry else self.tar(shard).name
        if file != self.tar(shard).name or done.num_clips != self.num_clips_of(shard):
            raise DataError(
                f"{self.files(shard).record} tells of {done.num_clips} clips in {file}, the plan of "
                f"{self.num_clips_of(shard)} in {self.tar(shard).name}",
                hint="delete it and give the same command again: the shard is made anew",
            )
        return done

    def recover(self) -> None:
        """End, or take back, what a kill cut off while shards were being replaced."""
        for name in sizes_in(self.state / "done"):
            if cut_off := _COMING.fullmatch(name):
                shard = int(cut_off[1])
                with one_at_a_time(self.state, shard):
                    if has_file(self.files(shard).coming):  # else somebody was about to end it himself
                        recover(self.files(shard))

    def options(self) -> dict[str, Any]:
        """The options that decided the bytes, as the manifest states them."""
        store = {"per_shard": self.store.per_shard} if self.media == "sample" else self.store.described()
        return {**self.about, **store}

    def left_out(self) -> list[Refusal]:
        """What was known to be no sample before anything was decoded. Raises DataError where that is damaged."""
        path = self.state / _LEFT_OUT
        try:
            return read_refusals(read_whole(path))
        except (ValueError, csv.Error, FileNotFoundError) as error:  # ValueError: no UTF-8, other columns
            raise DataError(
                f"{path} is damaged: {error}", hint="restore it from a copy, or begin the set again in another folder"
            ) from error


def plan_for(out: Path, *, name: str, listing: Listing, store: StoreOptions) -> tuple[Plan, tuple[Clip, ...]]:
    """The plan by which `listing` becomes the set in `out`, and its clips that no plan there has yet: all of them, or
    those that the set begun there lacks. Nothing is written. `listing` is in order.

    Raises ConfigError if the set there has other options, or clips that the listing has not or says other things of;
    DataError if `out` holds other shards.
    """
    _check_new(out, name)
    new = listing.clips
    root, about = absolute(listing.root), dict(listing.about)
    plan = Plan(out, name, root, listing.media, store, (len(new),), listing.labels, about)
    if not kind_of(plan.state / _PLAN):  # an error of a store must not pass for "no": the plan would be written anew
        return plan, new
    before = load_plan(out)
    _check_same(_describe(before), json.loads(json.dumps(_describe(plan))), out)  # as it reads back
    new = new_clips(before.planned, listing, out)
    batches = (*before.batches, len(new)) if new else before.batches
    growth = Growth(len(new), before.num_clips, (len(before.left_out()), len(listing.left_out)))
    return replace(plan, batches=batches, growth=growth), new


def open_plan(out: Path, *, name: str, listing: Listing, store: StoreOptions) -> Plan:
    """Begin the set in `out`, or continue the one begun there, with what `listing` (in order) has besides.

    Raises what `plan_for` raises.
    """
    plan, new = plan_for(out, name=name, listing=listing, store=store)
    batch = len(plan.batches) - 1
    (plan.state / "done").mkdir(parents=True, exist_ok=True)
    with scratch_for(plan.state) as scratch:
        (scratch / _LEFT_OUT).write_bytes(csv_of_refusals(listing.left_out))
        publish(scratch / _LEFT_OUT, plan.state / _LEFT_OUT)
        if new or plan.growth is None:
            write_clips(scratch, new, store.per_shard, batch=batch)
            for file in clips_files(batch):
                publish(scratch / file, plan.state / file)
    write_json(plan.state / _PLAN, _describe(plan))  # also when continued: the videos may lie elsewhere now
    return plan


@contextmanager
def begin(
    out: Path, *, name: str, listing: Listing, store: StoreOptions, retry_failed: bool = False
) -> Iterator[tuple[Plan, Claim]]:
    """`open_plan` for a command that works in `out` alone.

    Before anything is written, no other command works there or waits in a queue to. What a kill cut off is recovered.

    Raises what `open_plan`, `claim` and `refuse_beside_jobs` raise.
    """
    _check_new(out, name)
    _refuse_beside_jobs(out, retry_failed=retry_failed)  # here too, as it says more than the lock that a task holds
    with claim(out / STATE_FOLDER, alone=True) as held:
        _refuse_beside_jobs(out, retry_failed=retry_failed)
        plan = open_plan(out, name=name, listing=listing, store=store)
        plan.recover()
        yield plan, held


@contextmanager
def go_on(out: Path, *, alone: bool) -> Iterator[Plan]:
    """`load_plan` for a command that works in `out`: alone, or beside others that make parts of the set."""
    load_plan(out)  # a folder without a set stays as it is
    if alone:
        _refuse_beside_jobs(out)
    with claim(out / STATE_FOLDER, alone=alone):
        if alone:
            _refuse_beside_jobs(out)
        plan = load_plan(out)
        plan.recover()
        yield plan


def _refuse_beside_jobs(out: Path, *, retry_failed: bool = False) -> None:
    """`refuse_beside_jobs`; but where Slurm does not say, only a set of which something is to be made: one that is
    whole may have been copied to where there is no Slurm."""
    try:
        refuse_beside_jobs(out / STATE_FOLDER)
    except MachineError:
        if load_plan(out).pending(retry_failed=retry_failed):
            raise


def load_plan(out: Path) -> Plan:
    """The plan of the set begun in `out`. Raises DataError where there is none, or it cannot be read."""
    path = out / STATE_FOLDER / _PLAN
    if kind_of(path) is None:
        raise DataError(f"no set was begun in {out}", hint="begin it with a command such as `umt-data folder`")
    record = _read_plan(path)
    store, labels = StoreOptions(**record["store_options"]), tuple(record["labels"])
    root = as_path(record["root"])
    batches = tuple(record.get("batches", (record["clips"],)))
    return Plan(out, record["name"], root, record["media"], store, batches, labels, record["about"])


def _check_new(out: Path, name: str) -> None:
    """Raises ConfigError for a name that makes no good file names, DataError for a folder with shards of others."""
    if kind_of(out / STATE_FOLDER / _PLAN):
        return
    check_name(name)
    if out.is_dir() and (foreign := sorted(tar.name for tar in out.glob("*.tar"))):
        raise DataError(
            f"{out} already holds shards that this command did not write ({foreign[0]}, …)",
            hint=f"choose an empty folder; clips can be added to a set as long as its folder {STATE_FOLDER} is there; "
            "`umt-data merge` makes one set of several",
        )


def _describe(plan: Plan) -> dict[str, Any]:
    return {
        "name": plan.name,
        "root": str(plan.root),
        "media": plan.media,
        "store_options": plan.store.described(),
        "clips": plan.num_clips,
        **({"batches": plan.batches} if len(plan.batches) > 1 else {}),
        "labels": list(plan.labels),
        "about": plan.about,
    }


def _record_name(shard: int) -> str:
    return f"{shard:06d}.json"


def _read_plan(path: Path) -> dict[str, Any]:
    try:
        record: Any = json.loads(read_whole(path))
        if not isinstance(record, dict) or not {"store_options", "about"} <= record.keys():
            raise ValueError("it is no plan of a set")
        _check_types(record)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DataError(
            f"{path} is damaged: {type(error).__name__}: {error}",
            hint="restore it from a copy, or begin the set again in another folder",
        ) from error
    return record


def _check_types(plan: dict[str, Any]) -> None:
    """Raises ValueError, TypeError or KeyError where a plan is not what `_describe` writes."""
    store, labels, about = StoreOptions(**plan["store_options"]), plan["labels"], plan["about"]
    texts = [plan["name"], plan["root"], *labels]
    counts = [store.per_shard, store.frames, store.short_side, store.quality]
    if not all(isinstance(text, str) for text in texts) or not all(type(n) is int and n > 0 for n in counts):
        raise ValueError("a text or a number is none")
    if type(plan["clips"]) is not int or plan["clips"] < 0:
        raise ValueError(f"it has {plan['clips']!r:.50} clips")
    batches = plan.get("batches", [plan["clips"]])
    if not isinstance(batches, list) or not batches or not all(type(n) is int and n >= 0 for n in batches):
        raise ValueError(f"its batches of clips are {batches!r:.50}")
    if sum(batches) != plan["clips"]:
        raise ValueError(f"it has {plan['clips']} clips, and {sum(batches)} in batches")
    if Path(plan["name"]).name != plan["name"] or not isinstance(labels, list) or not isinstance(about, dict):
        raise ValueError("its name, labels or options are none")
    if store.fps is not None and not (type(store.fps) in (int, float) and 0 < store.fps < math.inf):
        raise ValueError(f"it has {store.fps!r:.50} frames a second")
    if store.views is not None and not is_views_text(store.views):
        raise ValueError(f"it has the views {store.views!r:.50}")
    if plan["media"] not in get_args(SourceMedia) or store.store not in get_args(Store):
        raise ValueError(f"it knows no media {plan['media']!r:.50} as {store.store!r:.50}")


def _check_same(before: dict[str, Any], now: dict[str, Any], out: Path) -> None:
    """Raises ConfigError for other options. `root` may differ: the videos were moved; and clips may be added."""
    was, is_now = _flat(before), _flat(now)
    names = (was.keys() | is_now.keys()) - {"root", "clips", "batches", "labels"}
    changed = [name for name in sorted(names) if was.get(name) != is_now.get(name)]
    details = [f"{name} {shown(repr(was.get(name)))} → {shown(repr(is_now.get(name)))}" for name in changed]
    hint = "give the earlier options to continue, or choose another folder (or delete this one)"
    if was["labels"] != is_now["labels"]:
        details.append(f"list of classes ({len(was['labels']):,} → {len(is_now['labels']):,} names)")
        hint += "; a set to which clips of new classes will be added needs the list of all (--classes) from the start"
    if details:
        raise ConfigError(f"{out} was begun with another {some(details, each=200)}", hint=hint)


def _flat(described: dict[str, Any]) -> dict[str, Any]:
    """The options of the store and of the listing beside the others."""
    outer = {name: value for name, value in described.items() if name not in ("store_options", "about")}
    return {**outer, **described.get("store_options", {}), **described.get("about", {})}

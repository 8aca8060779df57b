"""A set of shards in its folder: the plan it follows, what of it is done, and the manifest that ends it.

    OUT/NAME-000000.tar, NAME-000000.index.npz, …
    OUT/.umt-data/plan.json         what the set is made of; a later run must agree with it
    OUT/.umt-data/clips.jsonl       every clip of the plan, a line each, in the order of the shards
    OUT/.umt-data/done/000000.json  written last: shard 0 is whole, with what it refused
    OUT/bad.csv, OUT/manifest.json, OUT/stats.json    when every shard is done

Shards are a fixed partition of the listing's clips, so nothing in OUT depends on who did what when. A process that
makes some of the shards, on this machine or another, needs nothing but OUT: it reads its own clips only.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.clip import Clip, Listing, Refusal, SourceMedia, StoreOptions
from umt_ds import __version__
from umt_ds.data.fetch import read_part, read_whole
from umt_ds.data.places import (
    absolute,
    is_local,
    kind_of,
    place,
    publish,
    read_files,
    scratch_for,
    sizes_in,
    write_whole,
)
from umt_ds.data.records import Manifest, ShardEntry, index_path, write_json
from umt_ds.data.video import versions
from umt_ds.errors import ConfigError, DataError, shown, some

STATE_FOLDER = ".umt-data"
BAD_CSV = "bad.csv"
_PLAN, _CLIPS, _STARTS, _LEFT_OUT = "plan.json", "clips.jsonl", "clips.starts.npy", "left_out.csv"


@dataclass(frozen=True)
class Done:
    """The record of a finished shard: its manifest entry (None if no clip was good) and its refusals."""

    entry: ShardEntry | None
    refused: tuple[Refusal, ...]


@dataclass(frozen=True)
class Plan:
    """Which clips become which shard of the set `name` in `out`."""

    out: Path
    name: str
    root: Path
    media: SourceMedia
    store: StoreOptions
    num_clips: int
    labels: tuple[str, ...]
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def state(self) -> Path:
        return self.out / STATE_FOLDER

    @property
    def num_shards(self) -> int:
        return -(-self.num_clips // self.store.per_shard)

    def num_clips_of(self, shard: int) -> int:
        """How many clips one shard has; the last can have fewer."""
        return min(self.store.per_shard, self.num_clips - shard * self.store.per_shard)

    def clips_of(self, shard: int) -> tuple[Clip, ...]:
        """The clips of one shard."""
        start, end = int(self._starts[shard]), int(self._starts[shard + 1])
        lines = read_part(self.state / _CLIPS, start, end - start).splitlines()
        return tuple(_clip_of(line) for line in lines)

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """[num_shards + 1] Where the clips of each shard begin in clips.jsonl, in bytes."""
        data = read_whole(self.state / _STARTS)
        return np.asarray(np.load(io.BytesIO(data), allow_pickle=False), dtype=np.int64)

    def tar(self, shard: int) -> Path:
        return self.out / f"{self.name}-{shard:06d}.tar"

    def pending(self, shards: Iterable[int] | None = None, *, retry_failed: bool = False) -> list[int]:
        """Those of `shards` (all) that are still to be made; with `retry_failed` also those that refused some clip."""
        shards = range(self.num_shards) if shards is None else list(shards)
        done = self.done(shards)
        return [shard for shard in shards if shard not in done or (retry_failed and done[shard].refused)]

    def num_done(self) -> int:
        """How many shards have their record, at a glance: for a progress bar."""
        return len(sizes_in(self.state / "done"))

    def done(self, shards: Iterable[int]) -> dict[int, Done]:
        """The records of those of `shards` that are finished and whose files are still there."""
        sizes = sizes_in(self.out)
        there = sizes_in(self.state / "done")
        names = {name: shard for shard in shards if (name := _record_name(shard)) in there}
        done: dict[int, Done] = {}
        for name, data in read_files(self.state / "done", names).items():
            record = _parse_state(self.state / "done" / name, data)
            entry = ShardEntry(**record["entry"]) if record["entry"] else None
            tar = self.tar(names[name])
            if entry is None or (sizes.get(tar.name) == entry.bytes and index_path(tar).name in sizes):
                done[names[name]] = Done(entry, tuple(Refusal(*refusal) for refusal in record["refused"]))
        return done

    def mark_done(self, shard: int, done: Done) -> None:
        """Write the record that makes `shard` count as finished."""
        entry = asdict(done.entry) if done.entry else None
        refused = [[refusal.source, refusal.reason, refusal.key] for refusal in done.refused]
        write_json(self.state / "done" / _record_name(shard), {"entry": entry, "refused": refused})

    def options(self) -> dict[str, Any]:
        """The options that decided the bytes, as the manifest states them."""
        store = {"per_shard": self.store.per_shard} if self.media == "sample" else asdict(self.store)
        return {**self.about, **store}


def open_plan(out: Path, *, name: str, listing: Listing, store: StoreOptions) -> Plan:
    """Begin the set in `out`, or continue the one begun there. `listing` is in order.

    Raises ConfigError if that one had other options or other clips, DataError if `out` holds other shards.
    """
    if Path(name).name != name:
        raise ConfigError(f"--name {name!r} is no file name", hint="letters, digits, - and _ are safe")
    plan = Plan(
        out, name, absolute(listing.root), listing.media, store, len(listing.clips), listing.labels, dict(listing.about)
    )
    begun = plan.state / _PLAN
    is_new = kind_of(begun) is None  # an error of a store must not pass for "no": the plan would be written anew
    if is_new and out.is_dir() and (foreign := sorted(tar.name for tar in out.glob("*.tar"))):
        raise DataError(
            f"{out} already holds shards that this command did not write ({foreign[0]}, …)",
            hint="choose an empty folder",
        )
    (plan.state / "done").mkdir(parents=True, exist_ok=True)
    with scratch_for(plan.state) as scratch:
        content = _write_clips(scratch, listing, store.per_shard)
        described = json.loads(json.dumps({**_describe(plan), "content": content}))  # as it reads back
        if not is_new:
            _check_same(_read_state(begun), described, out)
        else:
            for file in (_LEFT_OUT, _CLIPS, _STARTS):
                publish(scratch / file, plan.state / file)
    write_json(begun, described)  # also when continued: the videos may lie elsewhere now
    return plan


def load_plan(out: Path) -> Plan:
    """The plan of the set begun in `out`. Raises DataError where there is none, or it cannot be read."""
    path = out / STATE_FOLDER / _PLAN
    if kind_of(path) is None:
        raise DataError(f"no set was begun in {out}", hint="begin it with a command such as `umt-data folder`")
    record = _read_state(path)
    try:
        store = StoreOptions(**record["store_options"])
        labels, about = tuple(record["labels"]), dict(record["about"])
        return Plan(out, record["name"], place(record["root"]), record["media"], store, record["clips"], labels, about)
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged: {error}", hint="give the command that began the set again") from error


def _describe(plan: Plan) -> dict[str, Any]:
    return {
        "name": plan.name,
        "root": str(plan.root),
        "media": plan.media,
        "store_options": asdict(plan.store),
        "clips": plan.num_clips,
        "labels": list(plan.labels),
        "about": plan.about,
    }


def _write_clips(folder: Path, listing: Listing, per_shard: int) -> str:
    """clips.jsonl, where its shards start, and left_out.csv, into `folder`; the sha256 of the first and last."""
    content = hashlib.sha256()
    starts = [0]
    with (folder / _CLIPS).open("wb") as file:
        for number, clip in enumerate(listing.clips, start=1):
            line = _line_of(clip)
            content.update(line)
            file.write(line)
            if number % per_shard == 0 or number == len(listing.clips):
                starts.append(file.tell())
    np.save(folder / _STARTS, np.array(starts, dtype=np.int64))
    left_out = _csv_of(listing.left_out)
    content.update(left_out)
    (folder / _LEFT_OUT).write_bytes(left_out)
    return content.hexdigest()


def _line_of(clip: Clip) -> bytes:
    fields = [
        *(clip.key, clip.source, clip.captions, clip.label, clip.label_name),
        *(clip.span_s, dict(clip.extra) if clip.extra else None),
    ]
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _clip_of(line: bytes) -> Clip:
    key, source, captions, label, label_name, span_s, extra = json.loads(line)
    return Clip(key, source, tuple(captions), label, label_name, tuple(span_s) if span_s else None, extra or {})


def _record_name(shard: int) -> str:
    return f"{shard:06d}.json"


def _read_state(path: Path) -> dict[str, Any]:
    return _parse_state(path, read_whole(path))


def _parse_state(path: Path, data: bytes) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(data)
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}", hint="delete it and give the same command again") from error
    return record


def _check_same(before: dict[str, Any], now: dict[str, Any], out: Path) -> None:
    """`root` may differ: the videos were moved. What lies there decides, and that is `content`."""
    was, is_now = _flat(before), _flat(now)
    names = (was.keys() | is_now.keys()) - {"root"}
    changed = [name for name in sorted(names) if was.get(name) != is_now.get(name)]
    if not changed:
        return
    named = [name for name in changed if name not in ("content", "labels")]
    details = [f"{name} {shown(repr(was.get(name)))} → {shown(repr(is_now.get(name)))}" for name in named]
    raise ConfigError(
        f"{out} was begun with another {some(details, each=200) or 'list of clips, captions or labels'}",
        hint="give the earlier options to continue, or choose another folder (or delete this one)",
    )


def _flat(described: dict[str, Any]) -> dict[str, Any]:
    """The options of the store and of the listing beside the others."""
    outer = {name: value for name, value in described.items() if name not in ("store_options", "about")}
    return {**outer, **described.get("store_options", {}), **described.get("about", {})}


@contextmanager
def only_one_run(out: Path) -> Iterator[None]:
    """Refuse to work in a folder where another run is working; the lock ends with its process.

    What a killed run left half-made is removed. An object store knows no locks: there two runs would do the same
    work twice and publish the same bytes.
    """
    if not is_local(out):
        yield
        return
    with (out / STATE_FOLDER / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"another umt-data is working in {out}", hint="wait for it, or stop it") from error
        _remove_half_made(out)
        yield


def _remove_half_made(out: Path) -> None:
    for left_over in (out / STATE_FOLDER).glob(".making-*"):
        shutil.rmtree(left_over, ignore_errors=True)


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


def finish(plan: Plan) -> Summary:
    """Write bad.csv and the manifest of a set whose shards are all done. Raises DataError where some are not."""
    entries, refused = _all_done(plan)
    left_out = _left_out(plan)
    write_whole(plan.out / BAD_CSV, _csv_of([*refused, *left_out]))
    Manifest(
        name=plan.name,
        media=_media_of(plan),
        shards=entries,
        labels=plan.labels,
        options=plan.options(),
        tool=tool(),
    ).save(plan.out)
    if is_local(plan.out):
        _remove_half_made(plan.out)
        for folder in (plan.out, plan.state / "done"):
            for left_over in folder.glob("*.partial"):  # of a process that was killed while it wrote a small file
                left_over.unlink(missing_ok=True)
    return summary_of(plan)


def summary_of(plan: Plan) -> Summary:
    """What became of the clips of a plan. Raises DataError where shards are missing."""
    entries, refused = _all_done(plan)
    samples, size = sum(entry.samples for entry in entries), sum(entry.bytes for entry in entries)
    return Summary(plan.out, plan.name, samples, len(entries), size, refused, len(_left_out(plan)))


def _all_done(plan: Plan) -> tuple[tuple[ShardEntry, ...], tuple[Refusal, ...]]:
    records = plan.done(range(plan.num_shards))
    if len(records) < plan.num_shards:
        missing = [shard for shard in range(plan.num_shards) if shard not in records]
        raise DataError(
            f"{len(missing)} of the {plan.num_shards} shards of {plan.out} are not made yet "
            f"({', '.join(map(str, missing[:8]))}{', …' if len(missing) > 8 else ''})",
            hint="give the command that began the set again: it makes what is missing",
        )
    done = [records[shard] for shard in range(plan.num_shards)]
    entries = tuple(record.entry for record in done if record.entry)
    refused = tuple(refusal for record in done for refusal in record.refused)
    assert sum(entry.samples for entry in entries) + len(refused) == plan.num_clips, "a clip was lost"
    return entries, refused


def _left_out(plan: Plan) -> list[Refusal]:
    text = read_whole(plan.state / _LEFT_OUT).decode()
    return [Refusal(source, reason, key) for source, key, reason in list(csv.reader(io.StringIO(text)))[1:]]


def _media_of(plan: Plan) -> str:
    """What a sample holds, in the words of records.media_of."""
    match plan.media:
        case "image":
            return "image"
        case "sample":
            return str(plan.about["media"])
        case "video":
            return "video" if plan.store.store == "mp4" else plan.store.store


def _csv_of(refusals: Iterable[Refusal]) -> bytes:
    """file,key,reason, sorted by file."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["file", "key", "reason"])
    rows.writerows(sorted((refusal.source, refusal.key, refusal.reason) for refusal in refusals))
    return text.getvalue().encode(errors="backslashreplace")


def tool() -> str:
    """This program and the libraries that decide pixels and bytes."""
    return f"umt-data {__version__} ({versions()}, pillow {version('pillow')})"

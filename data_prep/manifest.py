"""A set of shards on disk: the plan it follows, what of it is done, and the manifest that ends it.

    OUT/NAME-000000.tar, NAME-000000.index.npz, …
    OUT/.umt-data/plan.json      what the set is made of; a later run must agree with it
    OUT/.umt-data/000000.json    written last: shard 0 is whole, with what it refused
    OUT/bad.csv, OUT/manifest.json, OUT/stats.json    when every shard is done

Shards are a fixed partition of the listing's clips, so nothing on disk depends on who did what when.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data_prep.clip import Clip, Listing, Refusal, StoreOptions
from umt_ds import __version__
from umt_ds.data.records import Manifest, ShardEntry, index_path, write_json
from umt_ds.data.video import versions
from umt_ds.errors import ConfigError, DataError

STATE_FOLDER = ".umt-data"
BAD_CSV = "bad.csv"


@dataclass(frozen=True)
class Done:
    """The record of a finished shard: its manifest entry (None if no clip was good) and its refusals."""

    entry: ShardEntry | None
    refused: tuple[Refusal, ...]


@dataclass(frozen=True)
class Plan:
    """Which clips become which shard of the set `name` in `out`. `listing` is in order."""

    out: Path
    name: str
    listing: Listing
    store: StoreOptions

    @property
    def num_shards(self) -> int:
        return -(-len(self.listing.clips) // self.store.per_shard)

    def clips_of(self, shard: int) -> tuple[Clip, ...]:
        """The clips of one shard; the last shard can have fewer."""
        first = shard * self.store.per_shard
        return self.listing.clips[first : first + self.store.per_shard]

    def tar(self, shard: int) -> Path:
        return self.out / f"{self.name}-{shard:06d}.tar"

    def pending(self) -> list[int]:
        """The shards still to be made."""
        return [shard for shard in range(self.num_shards) if self.done(shard) is None]

    def done(self, shard: int) -> Done | None:
        """The record of `shard`, if it is finished and its files are still there."""
        path = self._done_path(shard)
        if not path.is_file():
            return None
        record = _read_state(path)
        entry = ShardEntry(**record["entry"]) if record["entry"] else None
        if entry and not self._is_there(shard, entry):
            return None
        return Done(entry, tuple(Refusal(source, reason) for source, reason in record["refused"]))

    def mark_done(self, shard: int, done: Done) -> None:
        """Write the record that makes `shard` count as finished."""
        entry = asdict(done.entry) if done.entry else None
        refused = [[refusal.source, refusal.reason] for refusal in done.refused]
        write_json(self._done_path(shard), {"entry": entry, "refused": refused})

    def _done_path(self, shard: int) -> Path:
        return self.out / STATE_FOLDER / f"{shard:06d}.json"

    def _is_there(self, shard: int, entry: ShardEntry) -> bool:
        tar = self.tar(shard)
        return tar.is_file() and tar.stat().st_size == entry.bytes and index_path(tar).is_file()

    def describe(self) -> dict[str, Any]:
        """What the set is made of, to compare with an earlier run's plan.json."""
        content = hashlib.sha256()
        for entry in (*self.listing.clips, *self.listing.left_out):
            content.update(repr(entry).encode())
        return {
            "name": self.name,
            **self.options(),
            "clips": len(self.listing.clips),
            "labels": list(self.listing.labels),
            "content": content.hexdigest(),
        }

    def options(self) -> dict[str, Any]:
        """The options that decided the bytes, as the manifest states them."""
        return {**self.listing.about, "store": "frames", **asdict(self.store)}


def open_plan(out: Path, *, name: str, listing: Listing, store: StoreOptions) -> Plan:
    """Begin the set in `out`, or continue the one begun there.

    Raises ConfigError if that one had other options or other clips, DataError if `out` holds other shards.
    """
    if Path(name).name != name:
        raise ConfigError(f"--name {name!r} is no file name", hint="letters, digits, - and _ are safe")
    plan = Plan(out, name, listing, store)
    path = out / STATE_FOLDER / "plan.json"
    described = json.loads(json.dumps(plan.describe()))  # as it reads back: tuples are lists
    if path.is_file():
        _check_same(_read_state(path), described, out)
        return plan
    foreign = sorted(tar.name for tar in out.glob("*.tar"))
    if foreign:
        raise DataError(
            f"{out} already holds shards that this command did not write ({foreign[0]}, …)",
            hint="choose an empty folder",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, described)
    return plan


def _read_state(path: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}", hint="delete it and give the same command again") from error
    return record


def _check_same(before: dict[str, Any], now: dict[str, Any], out: Path) -> None:
    changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    if not changed:
        return
    shown = [key for key in changed if key not in ("content", "labels")]
    details = [f"{key} {before.get(key)!r} → {now.get(key)!r}" for key in shown]
    raise ConfigError(
        f"{out} was begun with another {', '.join(details) or 'list of clips, captions or labels'}",
        hint="give the earlier options to continue, or choose another folder (or delete this one)",
    )


@contextmanager
def only_one_run(out: Path) -> Iterator[None]:
    """Refuse to work in a folder where another run is working; the lock ends with its process."""
    with (out / STATE_FOLDER / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"another umt-data is working in {out}", hint="wait for it, or stop it") from error
        yield


@dataclass(frozen=True)
class Summary:
    """What became of every entry of the listing: samples + refused + left_out are all of them."""

    out: Path
    name: str
    samples: int
    shards: int
    bytes: int
    refused: tuple[Refusal, ...]
    left_out: tuple[Refusal, ...]

    @property
    def bad_share(self) -> float:
        """Refused clips of those that were decoded."""
        return len(self.refused) / max(1, self.samples + len(self.refused))


def finish(plan: Plan) -> Summary:
    """Write bad.csv and the manifest of a set whose shards are all done."""
    records = [plan.done(shard) for shard in range(plan.num_shards)]
    done = [record for record in records if record is not None]
    assert len(done) == plan.num_shards, "finish() before every shard was done"
    entries = tuple(record.entry for record in done if record.entry)
    refused = tuple(refusal for record in done for refusal in record.refused)
    samples = sum(entry.samples for entry in entries)
    assert samples + len(refused) == len(plan.listing.clips), "a clip was lost"
    write_bad_csv(plan.out / BAD_CSV, [*refused, *plan.listing.left_out])
    Manifest(
        name=plan.name,
        media="frames",
        shards=entries,
        labels=plan.listing.labels,
        options=plan.options(),
        tool=tool(),
    ).save(plan.out)
    size = sum(entry.bytes for entry in entries)
    return Summary(plan.out, plan.name, samples, len(entries), size, refused, plan.listing.left_out)


def write_bad_csv(path: Path, refusals: Iterable[Refusal]) -> None:
    """file,reason, sorted by file; written, then renamed."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["file", "reason"])
        rows.writerows(sorted((refusal.source, refusal.reason) for refusal in refusals))
    os.replace(partial, path)


def tool() -> str:
    """This program and the libraries that decide pixels and bytes."""
    return f"umt-data {__version__} ({versions()}, pillow {version('pillow')})"

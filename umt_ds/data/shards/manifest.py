"""The manifest of a set: its shards with counts and hashes, class list, options, fingerprint. Torch-free.

OUT/manifest.json    of shards of its own; or of a table over other sets, which has none (`items.py`)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from umt_ds.data.shards.fetch import size_of
from umt_ds.data.shards.records import index_path, load_index, sha256_of, write_json
from umt_ds.data.shards.storage import absolute, as_path, is_local, is_unmounted, is_url, patiently, read_file
from umt_ds.data.shards.store_answers import hint_of
from umt_ds.errors import DataError, some

MANIFEST = "manifest.json"
FORMATS = (1, 2)  # 2: with files of the whole set: `index`, `items`, `statistics`


@dataclass(frozen=True)
class ShardEntry:
    """One shard in the manifest. `sha256` is of the tar, `index_sha256` of the index file."""

    file: str
    samples: int
    bytes: int
    sha256: str
    index_sha256: str


@dataclass(frozen=True)
class SetFile:
    """A file beside the manifest that tells of all shards: `index.arrow`, `items.arrow`, `statistics.arrow`."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Part:
    """Items of another set, in a set that has no shards of its own. rows: which of them, in a file; None: all."""

    set: str  # its folder, from that of the manifest, or a URL
    fingerprint: str
    num_items: int
    rows: SetFile | None = None

    def place(self, folder: Path) -> Path:
        """The folder of the set, of a table in `folder`."""
        stands_alone = is_url(self.set) or Path(self.set).is_absolute()  # the latter of a table in a store
        return as_path(self.set) if stands_alone else absolute(folder / self.set)


@dataclass(frozen=True)
class Manifest:
    """What a folder of shards holds. `fingerprint` changes whenever what a run would read changes.

    index, statistics: None in a set that was written before there were such files. A table over other sets has no
    shards but parts, and items where it asks something of its own. earlier: how many of the shards the set had before
    shards were added, each time.
    """

    name: str
    media: str
    shards: tuple[ShardEntry, ...]
    labels: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    tool: str = ""
    index: SetFile | None = None
    items: SetFile | None = None
    num_items: int | None = None  # of `items`
    parts: tuple[Part, ...] = ()
    statistics: SetFile | None = None  # of the samples in `shards`: no run reads them
    earlier: tuple[int, ...] = ()

    @property
    def num_samples(self) -> int:
        """What a run counts: samples, or items where there is a table."""
        if self.num_items is not None:
            return self.num_items
        return sum(part.num_items for part in self.parts) or sum(shard.samples for shard in self.shards)

    @property
    def class_lists(self) -> dict[str, tuple[str, ...]]:
        """The names of classes, in the order of their numbers, by label field: `label`, and `NAME_label` for each NAME
        in `classes` of the options, or of those of the set that this one was made of."""
        listed = _innermost(self.options, "classes")
        lists = {f"{name}_label": names for name, names in listed.items()} if isinstance(listed, dict) else {}
        lists |= {"label": self.labels}
        return {
            field: tuple(map(str, names))
            for field, names in lists.items()
            if isinstance(names, (list, tuple)) and names
        }

    @property
    def fingerprint(self) -> str:
        """sha256 over shard names, counts and content hashes, the label list (order matters) and what was excluded."""
        content: list[object] = [[s.file, s.samples, s.bytes, s.sha256] for s in self.shards]
        excluded = self.options.get("excluded")
        over = [[part.fingerprint, part.rows and part.rows.sha256] for part in self.parts]
        table = [over, self.items and self.items.sha256] if over or self.items else None
        more = [one for one in (excluded, table) if one]
        text = json.dumps([content, list(self.labels), *more], separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def versions(self) -> tuple[Manifest, ...]:
        """This set, and what it was each time before shards were added, the last one first."""
        return (self, *(replace(self, shards=self.shards[:count], earlier=()) for count in reversed(self.earlier)))

    def version(self, fingerprint: str) -> Manifest | None:
        """The version of the set with this fingerprint; None: it was never so."""
        return next((one for one in self.versions if one.fingerprint == fingerprint), None)

    def save(self, folder: Path) -> None:
        """Write `folder/manifest.json`."""
        newer = ("index", "items", "num_items", "parts", "statistics", "earlier")
        record = asdict(self)
        there = {name: value for name in newer if (value := record.pop(name))}
        record = {
            **record,
            **there,
            "format": 2 if there else 1,
            "num_samples": self.num_samples,
            "fingerprint": self.fingerprint,
        }
        write_json(folder / MANIFEST, record)


def _innermost(options: Any, name: str) -> Any:
    """What options of a manifest say; those of a set that was split, filtered or merged lie in `made_with`."""
    while isinstance(options, dict) and name not in options:
        options = options.get("made_with")
    return options[name] if isinstance(options, dict) else None


def load_manifest(folder: Path, *, wait: bool = False) -> Manifest:
    """Read `folder/manifest.json`; with `wait`, a local folder may be on a mount that comes back.

    Raises DataError where it is missing, damaged or of another format.
    """
    data = _manifest_bytes(folder, wait=wait)
    try:
        return _parse_manifest(data, folder)
    except DataError:
        if is_local(folder):
            raise
    return _parse_manifest(_manifest_bytes(folder, wait=wait), folder)  # it may have come damaged


def load_shards(folder: Path) -> Manifest:
    """The manifest of a set that has shards of its own. Raises DataError for a table over others, too."""
    manifest = load_manifest(folder)
    if manifest.parts:
        others = some((str(part.place(folder)) for part in manifest.parts), each=200)
        raise DataError(
            f"{folder} is a table over {others}: it has no tars of its own",
            hint="give the set that it is over",
        )
    return manifest


def _manifest_bytes(folder: Path, *, wait: bool) -> bytes:
    path = folder / MANIFEST
    missing = (FileNotFoundError, NotADirectoryError)

    def lasts(error: OSError) -> bool:
        if isinstance(error, missing):
            return not (wait and is_unmounted(folder))
        return isinstance(error, PermissionError) and is_local(folder)

    try:
        return patiently(lambda: read_file(path), of=path, lasts=lasts)
    except missing as error:
        why = "" if is_local(folder) else f" ({error})"  # a store says whether it is the bucket that is not there
        raise DataError(
            f"{folder} holds no {MANIFEST}: it is not a folder of finished shards{why}",
            hint=f"write shards with umt-data, or run `umt-data index {folder}` on tars from elsewhere",
        ) from error
    except OSError as error:
        elsewhere = hint_of(error) or "check address, credentials and network"
        raise DataError(
            f"{path} cannot be read: {error}", hint="check the disk or mount" if is_local(folder) else elsewhere
        ) from error


def _parse_manifest(data: bytes, folder: Path) -> Manifest:
    path = folder / MANIFEST
    try:
        record = json.loads(data)
        if (number := record.pop("format", FORMATS[0])) not in FORMATS:
            raise DataError(f"{path} has format {number}; this version reads {some(FORMATS)}")
        stated = record.pop("fingerprint")
        record.pop("num_samples")
        shards = tuple(ShardEntry(**entry) for entry in record.pop("shards"))
        parts = tuple(Part(**{**part, "rows": _set_file(part.get("rows"))}) for part in record.pop("parts", ()))
        record |= {name: _set_file(record.get(name)) for name in ("index", "items", "statistics")}
        record |= {"labels": tuple(record["labels"]), "earlier": tuple(record.get("earlier", ()))}
        manifest = Manifest(shards=shards, parts=parts, **record)
        _check_types(manifest)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:  # ValueError: no JSON, no UTF-8
        raise DataError(f"{path} is damaged: {error}", hint=f"run `umt-data index {folder} --force`") from error
    if manifest.fingerprint != stated:
        raise DataError(
            f"{path} was edited by hand: its fingerprint does not match its content",
            hint=f"restore it, or run `umt-data index {folder} --force`",
        )
    for shard in manifest.shards:
        if Path(shard.file).name != shard.file:
            raise DataError(f"{path}: shard {shard.file!r} points outside its folder; the set is refused")
    return manifest


def _set_file(record: Any) -> SetFile | None:
    return None if record is None else SetFile(**record)


def _check_types(manifest: Manifest) -> None:
    """Raises TypeError: JSON has them as its writer pleased."""
    texts: list[object] = [manifest.name, manifest.media, manifest.tool, *manifest.labels]
    numbers: list[object] = []
    for shard in manifest.shards:
        texts += [shard.file, shard.sha256, shard.index_sha256]
        numbers += [shard.samples, shard.bytes]
    for file in (manifest.index, manifest.items, manifest.statistics, *(part.rows for part in manifest.parts)):
        if file is not None:
            texts.append(file.sha256)
            numbers.append(file.bytes)
    for part in manifest.parts:
        texts += [part.set, part.fingerprint]
        numbers.append(part.num_items)
    if manifest.num_items is not None:
        numbers.append(manifest.num_items)
    numbers += manifest.earlier
    if wrong := [text for text in texts if not isinstance(text, str)]:
        raise TypeError(f"{wrong[0]!r:.50} stands where a text belongs")
    if wrong := [number for number in numbers if type(number) is not int or number < 0]:
        raise TypeError(f"{wrong[0]!r:.50} stands where a number of samples or bytes belongs")
    if not isinstance(manifest.options, dict):
        raise TypeError("its options are no mapping")


def shard_entries(tars: Iterable[Path]) -> tuple[ShardEntry, ...]:
    """Manifest entries of finished (indexed) shards, in the order given."""
    return tuple(
        ShardEntry(
            file=tar.name,
            samples=len(load_index(tar)),
            bytes=size_of(tar),
            sha256=sha256_of(tar),
            index_sha256=sha256_of(index_path(tar)),
        )
        for tar in tars
    )

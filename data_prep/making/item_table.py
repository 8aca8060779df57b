"""`umt-data items`: another table over the frames of a set, of an annotation file. No frame is copied."""

from __future__ import annotations

import json
import os.path
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.clip import Refusal
from data_prep.making.clip_names import FILE_FIELDS, KEY_FIELDS, Clips, naming_field
from data_prep.making.coverage import Coverage
from data_prep.making.seconds import SECONDS, StoredPart, StoredSeconds
from data_prep.protocols.protocol import Protocol, Row
from data_prep.sources.folder import FIRST_SECONDS
from data_prep.state.clips_file import csv_of_refusals
from data_prep.state.manifest import BAD_CSV, tool
from data_prep.tables.annotations import read_annotations
from umt_ds.data.shards.items import ITEMS, Item, write_items
from umt_ds.data.shards.manifest import MANIFEST, Manifest, Part, SetFile, load_manifest
from umt_ds.data.shards.records import sha256_of
from umt_ds.data.shards.source import ShardSource
from umt_ds.data.shards.storage import absolute, is_local, kind_of, publish, scratch_for, write_whole
from umt_ds.errors import ConfigError, DataError, DecodeError, shown, some
from umt_ds.terminal import progress

_NAMES = (*KEY_FIELDS, *FILE_FIELDS)
_NO_FIELDS = (*_NAMES, *SECONDS)  # of an item: they say where it lies


@dataclass(frozen=True)
class ItemsRead:
    """The items of an annotation file over a set, and what became of its rows and of the clips of the set."""

    base: Manifest  # of the set, or of a table over it
    sets: tuple[tuple[Path, Manifest], ...]  # whose shards the items are over, one after the other
    annotations: tuple[str, ...]
    labels: tuple[str, ...]  # names of the classes
    items: tuple[Item, ...]
    clips_without: int
    left_out: tuple[Refusal, ...]
    coverage: Coverage | None = None  # of a protocol
    num_cut: int = 0  # items of which the file has a part of their seconds
    unused: tuple[str, ...] = ()  # fields that could name a clip, too, beside the one that does

    def text(self) -> str:
        """How many items, clips and rows, and the most frequent reasons."""
        fields = dict.fromkeys(name for item in self.items for name in item.fields)
        clips = len({(item.shard, item.row) for item in self.items})
        reasons = Counter(one.reason for one in self.left_out).most_common(8)
        return "\n".join(
            [
                f"{len(self.items):,} items over {clips:,} clips, with {', '.join(map(shown, fields))}; "
                f"{self.clips_without:,} clips have none; {len(self.left_out):,} rows left out",
                *(f"{count:>8,}  {reason}" for reason, count in reasons),
                *([f"{self.num_cut:,} items are shorter than asked for: their file has less"] if self.num_cut else []),
                *([f"not used, as another field names the clip: {', '.join(self.unused)}"] if self.unused else []),
                *([self.coverage.text()] if self.coverage else []),
            ]
        )


def read_items(
    folder: Path,
    *,
    annotations: Sequence[Path],
    protocol: Protocol | None = None,
    labels: Sequence[str] = (),
    explode: str | None = None,
) -> ItemsRead:
    """An item over the set in `folder` for each row of `annotations`, which `protocol` reads if there is one. Where
    `folder` is a table, over the clips that its items use.

    A row names its clip (`key`, or the path of its file) and has fields, which stand in the place of those of the json
    (`caption`, `label`, `question`, …). `start` and `end` (seconds of the file) make the item a part of the stored
    frames. labels: names of the classes, if they are others than those of the set; a label that is a name becomes its
    number. explode: a field whose list makes an item of each of its members.
    Raises DataError where the file cannot be read, no row has a clip, or a label is no class.
    """
    base = load_manifest(folder)
    classes = protocol.class_names(annotations) if protocol and protocol.class_names else None
    names = tuple(labels) or (classes.names if classes else base.labels)
    coverage = Coverage(protocol, classes=classes) if protocol else None
    made = _Making(numbers={name: number for number, name in enumerate(names)}, explode=explode, coverage=coverage)
    files = " and ".join(map(str, annotations))
    with closing(ShardSource(folder)) as source:
        clips = Clips(source)
        rows = coverage.rows(annotations) if coverage else _rows_of(annotations)
        items = tuple(made.items(clips, rows))
    left_out = made.left_out
    if not items:
        # what is wrong with a clip that is there says more than that another is not
        of_rows = [one for one in left_out if one.key] or left_out
        of_rows = [one for one in of_rows if coverage and one.source in coverage.videos] or of_rows
        first = f": {of_rows[0].source}: {of_rows[0].reason}" if of_rows else ": it has no rows"
        hint = f"{protocol.name} is {protocol.about}" if protocol else None
        raise DataError(f"no row of {files} has a clip in {folder}{first}", hint=hint)
    if explode is not None and not any(explode in item.fields for item in items):
        raise ConfigError(f"--explode {explode}: no row of {files} has this field")
    if labels and (without_label := next((item.key for item in items if "label" not in item.fields), None)):
        raise ConfigError(
            f"--classes names other classes, and the row of {without_label} has no label: that of its clip is a number "
            "of the set's own classes",
            hint="give every row a label, or leave --classes out",
        )
    without = clips.count - len({(item.shard, item.row) for item in items})
    files_read = tuple(path.name for path in annotations)
    return ItemsRead(
        base,
        clips.sets,
        files_read,
        names,
        items,
        clips_without=without,
        left_out=tuple(left_out),
        coverage=coverage,
        num_cut=made.num_cut,
        unused=tuple(made.unused),
    )


def _rows_of(annotations: Sequence[Path]) -> Iterator[Row]:
    for path in annotations:
        yield from read_annotations(path)


def write_table(read: ItemsRead, out: Path, *, name: str = "") -> None:
    """Write a set in `out` that is these items over the shards of their set.

    Raises DataError where `out` holds a set already.
    """
    if kind_of(out / MANIFEST):
        raise DataError(f"{out} holds a set already", hint="choose another folder, or delete that one")
    base = read.base
    out.mkdir(parents=True, exist_ok=True)
    with scratch_for(out, alone=True) as scratch:
        write_items(scratch / ITEMS, read.items, num_shards=sum(len(manifest.shards) for _, manifest in read.sets))
        told = SetFile((scratch / ITEMS).stat().st_size, sha256_of(scratch / ITEMS))
        publish(scratch / ITEMS, out / ITEMS)
    write_whole(out / BAD_CSV, csv_of_refusals(read.left_out))
    Manifest(
        name=name or absolute(out).name,
        media=base.media,
        shards=(),
        labels=read.labels,
        options={
            "source": "items",
            "annotations": list(read.annotations),
            **({"protocol": read.coverage.described()} if read.coverage else {}),
            "made_with": base.options,
        },
        tool=tool(),
        items=told,
        num_items=len(read.items),
        parts=tuple(
            Part(path_from(out, folder), manifest.fingerprint, manifest.num_samples) for folder, manifest in read.sets
        ),
    ).save(out)


def path_from(out: Path, folder: Path) -> str:
    """The place of a set as the manifest in `out` names it: from there, so that both can be moved together."""
    if is_local(out) and is_local(folder):
        return os.path.relpath(absolute(folder), absolute(out))
    return str(absolute(folder))


@dataclass
class _Making:
    """Rows becoming items, and what became of the others. numbers: of the classes, by name."""

    numbers: Mapping[str, int]
    explode: str | None
    coverage: Coverage | None
    left_out: list[Refusal] = field(default_factory=list)
    num_cut: int = 0
    unused: dict[str, None] = field(default_factory=dict)

    def items(self, clips: Clips, rows: Iterator[Row | Refusal]) -> Iterator[Item]:
        """The items of the rows that have a clip; (where it stands, row) of each row of the file."""
        protocol = self.coverage.protocol if self.coverage else None
        cuts = {manifest.options.get(FIRST_SECONDS) for _, manifest in clips.sets}
        is_cut = protocol is not None and cuts == {protocol.first_s}
        seconds = StoredSeconds(clips.source, protocol=protocol)
        used: Counter[str] = Counter()
        for said in progress(rows, unit="row", desc="items"):
            if isinstance(said, Refusal):
                self.left_out.append(said)
                continue
            where, row = said
            named, found = clips.of_row(row)
            if self.coverage:
                self.coverage.count(named, row)
            if found is None:
                why = "no clip of the set has this name" if named else "names no clip"
                self.left_out.append(Refusal(shown(named, 200) or where, why))
                continue
            key, ref = found
            if key in clips.shared:
                why = "several clips have this key: which one is not said"
                self.left_out.append(Refusal(shown(named, 200), why, key))
                continue
            try:
                part = seconds.part(ref, row)
            except DecodeError as error:
                self.left_out.append(Refusal(where if "second" in row else shown(named, 200), error.what, key))
                continue
            if self.coverage and self.coverage.protocol.first_s and not is_cut and part is None:
                self.coverage.check_length(named, seconds.stored_s(ref))
            if self.coverage:
                self.coverage.has(named)
            for fields in self._fields(where, row, part):
                number = used[key]
                used[key] += 1
                frames = part.frames if part else None
                yield Item(*clips.place(ref), f"{key}#{number}" if number else key, frames, fields)

    def _fields(self, where: str, row: Mapping[str, Any], part: StoredPart | None) -> list[dict[str, Any]]:
        """What is asked by a row: of each of its items."""
        self.unused |= dict.fromkeys(name for name in row if name in _NAMES and name != naming_field(row))
        fields = _encodable({name: value for name, value in row.items() if name not in _NO_FIELDS})
        if part:
            fields |= part.moment
            self.num_cut += part.is_cut
        if "label" in fields:
            fields["label"] = _number_of(fields["label"], self.numbers, where)
        return _exploded(fields, self.explode, where)


def _encodable(fields: dict[str, Any]) -> dict[str, Any]:
    """With ? for each half of a character: JSON can hold one, of an emoji that was cut, and no table can."""
    text = json.dumps(fields, ensure_ascii=False, default=str)
    try:
        text.encode()
    except UnicodeEncodeError:
        replaced: dict[str, Any] = json.loads(text.encode(errors="replace"))
        return replaced
    return fields


def _number_of(label: object, numbers: Mapping[str, int], where: str) -> int:
    """The number of the class with this name, or the number itself, which may stand as text."""
    if isinstance(label, str) and label in numbers:
        return numbers[label]
    number = int(label) if isinstance(label, str) and label.isascii() and label.isdecimal() else label
    if type(number) is int and number >= 0 and (not numbers or number < len(numbers)):
        return number
    known = f"its classes are {some(numbers)}" if numbers else "the set names no classes"
    raise DataError(f"{where}: the label {shown(repr(label))} is no class: {known}", hint="--classes FILE names them")


def _exploded(fields: dict[str, Any], explode: str | None, where: str) -> list[dict[str, Any]]:
    if explode is None or not isinstance(fields.get(explode), list):
        return [fields]
    members = fields[explode]
    if not members:
        raise DataError(f"{where}: {explode} is an empty list", hint="leave the row out")
    return [{**fields, explode: member} for member in members]

"""`umt-data items`: another table over the frames of a set, of an annotation file. No frame is copied."""

from __future__ import annotations

import json
import os.path
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.clip import Refusal
from data_prep.making.coverage import Coverage
from data_prep.making.seconds import SECONDS, StoredPart, StoredSeconds
from data_prep.protocols.protocol import Protocol, Row
from data_prep.sources.folder import FIRST_SECONDS
from data_prep.state.clips_file import csv_of_refusals
from data_prep.state.manifest import BAD_CSV, tool
from data_prep.tables.annotations import read_annotations
from data_prep.tables.table import clean
from umt_ds.data.shards.items import ITEMS, Item, write_items
from umt_ds.data.shards.manifest import MANIFEST, Manifest, Part, SetFile, load_manifest
from umt_ds.data.shards.records import SampleRef, sample_key, sha256_of
from umt_ds.data.shards.source import ShardSource
from umt_ds.data.shards.storage import absolute, is_local, kind_of, publish, scratch_for, write_whole
from umt_ds.errors import ConfigError, DataError, DecodeError, shown, some
from umt_ds.terminal import progress

# How a row names its clip: by the key of a sample, or by the path of the file that the sample was made of.
KEY_FIELDS = ("key",)
FILE_FIELDS = ("video", "image", "file", "filename", "file_name", "filepath", "path", "video_name", "video_id")
# The key of a span of a video (`sources/spans.py`): from which ms to which
_SPAN = re.compile(r"(?P<video>.+)_\d{8,}_\d{8,}")
_NO_FIELDS = (*KEY_FIELDS, *FILE_FIELDS, *SECONDS)  # of an item: they say where it lies


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
        rows = protocol.read(annotations) if protocol else _rows_of(annotations)
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
    return ItemsRead(base, clips.sets, files_read, names, items, without, tuple(left_out), coverage, made.num_cut)


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


class Clips:
    """The clips of a set, or those that the items of a table use, by their keys and by what else names them.

    sets: the sets that their shards are of, each once; shards are numbered through all of them. shared: the keys that
    several clips have.
    """

    def __init__(self, source: ShardSource) -> None:
        self.source = source
        self.shared: set[str] = set()
        self._refs: dict[str, SampleRef] = {}  # the first item over each clip
        sets: dict[Path, Manifest] = {}
        self._numbers: list[int] = []  # of each shard of the source
        firsts: dict[Path, int] = {}
        for folder, manifest in source.sets:
            place = absolute(folder)
            firsts.setdefault(place, sum(len(known.shards) for known in sets.values()))
            sets.setdefault(place, manifest)
            self._numbers += range(firsts[place], firsts[place] + len(manifest.shards))
        self.sets = tuple(sets.items())
        for shard in range(len(source.counts)):
            keys = source.sample_keys(shard)
            for nth, row in enumerate(source.rows(shard).tolist()):
                ref = SampleRef(shard, nth)
                before = self._refs.setdefault(keys[row], ref)
                if before is not ref and self.place(before) != self.place(ref):
                    self.shared.add(keys[row])
        self._names = _names_of(self._refs)

    @property
    def count(self) -> int:
        return len(self._refs)

    def find(self, name: str) -> tuple[str, SampleRef] | None:
        """The clip of this name, and its key."""
        key = self._names.get(name)
        return None if key is None else (key, self._refs[key])

    def place(self, ref: SampleRef) -> tuple[int, int]:
        """Shard and row of a clip."""
        return self._numbers[ref.shard], self.source.item(ref).row


def _names_of(keys: Iterable[str]) -> dict[str, str]:
    """Keys by themselves, by their last part where that is theirs alone, and the only span of a video by the video."""
    last = {key: key.rpartition("/")[2] for key in keys}
    spans = {key: span["video"] for key, name in last.items() if (span := _SPAN.fullmatch(name))}
    return {**_alone(spans), **_alone(last), **{key: key for key in last}}


def _alone(names: Mapping[str, str]) -> dict[str, str]:
    """Keys by their names, but for names that several have."""
    count = Counter(names.values())
    return {name: key for key, name in names.items() if count[name] == 1}


@dataclass
class _Making:
    """Rows becoming items, and what became of the others. numbers: of the classes, by name."""

    numbers: Mapping[str, int]
    explode: str | None
    coverage: Coverage | None
    left_out: list[Refusal] = field(default_factory=list)
    num_cut: int = 0

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
            named, found = _clip_of(row, clips)
            if self.coverage:
                self.coverage.count(named, row, found=found is not None)
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
            for fields in self._fields(where, row, part):
                number = used[key]
                used[key] += 1
                frames = part.frames if part else None
                yield Item(*clips.place(ref), f"{key}#{number}" if number else key, frames, fields)

    def _fields(self, where: str, row: Mapping[str, Any], part: StoredPart | None) -> list[dict[str, Any]]:
        """What is asked by a row: of each of its items."""
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


def _clip_of(row: Mapping[str, Any], clips: Clips) -> tuple[str, tuple[str, SampleRef] | None]:
    """What a row calls its clip, and that clip with its key; None: there is no such clip."""
    for name in KEY_FIELDS:
        if row.get(name) is not None:
            return (named := str(row[name])), clips.find(named)
    said = next((row[name] for name in FILE_FIELDS if row.get(name) not in (None, "")), "")
    names = [clean(str(name)) for name in (said if isinstance(said, tuple) else [said])]
    keys = (key for name in names if name for key in _keys_of_file(name))
    return names[0], next((found for key in keys if (found := clips.find(key))), None)


def _keys_of_file(name: str) -> tuple[str, ...]:
    """What its sample may be called: with or without a suffix in `name`, and without its folders."""
    return sample_key(name), sample_key(f"{name}.mp4"), sample_key(name.rpartition("/")[2])


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

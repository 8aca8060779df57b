"""What rows of annotation files call a clip, and the clips of a set by all of their names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data_prep.tables.table import clean
from umt_ds.data.shards.manifest import Manifest
from umt_ds.data.shards.records import SampleRef, sample_key
from umt_ds.data.shards.source import ShardSource
from umt_ds.data.shards.storage import absolute
from umt_ds.data.shards.suffixes import USUAL_VIDEOS

# How a row names its clip: by the key of a sample, or by the path of the file that the sample was made of.
KEY_FIELDS = ("key",)
FILE_FIELDS = ("video", "image", "file", "filename", "file_name", "filepath", "path", "video_name", "video_id")
# The key of a span of a video (`sources/spans.py`): from which ms to which
_SPAN = re.compile(r"(?P<video>.+)_\d{8,}_\d{8,}")
_SUFFIX = re.compile(rf"%2E({'|'.join(USUAL_VIDEOS)})$", re.IGNORECASE)  # in a key a dot is encoded


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

    def of_row(self, row: Mapping[str, Any]) -> tuple[str, tuple[str, SampleRef] | None]:
        """What a row calls its clip, and that clip with its key; None: there is no such clip."""
        field = naming_field(row)
        if field in KEY_FIELDS:
            return (named := str(row[field])), self.find(named)
        said = row[field] if field else ""
        names = [clean(str(name)) for name in (said if isinstance(said, tuple) else [said])]
        keys = (key for name in names if name for key in _keys_of_file(name))
        return names[0], next((found for key in keys if (found := self.find(key))), None)

    def place(self, ref: SampleRef) -> tuple[int, int]:
        """Shard and row of a clip."""
        return self._numbers[ref.shard], self.source.item(ref).row


def naming_field(row: Mapping[str, Any]) -> str | None:
    """The field of a row that names its clip; None: there is none."""
    return next((name for name in (*KEY_FIELDS, *FILE_FIELDS) if row.get(name) not in (None, "")), None)


def _keys_of_file(name: str) -> tuple[str, ...]:
    """What its sample may be called: with or without a suffix in `name`, and without its folders, also of Windows."""
    return sample_key(name), sample_key(f"{name}.mp4"), sample_key(name.replace("\\", "/").rpartition("/")[2])


def _names_of(keys: Iterable[str]) -> dict[str, str]:
    """Keys by themselves, and by what is theirs alone: their last part, this without a second suffix (programs that
    make videos smaller write a.mov.mp4), or the video of which they are the only span."""
    last = {key: key.rpartition("/")[2] for key in keys}
    spans = {key: span["video"] for key, name in last.items() if (span := _SPAN.fullmatch(name))}
    stems = {key: _SUFFIX.sub("", name) for key, name in last.items()}
    return {**_alone(spans), **_alone(stems), **_alone(last), **{key: key for key in last}}


def _alone(names: Mapping[str, str]) -> dict[str, str]:
    """Keys by their names, but for names that several have."""
    count = Counter(names.values())
    return {name: key for key, name in names.items() if count[name] == 1}

"""Sets without tars of their own: some items of other sets, or all of several. Nothing is copied."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.clip import Refusal
from data_prep.making.item_table import path_from
from data_prep.sources.set_items import SetItems
from data_prep.state.clips_file import csv_of_refusals
from data_prep.state.manifest import BAD_CSV, tool
from umt_ds.data.shards.items import ranges_of
from umt_ds.data.shards.manifest import MANIFEST, Manifest, Part, SetFile, load_manifest
from umt_ds.data.shards.records import sha256_of
from umt_ds.data.shards.source import rows_name
from umt_ds.data.shards.storage import kind_of, publish, scratch_for, write_whole
from umt_ds.errors import DataError


@dataclass(frozen=True)
class Selection:
    """What came of a listing of items."""

    out: Path
    name: str
    items: int
    sets: int
    bytes: int
    left_out: tuple[Refusal, ...]

    def text(self) -> str:
        """One line, and where the reasons stand."""
        of = f"of {self.sets} sets" if self.sets > 1 else "of a set"
        line = f"{self.name}: {self.items:,} items {of}, nothing copied; {self.bytes / 1e3:,.1f} kB, {self.out}"
        if not self.left_out:
            return line
        return f"{line}\n{len(self.left_out):,} items left out, see {self.out}/{BAD_CSV}"


def write_selection(items: SetItems, out: Path, *, name: str) -> Selection:
    """Write a set in `out` that is some items of others, in the order of their sets.

    Raises DataError where `out` holds a set already, or a set of the items cannot be read.
    """
    if kind_of(out / MANIFEST):
        raise DataError(f"{out} holds a set already", hint="choose another folder, or delete that one")
    out.mkdir(parents=True, exist_ok=True)
    chosen = {place: np.flatnonzero(stays) for place, stays in zip(items.sets, items.stays, strict=True)}
    sets = sorted(place for place, numbers in chosen.items() if len(numbers))
    parts = tuple(_part(out, number, items.folder(place), chosen[place]) for number, place in enumerate(sets))
    write_whole(out / BAD_CSV, csv_of_refusals(items.left_out))
    options = dict(items.about) | _protocol(items.folder(sets[0]), chosen[sets[0]] if len(sets) == 1 else None)
    Manifest(
        name=name,
        media=str(options.pop("media")),
        shards=(),
        labels=items.labels,
        options=options,
        tool=tool(),
        parts=parts,
    ).save(out)
    size = sum(part.rows.bytes for part in parts if part.rows)
    return Selection(out, name, len(items), len(parts), size, items.left_out)


def _protocol(folder: Path, chosen: NDArray[np.int64] | None) -> dict[str, Any]:
    """What the manifest says of the protocol of a table, and of how many of its items are left out here. Items of
    several sets (chosen: None) are of no protocol."""
    manifest = load_manifest(folder)
    if chosen is None or "protocol" not in manifest.options:
        return {}
    protocol = manifest.options["protocol"]
    left_out = protocol.get("num_left_out", 0) + manifest.num_samples - len(chosen)
    return {"protocol": {**protocol, "num_left_out": left_out} if left_out else protocol}


def _part(out: Path, number: int, folder: Path, chosen: NDArray[np.int64]) -> Part:
    """What the manifest says of the items of one set; which they are, in a file, unless they are all."""
    manifest = load_manifest(folder)
    part = Part(path_from(out, folder), manifest.fingerprint, len(chosen))
    if len(chosen) == manifest.num_samples:
        return part
    with scratch_for(out, alone=True) as scratch:
        made = scratch / rows_name(number)
        np.save(made, ranges_of(chosen))
        told = SetFile(made.stat().st_size, sha256_of(made))
        publish(made, out / made.name)
    return replace(part, rows=told)

"""Some items of finished sets, by their numbers: what filter, split and merge make tables of.

Nothing is copied, and no object is made of an item that stays: there may be ten million.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.checking.item_statistics import columns_of
from data_prep.clip import Clip, Listing, Refusal
from data_prep.leaks.exclusion import KeyList, about_lists, all_excluded, names_in, notes_on
from data_prep.sources.sets import (
    Filter,
    GivenSets,
    about_split,
    is_second_side,
    keys_and_reasons,
    nameless_note,
    none_left,
    one_sided,
)
from umt_ds.data.shards.manifest import Manifest, load_manifest
from umt_ds.terminal import progress

_Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class SetItems:
    """Some items of `sets`, folders below `root`. stays: of each set, of each of its items in order; hashes: the same
    of their keys. The rest is as in a Listing."""

    root: Path
    sets: tuple[str, ...]
    stays: tuple[_Mask, ...]
    hashes: tuple[NDArray[np.int64], ...]
    left_out: tuple[Refusal, ...]
    labels: tuple[str, ...]
    about: dict[str, Any]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return sum(int(np.count_nonzero(stays)) for stays in self.stays)

    def folder(self, place: str) -> Path:
        """That of one of the sets. A single set is `root` itself; in a store `root/.` would be another name."""
        return self.root if place == "." else self.root / place

    def first_in_order(self, limit: int | None = None) -> SetItems:
        """At most `limit` of them, those that a Listing of them would have first. Raises DataError where two have one
        key."""
        self._check_keys()
        if limit is None or limit >= len(self):
            return self
        places = [_places(self.folder(name), stays, _place_in_order) for name, stays in self._each()]
        last = np.sort(np.concatenate(places))[limit - 1]
        stays = tuple(stays & (place <= last) for stays, place in zip(self.stays, places, strict=True))
        return replace(self, stays=stays)

    def _each(self) -> list[tuple[str, _Mask]]:
        return list(zip(self.sets, self.stays, strict=True))

    def _check_keys(self) -> None:
        pairs = zip(self.hashes, self.stays, strict=True)
        hashes = np.sort(np.concatenate([hashes[stays] for hashes, stays in pairs]))
        twice = hashes[1:][hashes[1:] == hashes[:-1]]
        if not len(twice):
            return
        alike = [stays & np.isin(hashes, twice) for hashes, stays in zip(self.hashes, self.stays, strict=True)]
        clips = [
            Clip(key, name)
            for name, mask in zip(self.sets, alike, strict=True)
            for key in _keys(self.folder(name), mask)
        ]
        Listing(self.root, tuple(clips), "sample").first_in_order()  # raises, unless it is the hashes that are alike


def list_items(
    sets: Sequence[Path], *, keep: Filter | None = None, lists: Sequence[KeyList] = (), verb: str
) -> SetItems:
    """The items of finished sets that `keep` lets through and none of the `lists` names.

    Raises ConfigError where the sets do not go together; DataError where nothing is left, or for a list that `exclude`
    refuses.
    """
    keep = keep or Filter()
    given = GivenSets.load(sets, load_manifest)
    wanted = names_in(lists, given.root)
    passed = [_Pass(folder, given.place(folder), wanted, lists) for folder in given.folders]
    for one, manifest in zip(passed, given.manifests, strict=True):
        one.look(manifest, keep)
    left_out = [refusal for one in passed for refusal in one.left_out]
    if not any(one.kept for one in passed):
        raise none_left(given.folders, left_out)
    total = sum(one.kept for one in passed)
    notes = notes_on(lists, set().union(*(one.here for one in passed)), root=given.root, total=total)
    items = SetItems(
        root=given.root,
        sets=tuple(one.place for one in passed),
        stays=tuple(one.stays for one in passed),
        hashes=tuple(one.hashes for one in passed),
        left_out=(*left_out, *(refusal for one in passed for refusal in one.excluded)),
        labels=given.manifests[0].labels,
        about={**given.about(verb, keep), **about_lists(lists)},
        notes=notes,
    )
    if not len(items):
        raise all_excluded(lists, total)
    return items


class _Pass:
    """What one look through a set finds."""

    def __init__(self, folder: Path, place: str, wanted: set[str], lists: Sequence[KeyList]) -> None:
        self.folder, self.place, self._wanted, self._lists = folder, place, wanted, lists
        self.here: set[str] = set()  # of what is wanted
        self.kept = 0  # that the lists may name
        self.left_out: list[Refusal] = []
        self.excluded: list[Refusal] = []
        self.stays: _Mask = np.empty(0, bool)
        self.hashes: NDArray[np.int64] = np.empty(0, np.int64)

    def look(self, manifest: Manifest, keep: Filter) -> None:
        """Look at all items of the set."""
        self.stays = np.ones(manifest.num_samples, bool)
        self.hashes = np.empty(manifest.num_samples, np.int64)
        number = 0
        with closing(keys_and_reasons(self.folder, manifest, keep)) as shards:
            for keys, reasons in shards:
                end = number + len(keys)
                self.hashes[number:end] = np.fromiter(map(hash, keys), np.int64, len(keys))
                self._look_at(keys, reasons, self.stays[number:end])
                number = end

    def _look_at(self, keys: Sequence[str], reasons: Sequence[str | None], stays: _Mask) -> None:
        if any(reasons):
            for nth, (key, why) in enumerate(zip(keys, reasons, strict=True)):
                if why:
                    stays[nth] = False
                    self.left_out.append(Refusal(self.place, why, key))
        self.kept += int(np.count_nonzero(stays))
        if not (met := self._wanted.intersection(keys)):
            return
        for nth, key in enumerate(keys):
            if key in met and stays[nth]:
                self.here.add(key)
                if why := next((one.name for one in self._lists if key in one.keys), None):
                    stays[nth] = False
                    self.excluded.append(Refusal(self.place, f"excluded by {why}", key))


def split_items(items: SetItems, *, share: float, seed: int) -> tuple[SetItems, SetItems]:
    """Two parts without a video in common, as `sets.split` makes them of samples, and by the same hash."""
    train = [stays.copy() for stays in items.stays]
    val = [np.zeros_like(stays) for stays in items.stays]
    damaged: list[Refusal] = []
    nameless = 0
    videos: set[str] = set()  # two of them: more need not be remembered
    with progress(total=len(items), unit="item", desc="split") as bar:
        for which, (place, stays) in enumerate(items._each()):
            start, folder = 0, items.folder(place)
            for columns in columns_of(folder, load_manifest(folder)):
                here = np.flatnonzero(stays[start : start + len(columns)]).tolist()
                texts = [columns.texts(name) for name in ("key", "video", "record_error")]
                for nth in here:
                    key, video, error = (column[nth] for column in texts)
                    number = start + nth
                    if error:
                        train[which][number] = False
                        damaged.append(Refusal(place, f"damaged: {error}", key or ""))
                        continue
                    nameless += video is None
                    name = video or key or ""
                    if len(videos) < 2:
                        videos.add(name)
                    if is_second_side(name, share=share, seed=seed):
                        train[which][number], val[which][number] = False, True
                start += len(columns)
                bar.update(len(here))
    if not any(mask.any() for mask in train) or not any(mask.any() for mask in val):
        raise one_sided(share, videos=len(videos), samples=len(items) - len(damaged), damaged=damaged)
    first = replace(
        items,
        stays=tuple(train),
        about=about_split(items.about, share=round(1 - share, 6), seed=seed),
        left_out=(*items.left_out, *damaged),
        notes=(*items.notes, *nameless_note(nameless)),
    )
    about = about_split(items.about, share=share, seed=seed)
    return first, replace(items, stays=tuple(val), about=about, left_out=(), notes=())


def _keys(folder: Path, mask: _Mask) -> list[str]:
    """The keys of some items of a set."""
    found: list[str] = []
    start = 0
    with closing(keys_and_reasons(folder, load_manifest(folder), Filter())) as shards:
        for keys, _ in shards:
            found += [keys[nth] for nth in np.flatnonzero(mask[start : start + len(keys)]).tolist()]
            start += len(keys)
    return found


def _places(folder: Path, mask: _Mask, place_of: Callable[[str], int]) -> NDArray[np.uint64]:
    """[items] A number for each item of a set that `mask` names; of others the largest."""
    places = np.full(len(mask), 2**64 - 1, np.uint64)
    places[mask] = np.fromiter(map(place_of, _keys(folder, mask)), np.uint64)
    return places


def _place_in_order(key: str) -> int:
    """By this `Listing.first_in_order` orders clips; of two that are the same in the first 8 bytes there is none."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")

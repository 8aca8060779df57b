"""Lists of sample keys that must not be in a set: what `umt-data leaks` writes, or a person."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data_prep.clip import Clip, Listing, Refusal
from data_prep.tables import text_lines
from umt_ds.errors import DataError


@dataclass(frozen=True)
class KeyList:
    """The keys of a text file. `sha256` is of the sorted keys, so that order and comments do not matter."""

    name: str
    keys: frozenset[str]

    @property
    def sha256(self) -> str:
        return hashlib.sha256("\n".join(sorted(self.keys)).encode()).hexdigest()


def read_keys(path: Path) -> KeyList:
    """One sample key a line; blank lines and lines that begin with `#` count for nothing."""
    keys = frozenset(line for _, (line,) in text_lines(path) if not line.startswith("#"))
    if not keys:
        raise DataError(f"list of keys {path} is empty", hint="one sample key a line, as in OUT/*.tar and bad.csv")
    return KeyList(path.name, keys)


def exclude(listing: Listing, lists: Sequence[KeyList]) -> Listing:
    """`listing` without the clips that a list names. The lists become part of the set's fingerprint."""
    if not lists:
        return listing
    kept: list[Clip] = []
    left_out: list[Refusal] = []
    for clip in listing.clips:
        why = next((keys.name for keys in lists if clip.key in keys.keys), None)
        if why is None:
            kept.append(clip)
        else:
            left_out.append(Refusal(clip.source, f"excluded by {why}", clip.key))
    if not kept:
        raise DataError(f"{' and '.join(keys.name for keys in lists)} exclude all {len(listing.clips):,} clips")
    return replace(
        listing,
        clips=tuple(kept),
        left_out=(*listing.left_out, *left_out),
        about={**listing.about, "excluded": [{"list": keys.name, "sha256": keys.sha256} for keys in lists]},
        notes=(*listing.notes, f"excluded {len(left_out):,} of {len(listing.clips):,} clips"),
    )

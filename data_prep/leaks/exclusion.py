"""Lists of sample keys that must not be in a set: what `umt-data leaks` writes, or a person."""

from __future__ import annotations

import hashlib
import os.path
import re
from collections.abc import KeysView, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data_prep.clip import Clip, Listing, Refusal
from data_prep.leaks.near_duplicates import LEAK_COLUMNS
from data_prep.tables.table import text_lines
from umt_ds.data.shards.records import sample_key
from umt_ds.data.shards.storage import write_whole
from umt_ds.errors import DataError, shown, some

_FORM = "one sample key a line, as in the keys of OUT/*.tar and bad.csv; lines that begin with # are comments"
_TABLES = {",".join(LEAK_COLUMNS): "leaks.csv", "file,key,reason": "bad.csv"}  # by their first line
_BETWEEN = re.compile(r'[,;\t"\[\]]+|\s+#')  # the cells of a table, the texts of JSON, a key and a remark
_IN_FRONT = re.compile("^[\\s\ufeff]+")
_LINE_ENDS = re.compile("\r\n|\r|\n")


@dataclass(frozen=True)
class KeyList:
    """The keys of a text file, each with its (first) line."""

    name: str
    lines: Mapping[str, int]

    @property
    def keys(self) -> KeysView[str]:
        return self.lines.keys()

    @property
    def sha256(self) -> str:
        """Of the sorted keys, so that order, repeats and comments do not matter."""
        return hashlib.sha256("\n".join(sorted(self.lines)).encode()).hexdigest()


def read_keys(path: Path) -> KeyList:
    """One sample key a line; blank lines and lines that begin with `#` count for nothing. No key: nothing is left out.

    Raises DataError, with the line, where the file is no such list.
    """
    lines: dict[str, int] = {}
    for number, (line,) in text_lines(path):
        key = _key_in(line)
        if not lines and key in _TABLES:
            raise DataError(
                f"list of keys {path} is a table, such as {_TABLES[key]}",
                hint=f"`umt-data leaks` writes exclude.txt beside it: {_FORM}",
            )
        if key:
            lines.setdefault(key, number)
    return KeyList(path.name, lines)


def write_keys(path: Path, keys: Sequence[str]) -> None:
    """Write a list that `read_keys` reads. Raises DataError for a key that a line cannot hold."""
    for key in keys:
        if not key or "\0" in key or _LINE_ENDS.search(key) or _key_in(key) != key or key in _TABLES:
            raise DataError(
                f"sample key '{shown(key)}' cannot stand in a list of keys, and {path} was not written",
                hint="keys there have no line break, no blank at their ends and no # in front: leave out those clips "
                "by hand, or write the tar with other keys",
            )
    write_whole(path, "".join(f"{key}\n" for key in keys).encode())


def exclude(listing: Listing, lists: Sequence[KeyList]) -> Listing:
    """`listing` without the clips that a list names, and with a note of how much of each list was found.

    The lists, empty ones too, become part of the set's fingerprint. Raises DataError where a line is the path of a
    clip or the row of a table instead of a key, or where no clip is left.
    """
    if not lists:
        return listing
    here = {clip.key for clip in listing.clips}
    notes = notes_on(lists, here, root=listing.root, total=len(listing.clips))
    kept: list[Clip] = []
    left_out: list[Refusal] = []
    for clip in listing.clips:
        why = next((keys.name for keys in lists if clip.key in keys.keys), None)
        if why is None:
            kept.append(clip)
        else:
            left_out.append(Refusal(clip.source, f"excluded by {why}", clip.key))
    if not kept:
        raise all_excluded(lists, len(listing.clips))
    return replace(
        listing,
        clips=tuple(kept),
        left_out=(*listing.left_out, *left_out),
        about={**listing.about, **about_lists(lists)},
        notes=(*listing.notes, *notes),
    )


def names_in(lists: Sequence[KeyList], root: Path) -> set[str]:
    """Every key that a line of the lists holds, or may mean: of which of them there are clips, `notes_on` asks."""
    lines = {line for keys in lists for line in keys.keys}
    return lines.union(*(_meant(line, root) for line in lines))


def notes_on(lists: Sequence[KeyList], here: set[str], *, root: Path, total: int) -> tuple[str, ...]:
    """How much of each list was found among `total` clips. here: their keys, or those of them in `names_in`.

    Raises DataError where a line is the path of a clip or the row of a table instead of a key.
    """
    return tuple(_found(keys, here, root, total) for keys in lists)


def about_lists(lists: Sequence[KeyList]) -> dict[str, object]:
    """What the manifest says of the lists."""
    return {"excluded": [{"list": keys.name, "sha256": keys.sha256} for keys in lists]} if lists else {}


def all_excluded(lists: Sequence[KeyList], total: int) -> DataError:
    """For lists that leave nothing."""
    return DataError(f"{some(keys.name for keys in lists)} exclude all {total:,} clips")


def _key_in(line: str) -> str:
    """The key that a line holds; empty where it holds none. Windows puts a BOM in front of a file."""
    key = _IN_FRONT.sub("", line).rstrip()
    return "" if key.startswith("#") else key


def _found(keys: KeyList, here: set[str], root: Path, total: int) -> str:
    """How many keys of a list are those of clips. Raises DataError for a line that names a clip in another way."""
    absent = sorted(keys.keys - here)
    for line in absent:
        if problem := _problem(line, here, root):
            raise DataError(f"list of keys {keys.name} line {keys.lines[line]}: '{shown(line)}' {problem}", hint=_FORM)
    count, found = len(keys.keys), len(keys.keys) - len(absent)
    if not count:
        return f"{keys.name}: 0 keys, nothing to leave out"
    if not absent:
        return f"{keys.name}: {how_many(count)}, all found: {found:,} of {total:,} clips are left out"
    if not found:
        return f"{keys.name}: {how_many(count)}, none of them here, so nothing is left out; not here: {some(absent)}"
    here_too = f"{found:,} of {how_many(count)} found and left out of {total:,} clips"
    return f"{keys.name}: {here_too}; not here: {some(absent)}"


def how_many(count: int) -> str:
    """Keys, counted in words."""
    return f"{count:,} key{'s' * (count != 1)}"


def _problem(line: str, here: set[str], root: Path) -> str | None:
    """What is wrong with a line that is no key of a clip; None where it may be the key of another set's."""
    if key := next((key for key in _keys_of_path(line, root) if key in here), None):
        return f"is the path of a file, whose key is '{shown(key)}'"
    key = next((cell for cell in _cells(line) if cell in here), None)
    return f"is no key of a clip, and '{shown(key)}', a part of it, is" if key else None


def _meant(line: str, root: Path) -> list[str]:
    """The keys that a line may mean that holds none."""
    return [*_keys_of_path(line, root), *_cells(line)]


def _keys_of_path(line: str, root: Path) -> list[str]:
    """The keys of clips whose file the line may be: with suffix or without, below `root` or from the top."""
    path = os.path.normpath(line.removeprefix(f"{root}/"))
    return [sample_key(path), sample_key(f"{path}.mp4")]


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in _BETWEEN.split(line)]

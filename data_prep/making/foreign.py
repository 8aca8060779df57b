"""`umt-data index`: make tars that somebody else wrote addressable, without copying them.

img2dataset and video2dataset write, for each shard: 00000.tar (000000000.jpg or .mp4, .txt with the caption, .json
with the row it came from), 00000_stats.json (how many downloads succeeded, and why others failed), 00000.parquet.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from data_prep.checking.samples import SHARD_TIMEOUT_S
from data_prep.checking.set_statistics import make_statistics, pages_of
from data_prep.engines import WorkerFailure, map_ordered
from data_prep.making.downloads import COUNTS, Downloads
from data_prep.making.foreign_tar import Edges, ForeignTar, read_tar
from data_prep.state.manifest import publish_set, tool
from data_prep.state.plan import STATE_FOLDER
from data_prep.state.statistics import Page
from umt_ds.data.shards.folders import files_below
from umt_ds.data.shards.left_out import LeftOut
from umt_ds.data.shards.manifest import MANIFEST, Manifest, load_manifest
from umt_ds.data.shards.node_index import make_index
from umt_ds.data.shards.storage import absolute, is_local, kind_of, scratch_for, sizes_in
from umt_ds.data.shards.store_answers import hint_of
from umt_ds.errors import DataError, quoted, some
from umt_ds.terminal import progress

_FOREIGN = "foreign"  # the source in the options of such a set


@dataclass(frozen=True)
class Adopted:
    """The manifest of tars that were indexed, and sentences on what they hold and lack."""

    folder: Path
    manifest: Manifest
    notes: tuple[str, ...]


def adopt(
    folder: Path,
    *,
    force: bool = False,
    suffixes: Mapping[str, str] | None = None,
    workers: int = 1,
    alone: bool = True,
) -> Adopted:
    """Index every `*.tar` in `folder`, by `workers` processes, and write its manifest. An interrupted run continues
    where it stopped.

    Samples without media (video2dataset leaves them where a download failed) are not indexed, but counted by their
    reasons. `suffixes` says what files are that the tars call otherwise, as `suffixes_meant` gives it. With `force`,
    indexes and manifest are made anew from the tars as they are now; name, labels and options of a manifest that is
    there and can be read are kept, `suffixes` too. alone: as `tars_in` means it.
    Without `force` what a manifest tells of stays, and tars that have arrived since are indexed and stand behind it.
    Raises DataError where none has, one of the others has changed or is gone, or a tar cannot be read.
    """
    tars, beside = tars_in(folder, alone=alone)
    before = _manifest_before(folder, force=force)
    there = before.shards if before and not force else ()
    order = new_tars(folder, before, tars) if before and not force else _as_before(tars, before)
    if not order:
        raise DataError(f"{folder} is indexed already", hint="--force indexes again what is there now")
    if before is None and not force and kind_of(folder / STATE_FOLDER):
        raise DataError(f"{folder} is a set that umt-data has not finished", hint="give its command again")
    suffixes = _suffixes(suffixes, before, folder, is_added=bool(there))
    held, downloads, entries = _Held(), Downloads(), list(there)

    def pages() -> Iterator[Page]:
        if before and there:
            yield from (page for _, page in pages_of(folder, before, workers=workers))
        for tar, found in _each(order, anew=force or bool(suffixes), suffixes=suffixes, workers=workers):
            held.add_all_of(found, tar)
            downloads.add(tar, found.samples)
            entries.append(found.entry)
            yield found.page

    with scratch_for(folder, alone=True) as made:
        statistics = make_statistics(made, pages())
        manifest = Manifest(
            name=before.name if before else absolute(folder).name,
            media=_media(held, folder, before=before.media if before and there else None),
            shards=tuple(entries),
            labels=before.labels if before else (),
            options=_options(before, suffixes, downloads, is_added=bool(there)),
            tool=tool(),
            index=make_index(made, folder, entries),
            statistics=statistics,
            earlier=_earlier(before, len(there), len(entries)),
        )
        publish_set(made, folder, manifest)
    news = [f"{_how_many(len(order))} new, {len(there):,} are there; of the new:"] if there else []
    return Adopted(folder, manifest, (*beside, *news, *held.notes(), *downloads.notes(folder)))


def new_tars(folder: Path, before: Manifest, tars: Sequence[Path]) -> list[Path]:
    """Those of `tars` that a set which was indexed lacks; of a set that umt-data made none.

    Raises DataError where a tar of the set is gone, or has another size.
    """
    if before.options.get("source") != _FOREIGN or kind_of(folder / STATE_FOLDER):
        return []
    sizes = sizes_in(folder)
    changed = [entry.file for entry in before.shards if sizes.get(entry.file) != entry.bytes]
    if changed:
        raise DataError(
            f"{folder} is indexed already, and {_how_many(len(changed))} gone or of another size: {some(changed)}",
            hint="restore them; --force indexes again what is there now",
        )
    known = {entry.file for entry in before.shards}
    return [tar for tar in tars if tar.name not in known]


def _how_many(tars: int) -> str:
    return "1 tar is" if tars == 1 else f"{tars:,} tars are"


def _as_before(tars: Sequence[Path], before: Manifest | None) -> list[Path]:
    """Those of the manifest in its order, then the others: what was added once stays behind what was there."""
    places = {entry.file: place for place, entry in enumerate(before.shards if before else ())}
    return sorted(tars, key=lambda tar: (places.get(tar.name, len(places)), tar.name))


def _earlier(before: Manifest | None, there: int, now: int) -> tuple[int, ...]:
    """How many shards the set had each time before tars were added."""
    counts = {*(before.earlier if before else ()), there}
    return tuple(count for count in sorted(counts) if 0 < count < now)


def _suffixes(
    asked: Mapping[str, str] | None, before: Manifest | None, folder: Path, *, is_added: bool
) -> Mapping[str, str]:
    """What --suffix says, else what it said before. Raises DataError where that would differ within a set."""
    said: Mapping[str, str] = (before.options.get("suffixes") if before else None) or {}
    if is_added and asked is not None and dict(asked) != dict(said):
        raise DataError(
            f"{folder} was indexed with another --suffix ({', '.join(f'{old}={new}' for old, new in said.items())})",
            hint="leave --suffix out: the new tars are read as the others; --force indexes all of them again",
        )
    return said if asked is None else asked


def _options(
    before: Manifest | None, suffixes: Mapping[str, str], downloads: Downloads, *, is_added: bool
) -> dict[str, Any]:
    """What the manifest says of how the set was made."""
    if before and before.options.get("source") != _FOREIGN:
        return before.options
    totals = Counter(downloads.totals)
    if before and is_added:
        totals.update({name: n for name, n in before.options.items() if name in COUNTS and type(n) is int})
    return {"source": _FOREIGN, **({"suffixes": dict(suffixes)} if suffixes else {}), **totals}


def adopt_alone(folder: Path, *, force: bool, suffixes: Mapping[str, str] | None, workers: int) -> Iterator[Adopted]:
    """`adopt` one folder."""
    yield adopt(folder, force=force, suffixes=suffixes, workers=workers)


def adopt_below(folder: Path, *, force: bool, suffixes: Mapping[str, str] | None, workers: int) -> Iterator[Adopted]:
    """`adopt` each folder that holds tars, `folder` itself and those below it, as a set of its own: the reader takes a
    shard of another folder for an attempt to leave the set's. Those to which no tar was added are left alone."""
    for each in folders_of_tars(folder):
        if force or not kind_of(each / MANIFEST) or new_tars(each, load_manifest(each), tars_in(each, alone=False)[0]):
            yield adopt(each, force=force, suffixes=suffixes, workers=workers, alone=False)


def folders_of_tars(folder: Path) -> list[Path]:
    """`folder` and those below it that hold tars. Raises DataError where none does, or it cannot be read."""
    with _readable(folder):
        below = [one.folder for one in files_below(folder) if any(_TAR.fullmatch(name) for name in one.files)]
    folders = [folder / one for one in sorted(below) if not any(part.startswith(".") for part in one.split("/"))]
    if not folders:
        raise DataError(f"no *.tar below {folder}", hint="give the folder below which the tars lie")
    return folders


def tars_in(folder: Path, *, alone: bool = True) -> tuple[list[Path], tuple[str, ...]]:
    """The tars that lie in `folder`, by name, and sentences on what else lies there. alone: folders below are
    left out, which is said. Raises DataError without a tar."""
    with _readable(folder):
        names = sorted(path.name for path in folder.iterdir())
    hidden = [name for name in names if name.startswith(".") and name.endswith(".tar")]
    tars = [folder / name for name in names if name.endswith(".tar") and name not in hidden]
    if unspeakable := [tar.name for tar in tars if not tar.name.isprintable()]:  # stray bytes among them
        raise DataError(f"the name of the tar {unspeakable[0]!r} is not plain text", hint="rename the file")
    others = [name for name in names if not name.startswith(".") and not name.endswith(".tar")]
    packed = [name for name in others if _PACKED.search(name)]
    begun = [name for name in others if _BEGUN.search(name)]
    below = (
        sorted(str(tar.relative_to(folder)) for tar in folder.glob("[!.]*/*.tar")) if alone and is_local(folder) else []
    )
    notes = [
        f"ignored {len(found)} {what} ({found[0]})"
        for found, what in (
            (hidden, "hidden files that end in .tar, as macOS leaves them"),
            (packed, "archives that do not end in .tar: unpack or rename them"),
            (begun, "tars that are not whole, as a download leaves them"),
            (below, "tars in folders below: --subfolders indexes each folder by itself"),
        )
        if found
    ]
    if not tars:
        seen = f" ({'; '.join(notes)})" if notes else ""
        raise DataError(f"no *.tar in {folder}{seen}", hint="give the folder in which the tars lie")
    return tars, tuple(notes)


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = hint_of(error) or "check its permissions, and the disk or mount"
        raise DataError(f"{folder} cannot be read: {error.strerror or error}", hint=what) from error


_TAR = re.compile(r"[^.].*\.tar")
_PACKED = re.compile(r"\.(?:tar\.(?:gz|bz2|xz|zst|lz4|lzma|z)|tgz|tbz2?|txz|tzst|zip|7z|rar|tar)$", re.IGNORECASE)
_BEGUN = re.compile(r"\.tar.*\.(?:part|partial|tmp|crdownload|aria2|filepart|incomplete)$", re.IGNORECASE)


def _each(
    tars: Sequence[Path], *, anew: bool, suffixes: Mapping[str, str], workers: int
) -> Iterator[tuple[Path, ForeignTar]]:
    """What each tar holds, in their order; a single worker is this process. Raises DataError where one is damaged."""
    work, workers = partial(read_tar, anew=anew, suffixes=suffixes), min(workers, len(tars))
    results: Generator[ForeignTar | WorkerFailure, None, None] = (
        map_ordered(work, tars, workers=workers, timeout_s=SHARD_TIMEOUT_S)
        if workers > 1
        else (work(tar) for tar in tars)
    )
    with closing(results), progress(total=len(tars), unit="tar", desc="index") as bar:
        for tar, found in zip(tars, results, strict=True):
            if isinstance(found, WorkerFailure):
                raise DataError(f"{tar} cannot be read as a tar: {found.reason}", hint="copy or write it again")
            yield tar, found
            bar.update()


@dataclass
class _Held:
    """What the tars hold together."""

    samples: int = 0
    indexed_before: int = 0  # tars: what they hold besides is not known
    left: LeftOut = field(default_factory=LeftOut)  # by the tars indexed just now
    split: list[str] = field(default_factory=list)  # samples that end in one tar and go on in the next
    captions: int = 0
    labels: int = 0
    text_label: str = ""  # the first that is no number
    unreadable: int = 0
    media: Counter[str] = field(default_factory=Counter)
    _before: tuple[str, Edges] | None = None  # the tar before, by its name

    def add_all_of(self, found: ForeignTar, tar: Path) -> None:
        """Count what a tar holds; they come in their order."""
        self.samples += found.samples
        self.captions += found.captions
        self.labels += found.labels
        self.text_label = self.text_label or found.text_label
        self.unreadable += found.unreadable
        self.media.update(found.media)
        if found.left is None:
            self.indexed_before += 1
        else:
            self.left.add_all_of(found.left)
        if found.edges:
            self._look_for_split(tar.name, found.edges)
            self._before = tar.name, found.edges

    def _look_for_split(self, name: str, edges: Edges) -> None:
        if self._before is None:
            return
        before, (key, suffixes) = self._before[0], self._before[1].last
        if key == edges.first[0] and not suffixes & edges.first[1]:
            self.split.append(f"{key} in {before} and {name}")

    def notes(self) -> Iterator[str]:
        yield f"{self.captions:,} of {self.samples:,} samples have a caption, {self.labels:,} a label"
        if self.text_label:
            yield f"labels are text, such as {quoted(self.text_label)}: training needs their numbers"
        if self.unreadable:
            yield f"{self.unreadable:,} samples have a json, txt or cls that cannot be used"
        yield from self.left.sentences("indexed").values()
        if self.split:
            yield f"{len(self.split):,} samples are split over two tars, and each part stands alone: {self.split[0]}"
        if self.indexed_before:
            yield f"{self.indexed_before:,} tars had an index: what they hold besides is not said (--force says it)"


def _manifest_before(folder: Path, *, force: bool) -> Manifest | None:
    """The manifest that is there, and with `force` can be read."""
    if not force:
        return load_manifest(folder) if kind_of(folder / MANIFEST) else None
    try:
        return load_manifest(folder)
    except DataError as error:
        if isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, FileNotFoundError):
            raise  # it is there: without it the set would lose its name and labels
        return None


def _media(held: _Held, folder: Path, *, before: str | None) -> str:
    """The one kind of media in the set, with those that it had before; `mixed` if there are several."""
    found = sorted({kind for kind in held.media if kind != "none"} | ({before} if before else set()))
    if not found:
        notes = "".join(f"\n  {note}" for note in held.notes())
        raise DataError(f"the tars in {folder} hold no frames, array, video or image that is read{notes}")
    return found[0] if len(found) == 1 else "mixed"

"""`umt-data index`: make tars that somebody else wrote addressable, without copying them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from data_prep.manifest import STATE_FOLDER, tool
from data_prep.progress import progress
from data_prep.samples import samples_of
from umt_ds.data.records import (
    MANIFEST,
    Manifest,
    index_path,
    index_tar,
    load_index,
    load_manifest,
    shard_entries,
)
from umt_ds.errors import DataError


def index_folder(folder: Path, *, force: bool = False) -> Manifest:
    """Index every `*.tar` in `folder` and write its manifest. An interrupted run continues where it stopped.

    With `force`, indexes and manifest are made anew from the tars as they are now; name, labels and options
    of a manifest that is there and can be read are kept.
    Raises DataError where a manifest is there already, or a tar cannot be read.
    """
    tars = sorted(folder.glob("*.tar"))
    if not tars:
        raise DataError(f"no *.tar in {folder}", hint="give the folder in which the tars lie")
    if not force and (folder / MANIFEST).exists():
        raise DataError(f"{folder} is indexed already", hint="--force indexes again what is there now")
    if not force and (folder / STATE_FOLDER).exists():
        raise DataError(f"{folder} is a set that umt-data has not finished", hint="give its command again")
    before = _manifest_before(folder)
    kinds: Counter[str] = Counter()
    for tar in progress(tars, unit="tar", desc="index"):
        if force or not _has_index(tar):
            index_tar(tar).save(index_path(tar))
        kinds.update(sample.media for sample in samples_of(tar))
    manifest = Manifest(
        name=before.name if before else folder.resolve().name,
        media=_media(kinds, folder),
        shards=shard_entries(tars),
        labels=before.labels if before else (),
        options=before.options if before else {"source": "foreign"},
        tool=tool(),
    )
    manifest.save(folder)
    return manifest


def _manifest_before(folder: Path) -> Manifest | None:
    try:
        return load_manifest(folder)
    except DataError:
        return None


def _has_index(tar: Path) -> bool:
    try:
        load_index(tar)
    except DataError:
        return False
    return True


def _media(kinds: Counter[str], folder: Path) -> str:
    """The one kind of media in the set, `mixed` if there are several."""
    found = sorted(kind for kind in kinds if kind != "none")
    if not found:
        raise DataError(f"the tars in {folder} hold no frames, array, video or image that can be recognised")
    return found[0] if len(found) == 1 else "mixed"

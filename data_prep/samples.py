"""Finished samples, read back to verify, count, show and compare: any set with an index, ours or a foreign one."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from data_prep.engines import Lost, in_order
from data_prep.progress import progress
from umt_ds.data.picture import read_image
from umt_ds.data.records import (
    Member,
    ShardEntry,
    ShardIndex,
    load_index,
    load_manifest,
    media_of,
    pixels_of,
    read_members,
)
from umt_ds.data.video import Choose, decode
from umt_ds.errors import DecodeError

Pixels = NDArray[np.uint8]
Result = TypeVar("Result")
SHARD_TIMEOUT_S = 3600.0  # to read one shard once, also a large one from afar
TEXTS = ("json", "txt")  # the members that hold a sample's record


@dataclass(frozen=True)
class StoredSample:
    """One sample of a shard."""

    tar: Path
    key: str
    members: tuple[Member, ...]

    @property
    def media(self) -> str:
        return media_of([member.suffix for member in self.members])

    @property
    def media_members(self) -> list[Member]:
        """The members that hold pixels, frames by their number."""
        _, places = pixels_of(tuple(member.suffix for member in self.members))
        return [self.members[place] for place in places]

    def record(self) -> dict[str, Any]:
        """Its json; a WebDataset `txt` stands in for the caption. Raises DataError where it is damaged."""
        return parse_record(self.key, read_members(self.tar, [m for m in self.members if m.suffix in TEXTS]))

    def pictures(self, choose: Choose) -> list[Pixels]:
        """The frames [H,W,3] that `choose` picks, given their number. Raises DataError where they are damaged."""
        media = self.media_members
        match self.media:
            case "frames" | "image":
                chosen = [media[n] for n in choose(len(media))]
                files = read_members(self.tar, chosen)
                return [_picture(files[member.suffix], self.key) for member in chosen]
            case "npy":
                frames = _array(read_members(self.tar, media[:1]).popitem()[1], self.key)
                return [frames[n] for n in choose(len(frames))]
            case "video":
                data = read_members(self.tar, media[:1]).popitem()[1]
                return list(decode(data, choose).frames)
            case _:
                raise DecodeError(f"{self.key} holds no frames, array, video or image")


def samples_of(tar: Path, index: ShardIndex | None = None) -> Iterator[StoredSample]:
    """The samples of one shard, in tar order. Raises DataError as `load_index` does."""
    index = index or load_index(tar)
    for row in range(len(index)):
        yield sample_at(tar, index, row)


def records_of(tar: Path) -> list[tuple[StoredSample, dict[str, Any]]]:
    """The samples of one shard with their json, for which the tar is opened once. Raises DataError as they do."""
    samples = list(samples_of(tar))
    # one call reads one member of a suffix: the row in front keeps the samples apart
    members = [
        member._replace(suffix=f"{row}/{member.suffix}")
        for row, sample in enumerate(samples)
        for member in sample.members
        if member.suffix in TEXTS
    ]
    found = read_members(tar, members)
    texts = [
        {suffix: found[f"{row}/{suffix}"] for suffix in TEXTS if f"{row}/{suffix}" in found}
        for row in range(len(samples))
    ]
    return [(sample, parse_record(sample.key, own)) for sample, own in zip(samples, texts, strict=True)]


def sample_at(tar: Path, index: ShardIndex, row: int) -> StoredSample:
    """The sample in one row of a shard."""
    return StoredSample(tar, index.key(row), tuple(index.members(row)))


def find_samples(folder: Path, keys: Iterable[str]) -> dict[str, StoredSample]:
    """The samples of a set that have these keys, as far as there are any. Reads every index, and no tar."""
    wanted = np.array([key.encode() for key in keys], dtype=np.bytes_)
    found: dict[str, StoredSample] = {}
    for shard in load_manifest(folder).shards:
        tar = folder / shard.file
        index = load_index(tar)
        for row in np.flatnonzero(np.isin(index.keys, wanted)).tolist():
            sample = sample_at(tar, index, row)
            found[sample.key] = sample
    return found


def each_shard(
    work: Callable[[Path], Result], folder: Path, *, desc: str, workers: int, decodes: bool = False
) -> Generator[tuple[ShardEntry, Result | Lost], None, None]:
    """`work(tar)` for each shard of a set, by `workers` processes, in the order of the shards.

    A single worker is this process, unless the work `decodes`: that can kill its process. A bar counts samples.
    """
    manifest = load_manifest(folder)
    tars = [folder / shard.file for shard in manifest.shards]
    results: Generator[Result | Lost, None, None] = (
        in_order(work, tars, workers=workers, timeout_s=SHARD_TIMEOUT_S)
        if decodes or workers > 1
        else (work(tar) for tar in tars)
    )
    with closing(results), progress(total=manifest.num_samples, unit="sample", desc=desc) as bar:
        for shard, result in zip(manifest.shards, results, strict=True):
            yield shard, result
            bar.update(shard.samples)


def parse_record(key: str, texts: Mapping[str, bytes]) -> dict[str, Any]:
    """A sample's json, from the bytes of its TEXTS by suffix. Raises DecodeError where they are damaged."""
    try:
        record = json.loads(texts.get("json", b"{}"))
        caption = texts.get("txt", b"").decode()
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"{key}: json or txt cannot be read: {error}") from error
    if not isinstance(record, dict):
        raise DecodeError(f"{key}: json holds no object")
    return record if record.get("caption") or not caption else {**record, "caption": caption}


def caption_text(record: dict[str, Any]) -> str:
    """The caption, or the first of several; empty where there is none."""
    return next(iter(captions_of(record)), "")


def captions_of(record: Mapping[str, Any]) -> list[str]:
    """All captions of a sample."""
    caption = record.get("caption") or []
    return [str(text) for text in (caption if isinstance(caption, list) else [caption]) if text]


def _picture(data: bytes, key: str) -> Pixels:
    try:
        return read_image(data)
    except DecodeError as error:
        raise DecodeError(f"{key}: {error.what}") from error


def _array(data: bytes, key: str) -> Pixels:
    try:
        frames = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DecodeError(f"{key}: npy cannot be read: {error}") from error
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or len(frames) == 0:
        raise DecodeError(f"{key}: npy holds {frames.dtype} {frames.shape}, not uint8 [T,H,W,3]")
    return np.asarray(frames, dtype=np.uint8)

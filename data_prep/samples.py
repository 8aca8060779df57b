"""Finished samples, read back for verify, stats and sheet: any set with an index, ours or a foreign one."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from umt_ds.data.records import Member, ShardIndex, load_index, media_of, read_members
from umt_ds.data.video import Choose, decode
from umt_ds.errors import DecodeError

Pixels = NDArray[np.uint8]


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
        """The members that hold pixels."""
        return [member for member in self.members if media_of([member.suffix]) == self.media != "none"]

    def record(self) -> dict[str, Any]:
        """Its json; a WebDataset `txt` stands in for the caption. Raises DataError where it is damaged."""
        texts = read_members(self.tar, [m for m in self.members if m.suffix in ("json", "txt")])
        try:
            record = json.loads(texts.get("json", b"{}"))
            caption = texts.get("txt", b"").decode()
        except ValueError as error:
            raise DecodeError(f"{self.key}: json or txt cannot be read: {error}") from error
        if not isinstance(record, dict):
            raise DecodeError(f"{self.key}: json holds no object")
        return {"caption": caption, **record} if caption else record

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
        yield StoredSample(tar, index.key(row), tuple(index.members(row)))


def caption_text(record: dict[str, Any]) -> str:
    """The caption, or the first of several; empty where there is none."""
    caption = record.get("caption", "")
    return str(caption[0]) if isinstance(caption, list) and caption else str(caption or "")


def _picture(data: bytes, key: str) -> Pixels:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DecodeError(f"{key}: picture cannot be decoded: {error}") from error


def _array(data: bytes, key: str) -> Pixels:
    try:
        frames = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DecodeError(f"{key}: npy cannot be read: {error}") from error
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or len(frames) == 0:
        raise DecodeError(f"{key}: npy holds {frames.dtype} {frames.shape}, not uint8 [T,H,W,3]")
    return np.asarray(frames, dtype=np.uint8)

"""What is embedded: sets of shards, tables over them, video files and folders of these, cut into units of work.

A unit is what goes through the model at once: a batch of a set, as many whole videos, or as many windows of one video.
Which clips are in a unit does not depend on ranks, workers, or on what was done before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import ceil
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from umt_ds.batch import Movable
from umt_ds.data.clip_request import AlsoAsked, ClipRequest
from umt_ds.data.evaluation import EvaluationSet, ItemInfo, LeftOut
from umt_ds.data.shards.folders import files_below
from umt_ds.data.shards.manifest import MANIFEST
from umt_ds.data.shards.sample_record import captions_of
from umt_ds.data.shards.storage import absolute, as_path, common_folder, is_local, kind_of
from umt_ds.data.shards.suffixes import VIDEO_SUFFIXES
from umt_ds.data.video_clips import VideoClip, Windows, clips_of_video
from umt_ds.errors import ConfigError, DataError, DecodeError, printable, some

_TIMES = "times_s"  # of the stored frames, in the json of a sample of ours


@dataclass(frozen=True)
class Row:
    """A clip of an index, without its vector: see `index_files`."""

    key: str
    file: str
    set: str | None = None
    item: int | None = None
    start_s: float | None = None
    end_s: float | None = None
    captions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unit:
    """Number `number` of a source; of a video in windows, those from `first` on."""

    source: int
    number: int
    first: int = 0


@dataclass(frozen=True)
class Made(Movable):
    """What a unit shows. pixels: u8 [B,T,side,side,3], of B rows. more: units that follow from it."""

    rows: tuple[Row, ...]
    pixels: Tensor
    left_out: tuple[LeftOut, ...] = ()
    more: tuple[Unit, ...] = ()


class Source(Protocol):
    """Clips to embed."""

    @property
    def units(self) -> int:
        """That are known before any is made."""

    @property
    def units_of_a_part(self) -> int:
        """Whose rows are written together."""

    @property
    def about(self) -> Mapping[str, Any]:
        """What it is, and a fingerprint of what is in it: JSON types."""

    def make(self, unit: Unit) -> Made:
        """Read and decode. Raises DataError for what is no fault of a single clip."""

    def close(self) -> None:
        """Close files."""


class SetSource:
    """The items of a set or table. captions: the field of their captions, where these are embedded too."""

    def __init__(self, path: Path, request: ClipRequest, *, batch: int, captions: str | None) -> None:
        also = AlsoAsked((_TIMES, *([captions] if captions else ())), self._said)
        asked = ClipRequest(request.frames, request.side, request.view, request.antialias, also=also)
        self._captions, self._clean = captions, request.clean
        self._items = EvaluationSet(path, asked, batch_size=batch, max_left_out=1.0)
        self.path = absolute(path)
        self.units = ceil(len(self._items) / batch)
        self.units_of_a_part = _units_of_a_part(batch)

    @property
    def about(self) -> Mapping[str, Any]:
        manifest = self._items.manifest
        return {
            "set": str(self.path), "name": manifest.name, "fingerprint": manifest.fingerprint, "items": len(self._items)
        }  # fmt: skip

    def make(self, unit: Unit) -> Made:
        batch = self._items.batch(unit.number)
        return Made(tuple(self._row(item) for item in batch.items), batch.pixels, batch.left_out)

    def close(self) -> None:
        self._items.close()

    def _said(self, record: Mapping[str, Any]) -> tuple[tuple[str, ...], list[float]]:
        """Captions, and the times of the stored frames, where they are said. None of them costs a clip."""
        times = record.get(_TIMES)
        known = isinstance(times, list) and all(type(time) in (int, float) for time in times)
        try:
            captions = captions_of(record, field=self._captions, clean=self._clean) if self._captions else []
        except DecodeError:
            captions = []
        return tuple(captions), times if known and isinstance(times, list) else []

    def _row(self, item: ItemInfo) -> Row:
        captions, times = item.said
        part = times[slice(item.video[2], item.video[3] + 1)] if len(item.video) > 2 else times
        start, end = (min(part), max(part)) if part else (None, None)
        shard = str(absolute(self._items.shard_of(item)))
        return Row(item.key, shard, str(self.path), item.number, start, end, captions)


class VideoSource:
    """Video files, whole or in windows. folder: below which the keys name them, absolute as they are. unreadable: what
    else is called as videos are there, and is left out."""

    def __init__(
        self,
        files: Sequence[Path],
        request: ClipRequest,
        *,
        batch: int,
        folder: Path,
        windows: Windows | None,
        unreadable: Sequence[LeftOut] = (),
    ) -> None:
        self._files, self._request, self._folder = files, request, folder
        self._batch, self._windows, self._unreadable = batch, windows, tuple(unreadable)
        self.units = ceil(len(files) / batch) if windows is None else len(files)
        self.units_of_a_part = _units_of_a_part(batch) if windows is None else _VIDEOS_OF_A_PART

    @property
    def about(self) -> Mapping[str, Any]:
        sizes = [(self._name(file), file.stat().st_size) for file in self._files]
        content = sha256(repr(sizes).encode()).hexdigest()[:16]
        return {"videos": str(self._folder), "files": len(self._files), "fingerprint": content}

    def make(self, unit: Unit) -> Made:
        if self._windows is not None:
            return self._made(unit, [unit.number])
        numbers = range(unit.number * self._batch, min((unit.number + 1) * self._batch, len(self._files)))
        return self._made(unit, numbers)

    def close(self) -> None:
        """Files are closed after each use."""

    def _made(self, unit: Unit, numbers: Sequence[int]) -> Made:
        rows: list[Row] = []
        views: list[Tensor] = []
        left_out = [*self._unreadable] if (unit.number, unit.first) == (0, 0) else []
        more: list[Unit] = []
        for number in numbers:
            file = self._files[number]
            if not _is_utf8(str(file)):
                left_out.append(LeftOut(printable(self._name(file)), "its path is not in UTF-8: rename it"))
                continue
            try:
                found = clips_of_video(
                    file, self._request, windows=self._windows, first=unit.first, at_most=self._batch
                )
            except DecodeError as error:
                left_out.append(LeftOut(self._name(file), error.what))
            except OSError as error:
                left_out.append(LeftOut(self._name(file), f"cannot be read: {error.strerror or error}"))
            else:
                rows += [self._row(file, clip) for clip in found.clips]
                left_out += [LeftOut(self._name(file), why) for why in found.too_short]
                views += [clip.views for clip in found.clips]
                following = range(self._batch, found.of, self._batch) if unit.first == 0 else ()
                more += [Unit(unit.source, number, first) for first in following]
        request = self._request
        empty = torch.zeros((0, request.frames.count, request.side, request.side, 3), dtype=torch.uint8)
        return Made(tuple(rows), torch.cat([empty, *views]), tuple(left_out), tuple(more))

    def _row(self, file: Path, clip: VideoClip) -> Row:
        start, end = clip.span_s
        return Row(self._name(file), str(file), start_s=float(start), end_s=float(end))

    def _name(self, file: Path) -> str:
        return file.relative_to(self._folder).as_posix()  # not resolved: a file may be a link that leads elsewhere


_CLIPS_OF_A_PART = 1024  # at least, of sets and whole videos; what a kill can cost
_VIDEOS_OF_A_PART = 8  # in windows


def _units_of_a_part(batch: int) -> int:
    return max(1, _CLIPS_OF_A_PART // batch)


def find_sources(
    names: Sequence[str], request: ClipRequest, *, batch: int, captions: str | None, windows: Windows | None
) -> list[Source]:
    """What `names` stand for: a set or table (a folder with a manifest), a video file, a folder of video files. Video
    files that are named one by one are one source.

    Raises ConfigError for what is none of these or does not fit the options, DataError for a set that is damaged.
    """
    sources: list[Source] = []
    files: list[Path] = []
    for name in names:
        path = as_path(name)
        if kind_of(path / MANIFEST) == "file":
            _refuse_windows(path, windows)
            sources.append(SetSource(path, request, batch=batch, captions=captions))
            continue
        _refuse_captions(path, captions)
        kind = kind_of(path) if is_local(path) else None
        if kind == "file":
            files.append(absolute(path.parent) / path.name)
        elif kind == "folder":
            folder = absolute(path)
            found, bad = videos_below(folder)
            sources.append(VideoSource(found, request, batch=batch, folder=folder, windows=windows, unreadable=bad))
        else:
            raise ConfigError(
                f"{path} is not there" if is_local(path) else f"{path} is no set of shards: it has no {MANIFEST}",
                hint="name a set or table that `umt-data` made, a video file, or a folder of video files",
            )
    if files:
        folder = common_folder([file.parent for file in files])
        sources.append(VideoSource(files, request, batch=batch, folder=folder, windows=windows))
    return sources


def videos_below(folder: Path) -> tuple[list[Path], list[LeftOut]]:
    """The video files below a folder by their suffixes, sorted, and what is called so and is no file, with what it is.
    Raises DataError where there are none, or a folder cannot be read: nobody knows what is in it."""
    files: list[Path] = []
    others: list[LeftOut] = []
    for below in files_below(folder):
        if (why := below.others.get("")) is not None:
            raise DataError(f"{folder / below.folder}: {why}", hint="make it readable; or name the other folders")
        files += [folder / below.folder / name for name in below.files if _is_video(name)]
        named = {(Path(below.folder) / name).as_posix(): what for name, what in below.others.items()}
        others += [LeftOut(name, what) for name, what in named.items() if _is_video(name)]
    if not files:
        raise DataError(
            f"{folder} holds no video files and is no set of shards ({MANIFEST} is not there)",
            hint=f"videos end in {some(VIDEO_SUFFIXES)}",
        )
    return sorted(files), sorted(others, key=lambda one: one.key)


def _is_utf8(name: str) -> bool:
    """Whether a file can be called so in an index. Names on a disk are any bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_video(name: str) -> bool:
    return name.rpartition(".")[2].lower() in VIDEO_SUFFIXES


def _refuse_windows(path: Path, windows: Windows | None) -> None:
    if windows is not None:
        raise ConfigError(
            f"--window is for video files, and {path} is a set, whose items are its clips",
            hint="leave --window and --stride away; or name the video files that the set was made of",
        )


def _refuse_captions(path: Path, captions: str | None) -> None:
    if captions is not None:
        raise ConfigError(
            f"--captions is for sets, and {path} is none: a video file says nothing",
            hint="make a set of the videos with their captions: umt-data folder VIDEOS SET --captions FILE",
        )

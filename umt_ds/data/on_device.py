"""The last work on the pixels of a batch, where the training device does it: decoding, crop, resize, flip.

A worker packs what it leaves undone, with the same keyed views that it would have rendered itself; `finish` renders
them from there, on any device. A value is that of `augment.render`, or its neighbour. nvJPEG, which decodes on CUDA,
is no libjpeg: it repeats chroma samples where libjpeg interpolates between them.

V views (the draws of a micro-batch, times the views of each), T frames, H x W pixels.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from umt_ds.batch import Movable
from umt_ds.data.clips import Clip
from umt_ds.data.pipeline import BatchMemory
from umt_ds.data.pixels.augment import Crop, Pixels, Placement, View, cut, resize_plainly
from umt_ds.data.pixels.decode import decode_pictures
from umt_ds.errors import DataError, DecodeError

log = logging.getLogger(__name__)

OnDevice = Literal["nothing", "resize", "decode"]


@dataclass(frozen=True)
class _Piece:
    """One view, yet to be rendered from T frames."""

    draw: int
    key: str
    view: View
    shape: tuple[int, ...]  # [T,h,w,3] of the frames that are packed
    start: int  # where they begin in `pixels`; for JPEG, the number of the first in `files`
    is_jpeg: bool


@dataclass(frozen=True)
class EncodedFrames(Movable):
    """What the device makes the pixels of a micro-batch from."""

    pixels: Tensor  # u8, the frames of the pieces one after another
    files: Tensor  # u8, JPEG files one after another
    file_sizes: tuple[int, ...]
    pieces: tuple[_Piece, ...]  # V


class Packer:
    """Collects the views of a micro-batch in a worker."""

    def __init__(self) -> None:
        self._pixels: list[Pixels] = []
        self._files: list[bytes] = []
        self._pieces: list[_Piece] = []
        self._num_pixels = 0

    def add(self, clip: Clip, view: View, *, draw: int) -> None:
        """One more view: its crop, or the files of a clip that is not decoded (once for all views of a draw)."""
        if clip.jpegs is not None:
            is_next = not self._pieces or self._pieces[-1].draw != draw
            start = len(self._files) if is_next else self._pieces[-1].start
            self._files += clip.jpegs.files if is_next else ()
            shape = (len(clip.jpegs.files), clip.jpegs.height, clip.jpegs.width, 3)
            self._pieces.append(_Piece(draw, clip.key, view, shape, start, is_jpeg=True))
            return
        inside = cut(clip.frames, view.placement.crop).copy()
        whole = Crop(0, 0, view.placement.crop.width, view.placement.crop.height)
        rest = replace(view, placement=replace(view.placement, crop=whole))
        self._pieces.append(_Piece(draw, clip.key, rest, inside.shape, self._num_pixels, is_jpeg=False))
        self._pixels.append(inside)
        self._num_pixels += inside.size

    def pack(self, memory: BatchMemory, name: str) -> EncodedFrames:
        """All of it in two buffers, which travel as pixels of a batch do."""
        pixels = memory(f"{name} pixels", (self._num_pixels,))
        np.concatenate([np.empty(0, np.uint8), *(crop.ravel() for crop in self._pixels)], out=pixels.numpy())
        sizes = tuple(len(file) for file in self._files)
        files = memory(f"{name} files", (sum(sizes),))
        files.numpy()[:] = np.frombuffer(b"".join(self._files), np.uint8)
        return EncodedFrames(pixels, files, sizes, tuple(self._pieces))


def finish(packed: EncodedFrames, *, side: int, device: torch.device) -> Tensor:
    """Render all views on `device`: u8 [V,T,side,side,3]. Raises DataError for a frame that nobody can decode."""
    pixels = packed.pixels.to(device, non_blocking=True)
    pictures = _decode(packed, device)  # nvJPEG takes its files from the host
    frames = [_frames_of(piece, pixels, pictures) for piece in packed.pieces]  # V of u8 [T,3,h,w]
    out = torch.empty((len(frames), len(frames[0]), side, side, 3), dtype=torch.uint8, device=device)
    for rows in _alike(packed.pieces):
        placement = packed.pieces[rows[0]].view.placement
        resized = _resize(torch.stack([frames[row] for row in rows]), placement)  # u8 [n,T,3,h,w]
        for row, picture in zip(rows, resized, strict=True):
            turned = picture.flip(3) if packed.pieces[row].view.mirrored else picture
            shown = turned[:, :, placement.top : placement.top + side, placement.left : placement.left + side]
            out[row] = shown.permute(0, 2, 3, 1)
    return out


def _alike(pieces: Sequence[_Piece]) -> list[list[int]]:
    """The rows that are resized together: those with crops of one size."""
    rows = defaultdict(list)
    for row, piece in enumerate(pieces):
        crop, size = piece.view.placement.crop, piece.view.placement.size
        rows[crop.width, crop.height, size].append(row)
    return list(rows.values())


def _frames_of(piece: _Piece, pixels: Tensor, pictures: Sequence[Tensor]) -> Tensor:
    """The crop of one view, u8 [T,3,h,w]."""
    num_frames, height, width, _ = piece.shape
    if piece.is_jpeg:
        frames = torch.stack(list(pictures[piece.start : piece.start + num_frames]))
    else:
        flat = pixels[piece.start : piece.start + num_frames * height * width * 3]
        frames = flat.view(piece.shape).permute(0, 3, 1, 2)
    crop = piece.view.placement.crop
    return frames[:, :, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]


def _resize(frames: Tensor, placement: Placement) -> Tensor:
    """u8 [n,T,3,H,W] → u8 [n,T,3,h,w]; the sums are taken in fp32, and rounded once where Pillow rounds twice."""
    if frames.shape[-2:] == placement.size[::-1]:
        return frames
    if not placement.antialias:
        return torch.unflatten(resize_plainly(frames.flatten(0, 1), placement), 0, frames.shape[:2])
    exact = F.interpolate(
        frames.flatten(0, 1).float(), size=placement.size[::-1], mode=placement.filter, antialias=True
    )
    rounded = exact.add_(0.5).clamp_(0, 255).to(torch.uint8)  # to(uint8) cuts off; bicubic sums leave the range
    return rounded.view(*frames.shape[:3], *exact.shape[-2:])


def _decode(packed: EncodedFrames, device: torch.device) -> list[Tensor]:
    """All files, each u8 [3,H,W] on `device`. What the device cannot decode, the host may."""
    if not packed.file_sizes:
        return []
    files = torch.split(packed.files, list(packed.file_sizes))
    # only here: deprecated in torchvision 0.29, and torchcodec, which is to follow, is not where torch is
    from torchvision.io import ImageReadMode, decode_jpeg

    try:
        pictures: list[Tensor] = decode_jpeg(list(files), mode=ImageReadMode.RGB, device=device)
        return pictures
    except RuntimeError as error:  # it does not say which
        log.warning("decoding on %s failed, the host does these %d files: %s", device, len(files), error)
    return [_decode_on_host(packed, number, file).to(device) for number, file in enumerate(files)]


def _decode_on_host(packed: EncodedFrames, number: int, file: Tensor) -> Tensor:
    try:
        return torch.from_numpy(decode_pictures([file.numpy().tobytes()])[0]).permute(2, 0, 1)
    except DecodeError as error:
        piece = next(p for p in packed.pieces if p.is_jpeg and p.start <= number < p.start + p.shape[0])
        raise DataError(
            f"draw {piece.draw}: a frame of {piece.key} cannot be decoded: {error.what}",
            hint=f"data.skip_draws=[[{piece.draw},{piece.draw + 1}]] shows another clip; with "
            "data.augment.on_device=resize the workers decode, and put one in its place by themselves",
        ) from error

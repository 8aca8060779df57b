"""What happens to the pixels of a clip between decoding and the model: crop, resize, colour, flip.

All frames of a clip are treated alike, and every choice comes from a keyed stream. Pixels stay uint8;
the model normalises on its device. T frames, H x W pixels.

torch resizes, bilinear (stage 1, recognition) or bicubic (stage 2): on bytes it follows Pillow's arithmetic with
weights of 15 bits for 22, six times as fast. A value is Pillow's or, where that sum lies close to a half, its
neighbour; Pillow does the colours. Without antialias a value is that of published tensors, to the byte.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, assert_never

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from torch import Tensor
from torch.nn import functional as F

from umt_ds.data.pixels.rand_augment import Box, Change, change_frames
from umt_ds.errors import ConfigError
from umt_ds.keyed import Stream

CROP_SCALES = (1.0, 0.875, 0.75, 0.66)
RATIOS = (3 / 4, 4 / 3)  # width to height of a random part of a frame
_TRIES = 10

Pixels = NDArray[np.uint8]
CropKind = Literal["multi_scale", "random_resized", "center"]
Filter = Literal["bilinear", "bicubic"]
ColourOp = tuple[Literal["brightness", "contrast", "saturation", "hue"], float]


@dataclass(frozen=True)
class Crop:
    """A rectangle in pixels."""

    left: int
    top: int
    width: int
    height: int

    @property
    def box(self) -> Box:
        """As Pillow gives a rectangle."""
        return self.left, self.top, self.left + self.width, self.top + self.height


@dataclass(frozen=True)
class ColorJitter:
    """Strengths as in torchvision's ColorJitter: factor in [1 - s, 1 + s], hue shift in [-hue, hue] ≤ 0.5."""

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        if min(self.brightness, self.contrast, self.saturation, self.hue) < 0 or self.hue > 0.5:
            raise ConfigError(f"{self}: strengths must not be negative, and hue at most 0.5")

    def draw(self, stream: Stream) -> list[ColourOp]:
        """The operations that are on, with their factors, in a random order."""
        ops: list[ColourOp] = []
        if self.brightness:
            ops.append(("brightness", stream.uniform(max(0.0, 1 - self.brightness), 1 + self.brightness)))
        if self.contrast:
            ops.append(("contrast", stream.uniform(max(0.0, 1 - self.contrast), 1 + self.contrast)))
        if self.saturation:
            ops.append(("saturation", stream.uniform(max(0.0, 1 - self.saturation), 1 + self.saturation)))
        if self.hue:
            ops.append(("hue", stream.uniform(-self.hue, self.hue)))
        return sorted(ops, key=lambda _: stream.raw())


NO_JITTER = ColorJitter()


@dataclass(frozen=True)
class Placement:
    """How a frame becomes a square: cut `crop`, resize to `size` (w, h), keep side x side at (left, top).

    antialias: a pixel is the mean of all that it covers; without, of the nearest alone (METHOD.md, "Antialias").
    """

    crop: Crop
    size: tuple[int, int]
    left: int = 0
    top: int = 0
    filter: Filter = "bilinear"
    antialias: bool = True


@dataclass(frozen=True)
class View:
    """All that chance decides about one view of a clip."""

    placement: Placement
    colours: Sequence[ColourOp] = ()
    mirrored: bool = False
    changes: Sequence[Change] = ()  # RandAugment, of whole frames before the crop


def draw_view(
    width: int,
    height: int,
    *,
    side: int,
    stream: Stream,
    crop: CropKind = "multi_scale",
    scale: tuple[float, float] = (0.5, 1.0),
    filter: Filter = "bicubic",
    flip: bool = False,
    jitter: ColorJitter = NO_JITTER,
    antialias: bool = True,
) -> View:
    """A random view of a clip of that size: crop and resize, colour jitter, then with `flip` a mirror image half of
    the time. random_resized: `scale` is the part of the area, `filter` how it is resized.

    Source: METHOD.md, "Crops: stage 1", "Crops: stage 2", "Crops: recognition".
    """
    match crop:
        case "multi_scale":
            area = draw_crop(width, height, side=side, stream=stream)
            placement = Placement(area, (side, side), antialias=antialias)
        case "random_resized":
            area = draw_area(width, height, scale=scale, stream=stream)
            placement = Placement(area, (side, side), filter=filter, antialias=antialias)
        case "center":
            placement = centred(width, height, side, antialias=antialias)
        case _:
            assert_never(crop)
    colours = jitter.draw(stream)
    return View(placement, colours, mirrored=flip and stream.integer(2) == 1)


def centre_view(frames: Pixels, *, side: int, antialias: bool = True) -> Pixels:
    """The view for evaluation, without chance: u8 [T,H,W,3] → u8 [T,side,side,3]."""
    return _placed(frames, centred(frames.shape[2], frames.shape[1], side, antialias=antialias), side)


def stretch_view(frames: Pixels, *, side: int, antialias: bool = True) -> Pixels:
    """The whole frame in a square, whatever its shape: u8 [T,H,W,3] → u8 [T,side,side,3].

    Source: METHOD.md, "Crops: stage 2" (bicubic; published without antialias).
    """
    crop = Crop(0, 0, frames.shape[2], frames.shape[1])
    return _placed(frames, Placement(crop, (side, side), filter="bicubic", antialias=antialias), side)


def _placed(frames: Pixels, placement: Placement, side: int) -> Pixels:
    out = np.empty((len(frames), side, side, 3), np.uint8)
    render(frames, View(placement), out)
    return out


def centred(width: int, height: int, side: int, *, antialias: bool = True) -> Placement:
    """Short side to `side`, then the centre. Source: METHOD.md, "Crops: stage 1" (with PIL's bilinear filter)."""
    short = min(width, height)
    size = (side * width // short, side * height // short)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return Placement(Crop(0, 0, width, height), size, left, top, antialias=antialias)


def draw_crop(width: int, height: int, *, side: int, stream: Stream) -> Crop:
    """One of the 10 sizes at one of the 13 places, both uniform. Source: METHOD.md, "Crops: stage 1"."""
    sizes = crop_sizes(width, height, side)
    crop_width, crop_height = sizes[stream.integer(len(sizes))]
    corners = crop_corners(width - crop_width, height - crop_height)
    left, top = corners[stream.integer(len(corners))]
    return Crop(left, top, crop_width, crop_height)


def draw_area(width: int, height: int, *, scale: tuple[float, float], stream: Stream) -> Crop:
    """A part of the area between `scale`, its shape between 3:4 and 4:3, anywhere; the largest such one in the centre
    where ten draws do not fit. Source: METHOD.md, "Crops: stage 2", torchvision's RandomResizedCrop.
    """
    low, high = RATIOS
    for _ in range(_TRIES):
        area = width * height * stream.uniform(*scale)
        ratio = math.exp(stream.uniform(math.log(low), math.log(high)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return Crop(stream.integer(width - w + 1), stream.integer(height - h + 1), w, h)
    w, h = min(width, round(height * high)), min(height, round(width / low))
    return Crop((width - w) // 2, (height - h) // 2, w, h)


@lru_cache(maxsize=256)  # the clips of a set are of few sizes
def crop_sizes(width: int, height: int, side: int) -> Sequence[tuple[int, int]]:
    """The (width, height) pairs of neighbouring scales of the short side: 10 of 4 x 4.

    A size within 3 pixels of `side` becomes `side`, which saves the resize. Never larger than the
    picture, though: the published code pads with black there.
    """
    base = min(width, height)
    exact = [int(base * scale) for scale in CROP_SCALES]
    sizes = [side if abs(size - side) < 3 and side <= base else max(size, 1) for size in exact]
    return [(w, h) for i, h in enumerate(sizes) for j, w in enumerate(sizes) if abs(i - j) <= 1]


@lru_cache(maxsize=256)
def crop_corners(free_width: int, free_height: int) -> Sequence[tuple[int, int]]:
    """The 13 (left, top) places of a crop, on a grid of quarters of the room left around it."""
    x, y = free_width // 4, free_height // 4
    corners = [(0, 0), (4, 0), (0, 4), (4, 4), (2, 2)]
    edge_middles = [(0, 2), (4, 2), (2, 4), (2, 0)]
    quarters = [(1, 1), (3, 1), (1, 3), (3, 3)]
    return [(column * x, row * y) for column, row in corners + edge_middles + quarters]


def render(frames: Pixels, view: View, out: Pixels) -> None:
    """The same treatment for every frame. u8 [T,H,W,3] → out, u8 [T,side,side,3]."""
    placement, side = view.placement, out.shape[1]
    target = torch.from_numpy(out).permute(0, 3, 1, 2)  # [T,3,side,side]
    inside = change_frames(frames, view.changes, placement.crop.box) if view.changes else cut(frames, placement.crop)
    pictures = torch.from_numpy(inside).permute(0, 3, 1, 2)  # [T,3,H,W]
    # first, while the pixels are copied anyway: mirror image and antialiased resize commute, bit for bit
    if view.mirrored and placement.antialias:
        pictures = pictures.flip(3)
    is_resized = (placement.crop.width, placement.crop.height) != placement.size
    if is_resized and placement.antialias and placement.size == (side, side) and not view.colours:
        _resize(pictures, placement, out=target)
        return
    if is_resized:
        pictures = _resize(pictures, placement) if placement.antialias else resize_plainly(pictures, placement)
    if view.mirrored and not placement.antialias:
        pictures = pictures.flip(3)
    if view.colours:
        pictures = _recoloured_clip(pictures, view.colours)
    target.copy_(pictures[:, :, placement.top : placement.top + side, placement.left : placement.left + side])


def cut(frames: Pixels, crop: Crop) -> Pixels:
    """The pixels inside `crop`, not copied: the resize must not see those outside. u8 [T,H,W,3] → u8 [T,h,w,3]."""
    return frames[:, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]


def _resize(pictures: Tensor, placement: Placement, out: Tensor | None = None) -> Tensor:
    """u8 [T,3,H,W] → u8 [T,3,h,w], antialiased. What F.interpolate calls, which has no `out` (torch 2.14)."""
    kernels = torch._C._nn
    bilinear = placement.filter == "bilinear"
    resize: Callable[..., Tensor] = kernels._upsample_bilinear2d_aa if bilinear else kernels._upsample_bicubic2d_aa
    return resize(pictures, placement.size[::-1], False, None, None, out=out)


def resize_plainly(pictures: Tensor, placement: Placement) -> Tensor:
    """u8 [n,3,H,W] → u8 [n,3,h,w] without antialias, on any device: as torchvision 0.13 resizes tensors, in fp32."""
    # what stands pixel by pixel is twice as slow to take bicubic sums of
    layout = torch.contiguous_format if placement.filter == "bicubic" else torch.preserve_format
    exact = F.interpolate(
        pictures.to(torch.float32, memory_format=layout), size=placement.size[::-1], mode=placement.filter
    )
    return exact.round_().clamp_(0, 255).to(torch.uint8)  # bicubic sums leave the range


def _recoloured_clip(pictures: Tensor, colours: Sequence[ColourOp]) -> Tensor:
    """u8 [T,3,h,w] → u8 [T,3,h,w]."""
    recoloured = []
    for pixels in pictures.permute(0, 2, 3, 1).numpy():
        picture = Image.fromarray(pixels)
        for op in colours:
            picture = _recoloured(picture, op)
        recoloured.append(np.asarray(picture))
    return torch.from_numpy(np.stack(recoloured)).permute(0, 3, 1, 2)


def _recoloured(picture: Image.Image, op: ColourOp) -> Image.Image:
    """One colour operation, as torchvision does it on PIL pictures."""
    kind, factor = op
    match kind:
        case "brightness":
            return ImageEnhance.Brightness(picture).enhance(factor)
        case "contrast":
            return ImageEnhance.Contrast(picture).enhance(factor)
        case "saturation":
            return ImageEnhance.Color(picture).enhance(factor)
        case "hue":
            hue, saturation, value = picture.convert("HSV").split()
            shifted = np.asarray(hue) + np.uint8(int(factor * 255) % 256)  # wraps around the circle
            return Image.merge("HSV", (Image.fromarray(shifted), saturation, value)).convert("RGB")
        case _:
            assert_never(kind)

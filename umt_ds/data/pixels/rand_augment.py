"""RandAugment of clips: a few random changes of colour or shape, alike in all frames.

Written as timm's, but for chance: a clip's changes come from its keyed stream. Whole frames are timm's to the byte; in
a part of a moved frame, rounding can change a pixel by one level.
Source: METHOD.md, "Crops: recognition". T frames, H x W pixels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, assert_never, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from umt_ds.keyed import Stream

Operation = Literal[
    "AutoContrast", "Equalize", "Invert", "Rotate", "PosterizeIncreasing", "SolarizeIncreasing", "SolarizeAdd",
    "ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing", "SharpnessIncreasing", "ShearX", "ShearY",
    "TranslateXRel", "TranslateYRel",
]  # fmt: skip
OPERATIONS: tuple[Operation, ...] = get_args(Operation)

Box = tuple[int, int, int, int]  # left, top, right, bottom
_PROB = 0.5  # of each drawn operation to be applied
_MOST = 10.0  # magnitude
_FILL = (128, 128, 128)  # where a frame was moved away
_SOLARIZE_ADD_BELOW = 128
_MOVES = frozenset({"Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel"})
# those in which a pixel depends on others
_LOOK_AROUND = _MOVES | {"AutoContrast", "Equalize", "ContrastIncreasing", "SharpnessIncreasing"}

Matrix = tuple[float, float, float, float, float, float]  # x, y → a·x + b·y + c, d·x + e·y + f, as Pillow's AFFINE


@dataclass(frozen=True)
class Change:
    """One operation, with what it is called with: degrees, factor, bits, threshold, part of the size."""

    operation: Operation
    argument: float


@dataclass(frozen=True)
class RandAugment:
    """`num_operations` of the 15, drawn with replacement; each is applied half of the time, with a magnitude (0 to 10)
    from a normal distribution."""

    magnitude: float
    num_operations: int
    deviation: float = 0.0

    def draw(self, stream: Stream) -> list[Change]:
        """The changes of one view: those that are applied, in their order."""
        drawn = [self._draw_one(stream) for _ in range(self.num_operations)]
        return [change for change in drawn if change is not None]

    def _draw_one(self, stream: Stream) -> Change | None:
        operation = OPERATIONS[stream.integer(len(OPERATIONS))]
        is_applied = stream.uniform() < _PROB
        magnitude = min(max(stream.normal(self.magnitude, self.deviation), 0.0), _MOST)
        sign = 1 if stream.integer(2) else -1
        return Change(operation, argument_of(operation, magnitude, sign=sign)) if is_applied else None


def parse_rand_augment(text: str) -> RandAugment:
    """From timm's notation, whose form the settings have checked: rand-m7-n4-mstd0.5-inc1."""
    found = re.fullmatch(r"rand-m([\d.]+)-n(\d+)(?:-mstd([\d.]+))?-inc1", text, re.ASCII)
    assert found, text
    magnitude, count, deviation = found.groups()
    return RandAugment(float(magnitude), int(count), float(deviation or 0))


def argument_of(operation: Operation, magnitude: float, *, sign: int = 1) -> float:
    """What an operation of `magnitude` 0 to 10 is called with; 0 where it takes nothing. sign: 1 or -1, of what has a
    direction. Source: METHOD.md, "Crops: recognition".
    """
    part = magnitude / _MOST
    match operation:
        case "AutoContrast" | "Equalize" | "Invert":
            return 0
        case "Rotate":
            return sign * part * 30
        case "PosterizeIncreasing":
            return 4 - int(part * 4)
        case "SolarizeIncreasing":
            return 256 - int(part * 256)
        case "SolarizeAdd":
            return int(part * 110)
        case "ColorIncreasing" | "ContrastIncreasing" | "BrightnessIncreasing" | "SharpnessIncreasing":
            return max(0.1, 1 + sign * part * 0.9)
        case "ShearX" | "ShearY":
            return sign * part * 0.3
        case "TranslateXRel" | "TranslateYRel":
            return sign * part * 0.45
        case _:
            assert_never(operation)


def change_frames(frames: NDArray[np.uint8], changes: Sequence[Change], box: Box) -> NDArray[np.uint8]:
    """The part `box` of every frame after all changes of the whole frame: u8 [T,H,W,3] → u8 [T,h,w,3].

    Only what is asked for is computed: the last change that brings pixels from elsewhere makes the box alone, and what
    follows it works there.
    """
    left, top, right, bottom = box
    last = max((place for place, change in enumerate(changes) if change.operation in _LOOK_AROUND), default=-1)
    changed = np.empty((len(frames), bottom - top, right - left, 3), np.uint8)
    for pixels, out in zip(frames, changed, strict=True):
        picture = Image.fromarray(pixels)
        for change in changes[: max(last, 0)]:
            picture = _changed(picture, change, (0, 0, *picture.size))
        picture = picture.crop(box) if last < 0 else _changed(picture, changes[last], box)
        for change in changes[last + 1 :]:
            picture = _changed(picture, change, (0, 0, *picture.size))
        out[:] = np.asarray(picture)
    return changed


def _changed(picture: Image.Image, change: Change, box: Box) -> Image.Image:
    """The part `box` of the changed picture."""
    if change.operation in _MOVES:
        matrix = _matrix(change, *picture.size)
        return picture.transform(
            (box[2] - box[0], box[3] - box[1]),
            Image.Transform.AFFINE,
            _from_corner(matrix, box[0], box[1]),
            resample=Image.Resampling.BICUBIC,
            fillcolor=_FILL,
        )
    changed = _recoloured(picture, change)
    return changed if box == (0, 0, *picture.size) else changed.crop(box)


def _recoloured(picture: Image.Image, change: Change) -> Image.Image:
    argument = change.argument
    match change.operation:
        case "AutoContrast":
            return ImageOps.autocontrast(picture)
        case "Equalize":
            return ImageOps.equalize(picture)
        case "Invert":
            return ImageOps.invert(picture)
        case "PosterizeIncreasing":
            dropped = 8 - int(argument)  # all 8 at magnitude 10: black, which Pillow 13's own posterize refuses
            return picture.point([level >> dropped << dropped for level in range(256)] * 3)
        case "SolarizeIncreasing":
            return ImageOps.solarize(picture, int(argument))
        case "SolarizeAdd":
            brighter = [min(255, level + int(argument)) for level in range(_SOLARIZE_ADD_BELOW)]
            return picture.point([*brighter, *range(_SOLARIZE_ADD_BELOW, 256)] * 3)
        case "ColorIncreasing":
            return ImageEnhance.Color(picture).enhance(argument)
        case "ContrastIncreasing":
            return ImageEnhance.Contrast(picture).enhance(argument)
        case "BrightnessIncreasing":
            return ImageEnhance.Brightness(picture).enhance(argument)
        case "SharpnessIncreasing":
            return ImageEnhance.Sharpness(picture).enhance(argument)
    raise AssertionError(change.operation)


def _matrix(change: Change, width: int, height: int) -> Matrix:
    """Where in a frame a pixel of the moved frame lies."""
    match change.operation, change.argument:
        case "Rotate", degrees:
            return _rotation(degrees, width / 2, height / 2)
        case "ShearX", part:
            return 1, part, 0, 0, 1, 0
        case "ShearY", part:
            return 1, 0, 0, part, 1, 0
        case "TranslateXRel", part:
            return 1, 0, part * width, 0, 1, 0
        case "TranslateYRel", part:
            return 1, 0, 0, 0, 1, part * height
    raise AssertionError(change.operation)


def _rotation(degrees: float, x: float, y: float) -> Matrix:
    """Around (x, y), with the rounding of Pillow's `Image.rotate`."""
    angle = -math.radians(degrees)
    cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
    return cos, sin, cos * -x + sin * -y + x, -sin, cos, -sin * -x + cos * -y + y


def _from_corner(matrix: Matrix, left: int, top: int) -> Matrix:
    """The same for a picture that begins at (left, top)."""
    a, b, c, d, e, f = matrix
    return a, b, a * left + b * top + c, d, e, d * left + e * top + f

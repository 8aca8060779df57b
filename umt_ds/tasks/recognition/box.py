"""A box of pixels: what CutMix pastes and erasing fills, the same in all frames of a clip."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Box(NamedTuple):
    """Rows top … bottom - 1 and columns left … right - 1."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def area(self) -> int:
        return self.height * self.width

    def of(self, pixels: Tensor) -> Tensor:
        """The pixels inside, to read and to write: [...,H,W] → [...,h,w]."""
        return pixels[..., self.top : self.bottom, self.left : self.right]

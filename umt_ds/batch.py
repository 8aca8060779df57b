"""The types that travel between the rooms: a batch of clips, text tokens, losses.

Shapes: B clips (rows), T frames, H x W pixels, L text length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

Media = Literal["image", "video"]


@dataclass(frozen=True)
class Tokens:
    """Text as token ids. ids: i64 [B,L]; mask: bool [B,L], True where a token is (not padding). clip_ids: i64 [B,77],
    the same text for CLIP, where its text tower is a teacher."""

    ids: Tensor
    mask: Tensor
    clip_ids: Tensor | None = None

    def moved(self, move: Callable[[Tensor], Tensor]) -> Tokens:
        """The same text, each tensor moved."""
        clip_ids = None if self.clip_ids is None else move(self.clip_ids)
        return Tokens(move(self.ids), move(self.mask), clip_ids)


@dataclass(frozen=True)
class Batch:
    """One micro-batch as the loader hands it over: pixels stay uint8 until the model needs them.

    `draws` is the number of the draw each row came from; `slots` is the row's place in the global
    batch of its step (0 … views_per_step - 1): masks and drop path are keyed by it.
    `packed_with` holds the rows of the other medium, where images and clips share a micro-batch.
    """

    media: Media
    pixels: Tensor  # u8 [B,T,H,W,3]
    draws: Tensor  # i64 [B]
    slots: Tensor  # i64 [B]
    keys: tuple[str, ...]  # B sample keys, as shown (a substitute's own key)
    digest: int = 0  # sum mod 2^64 over the draws: (draw, key, crc of what was read)
    substituted: int = 0  # draws that show a substitute, because their own sample is bad
    text: Tokens | None = None
    labels: Tensor | None = None  # i64 [B]; -1 where a sample has none
    ids: Tensor | None = None  # i64 [B], a hash of source and key: equal for rows that show the same sample
    packed_with: Batch | None = None

    @property
    def parts(self) -> tuple[Batch, ...]:
        """The rows of one medium each: itself, and what it is packed with."""
        return (self,) if self.packed_with is None else (replace(self, packed_with=None), self.packed_with)

    def rows(self, start: int, stop: int) -> Batch:
        """Some of its rows; what is counted over all of them (digest, substitutes) stays behind."""
        assert self.packed_with is None, "take the rows of each part"

        def some(tensor: Tensor) -> Tensor:
            return tensor[start:stop]

        return replace(self._moved(some), keys=self.keys[start:stop], digest=0, substituted=0)

    def to(self, device: torch.device) -> Batch:
        """The same batch with its tensors on `device` (asynchronous from pinned memory)."""
        return self._moved(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The same batch in pinned host memory, from which a CUDA device copies asynchronously."""
        return self._moved(Tensor.pin_memory)

    def _moved(self, move: Callable[[Tensor], Tensor]) -> Batch:
        return replace(
            self,
            pixels=move(self.pixels),
            draws=move(self.draws),
            slots=move(self.slots),
            text=None if self.text is None else self.text.moved(move),
            labels=None if self.labels is None else move(self.labels),
            ids=None if self.ids is None else move(self.ids),
            packed_with=None if self.packed_with is None else self.packed_with._moved(move),
        )


@dataclass(frozen=True)
class Losses:
    """What a forward pass returns: `total` to differentiate, `parts` to log (fp32 scalars, detached).

    `digest` is an i64 scalar: the sum (mod 2^64) over the rows of a hash of what was drawn on the device
    for them, such as the mask. Equal digests at equal steps mean equal draws.
    """

    total: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)
    digest: Tensor | None = None

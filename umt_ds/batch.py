"""The types that travel between the rooms: a batch of clips, text tokens, losses.

Shapes: B clips (rows), T frames, H x W pixels, L text length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor

Media = Literal["image", "video"]


class Movable:
    """A dataclass whose tensors travel together, whatever fields it has, or gets later.

    The walk goes through dataclasses, tuples, lists and dicts; what holds no tensor stays the same object.
    """

    def moved(self, move: Callable[[Tensor], Tensor]) -> Self:
        """The same with each tensor moved."""
        moved: Self = _moved(self, move)
        return moved

    def to(self, device: torch.device) -> Self:
        """The same with its tensors on `device` (asynchronous from pinned memory)."""
        return self.moved(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        """The same in pinned host memory, from which a CUDA device copies asynchronously (torch's DataLoader asks)."""
        return self.moved(lambda tensor: tensor.pin_memory())


def _moved(value: Any, move: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return move(value)
    if is_dataclass(value) and not isinstance(value, type):
        old = {each.name: getattr(value, each.name) for each in fields(value)}
        new = _moved(old, move)
        return value if new is old else replace(value, **new)
    if isinstance(value, (tuple, list, dict)):
        old_items = value.values() if isinstance(value, dict) else value
        items = [_moved(item, move) for item in old_items]
        if all(new is old for new, old in zip(items, old_items, strict=True)):
            return value
        if isinstance(value, dict):
            return dict(zip(value, items, strict=True))
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)  # named tuples take arguments
    return value


class Rowwise(Movable):
    """A dataclass whose tensors all have a row for each of B rows: one walk cuts and repeats them, as `moved` does."""

    def rows(self, start: int, stop: int) -> Self:
        """Some of its rows."""
        return self.moved(lambda tensor: tensor[start:stop])

    def repeated(self, times: int) -> Self:
        """Each row so often, side by side."""
        return self.moved(lambda tensor: tensor.repeat_interleave(times, 0))


@dataclass(frozen=True)
class Tokens(Rowwise):
    """Text as token ids. ids: i64 [B,L]; mask: bool [B,L], True where a token is (not padding). clip_ids: i64 [B,77],
    the same text for CLIP, where its text tower is a teacher."""

    ids: Tensor
    mask: Tensor
    clip_ids: Tensor | None = None


@dataclass(frozen=True)
class Answers(Rowwise):
    """Answers to the questions of B rows, each with so many places as the row with the most has. ids: i64 [B,A,L];
    mask: bool [B,A,L], True where a token is; weights: f32 [B,A], what each answer counts, 0 in a place without one."""

    ids: Tensor
    mask: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Targets(Rowwise):
    """What the rows are held against: each field that the run's task asks for, None for the others."""

    labels: Tensor | None = None  # i64 [B]; -1 where a sample has none
    answers: Answers | None = None


@dataclass(frozen=True)
class Batch(Movable):
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
    targets: Targets = Targets()
    ids: Tensor | None = None  # i64 [B], a hash of source and key: equal for rows that show the same sample
    packed_with: Batch | None = None

    @property
    def parts(self) -> tuple[Batch, ...]:
        """The rows of one medium each: itself, and what it is packed with."""
        return (self,) if self.packed_with is None else (replace(self, packed_with=None), self.packed_with)

    def rows(self, start: int, stop: int) -> Batch:
        """Some of its rows; what is counted over all of them (digest, substitutes) stays behind."""
        assert self.packed_with is None, "take the rows of each part"
        some = self.moved(lambda tensor: tensor[start:stop])
        return replace(some, keys=self.keys[start:stop], digest=0, substituted=0)


class Losses(NamedTuple):
    """What a forward pass returns: `total` to differentiate, `parts` to log (fp32 scalars, detached).

    `digest` is an i64 scalar: the sum (mod 2^64) over the rows of a hash of what was drawn on the device
    for them, such as the mask. Equal digests at equal steps mean equal draws.

    A tuple, because ZeRO stage 3 finds tensors in tuples, not in dataclasses of ours: there the gradient of an output
    makes it fetch what the module itself owns (DeepSpeed 0.19.8). Without that the temperature of stage 2 gets no
    gradient in a micro-step before which no order of submodules was recorded: the first one, and after an evaluation.
    """

    total: Tensor
    parts: dict[str, Tensor] = {}  # noqa: RUF012  (nobody adds to it)
    digest: Tensor | None = None

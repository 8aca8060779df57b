"""Which patches the student sees. A mask is a tensor of kept indices: static shapes, no boolean indexing.

The draws are keyed by (seed, step, slot): a clip gets the same mask on any rank, at any world size.

Shapes: B clips, T frames, S patches per frame, N = T·S tokens (t·S + s), V visible tokens per clip.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, assert_never

import torch
from torch import Tensor

from umt_ds.errors import ConfigError
from umt_ds.kernels.keep_tokens import keep_tokens
from umt_ds.kernels.keep_tokens.reference import first_sorted
from umt_ds.kernels.philox import Purpose, uniform

MaskKind = Literal["semantic", "random", "tube"]


@dataclass(frozen=True)
class MaskPlan:
    """How to choose the visible patches.

    semantic: per frame, in proportion to the teacher's class-token attention. tube: the same patches in each
    frame, uniformly. random: over the whole clip, uniformly. ratio: the share that is hidden, 0 ≤ ratio < 1.
    """

    kind: MaskKind
    ratio: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.ratio < 1.0:
            raise ConfigError(f"a mask cannot hide a share of {self.ratio}", hint="0 ≤ ratio < 1")

    @property
    def equal_frames(self) -> bool:
        """Whether each frame keeps the same number of patches."""
        return self.kind != "random"

    def visible(self, frames: int, patches: int) -> int:
        """Visible tokens per clip: V. 8 frames of 196 patches at 0.8: 320 semantic or tube, 314 random."""
        if self.kind == "random":
            return _visible_of(frames * patches, self.ratio)
        return frames * _visible_of(patches, self.ratio)

    def keep(
        self, attention: Tensor | None, *, seed: int, step: int, slots: Tensor, frames: int, patches: int
    ) -> Tensor:
        """The kept tokens of each clip: i64 [B,V], sorted, on the device of `slots`.

        attention: f32 [B,T,S], read by semantic masks only. slots: i64 [B], rows of the global batch.
        Raises ConfigError for a semantic mask without attention.
        """
        per_frame = _visible_of(patches, self.ratio)
        match self.kind:
            case "semantic":
                if attention is None:
                    raise ConfigError(
                        "a semantic mask needs class-token attention, and this teacher has none",
                        hint="a tube or random mask, or a teacher with a class token such as clip_b16",
                    )
                return keep_tokens(attention, seed=seed, step=step, slots=slots, visible=per_frame)
            case "random":
                noise = uniform(seed, step, slots, frames * patches, Purpose.MASK)
                return keep_random(noise, visible=self.visible(frames, patches))
            case "tube":
                noise = uniform(seed, step, slots, patches, Purpose.MASK)
                return keep_tube(noise, frames=frames, visible_per_frame=per_frame)
            case _:
                assert_never(self.kind)


def _visible_of(patches: int, ratio: float) -> int:
    # int(): 196 · 0.8 must give 156 hidden and 40 visible, as published.
    return patches - int(patches * ratio)


def keep_random(noise: Tensor, *, visible: int) -> Tensor:
    """Keep `visible` tokens of the whole clip, uniformly: i64 [B,V], sorted. noise: uniform f32 [B,N]."""
    return first_sorted(noise, visible)


def keep_tube(noise: Tensor, *, frames: int, visible_per_frame: int) -> Tensor:
    """Keep the same patches in each frame, uniformly: i64 [B,T·visible], sorted. noise: uniform f32 [B,S]."""
    kept = first_sorted(noise, visible_per_frame)  # [B,v]
    offset = noise.shape[-1] * torch.arange(frames, device=kept.device)
    return (kept[:, None] + offset[:, None]).flatten(1)


_GOLDEN = -0x61C8864680B583EB  # 2^64 / golden ratio as int64


def keep_digest(keep: Tensor, *, step: int, slots: Tensor) -> Tensor:
    """A hash of the masks of one step: i64 scalar, the sum mod 2^64 over clips. No host sync.

    keep: i64 [B,V], slots: i64 [B]. Independent of how the step is cut into ranks and micro-batches, so two
    runs with equal digests drew equal masks.
    """
    clip = _mix(slots * _GOLDEN + step)  # [B]
    return _mix(clip[:, None] + (keep + 1) * _GOLDEN).sum()


def _mix(x: Tensor) -> Tensor:
    """Spread each input bit over the whole int64, arithmetic modulo 2^64 (after the finaliser of splitmix64)."""
    x = (x ^ (x >> 30)) * -0x40A7B892E31B1A47
    x = (x ^ (x >> 27)) * -0x6B2FB644ECCEEE15
    return x ^ (x >> 31)

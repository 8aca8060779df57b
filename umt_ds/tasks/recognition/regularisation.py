"""Erasing and mixing of a micro-batch: what is drawn for its rows, what becomes of their pixels and targets, and a
digest of the draws.

The numbers are drawn on the host, where boxes become slices: nothing here waits for the device.

Shapes: B rows, T frames, H x W pixels, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from umt_ds.config.tasks.recognition import RecognitionConfig
from umt_ds.keyed import add_digests, digest64
from umt_ds.models.layers import PixelStatistics, normalise
from umt_ds.tasks.recognition.box import Box
from umt_ds.tasks.recognition.erasing import draw_boxes, erase_
from umt_ds.tasks.recognition.mixing import Mix, draw_mixes, mix_groups_


class Regularisation:
    """Erases views and mixes groups of rows, as the settings say; keyed by (seed, step, slot)."""

    def __init__(self, config: RecognitionConfig, *, seed: int, statistics: PixelStatistics) -> None:
        self._erasing, self._mixing, self._seed = config.erasing, config.mixing, seed
        self._statistics = statistics

    def __call__(
        self, pixels: Tensor, targets: Tensor, *, step: int, slots: Tensor, host_slots: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels u8 [B,T,H,W,3] and targets f32 [B,C] → normalised f32 [B,3,T,H,W], targets f32 [B,C], and the digest
        of the draws, i64 scalar. slots: i64 [B], on the device and on the host."""
        height, width = pixels.shape[2:4]
        boxes = draw_boxes(self._erasing, seed=self._seed, step=step, slots=host_slots, height=height, width=width)
        mixes = draw_mixes(self._mixing, seed=self._seed, step=step, slots=host_slots, height=height, width=width)
        clips = normalise(pixels, self._statistics).permute(0, 4, 1, 2, 3)  # [B,3,T,H,W]
        targets = targets.clone()
        erase_(clips, boxes, seed=self._seed, step=step, slots=slots)
        mix_groups_(clips, targets, mixes)
        word = draws_digest(boxes, mixes, step=step, slots=host_slots)
        return clips, targets, torch.full((), word, device=pixels.device)


def draws_digest(boxes: Sequence[Box | None], mixes: Sequence[Mix], *, step: int, slots: Tensor) -> int:
    """A hash of the draws, as a signed word: the sum modulo 2^64 over rows and groups, so that ranks and micro-batches
    may cut a step anywhere. Shares count to six decimals: another platform may round the last bits otherwise."""
    numbers = slots.tolist()
    of_boxes = (digest64("erased", step, slot, *(box or ())) for slot, box in zip(numbers, boxes, strict=True))
    of_mixes = (
        digest64("mixed", step, slot, f"{mix.share:.6f}", *(mix.box or ()))
        for slot, mix in zip(numbers[:: len(numbers) // len(mixes)] if mixes else (), mixes, strict=True)
    )
    word = add_digests(*of_boxes, *of_mixes)
    return word - (word >> 63 << 64)

"""Random numbers on the device, as a function of their key: Philox4x32-10 in plain torch.

No generator is carried along: the number for (seed, step, slot, lane, purpose) is the same on any device,
at any world size and however a batch is sliced. That is what keeps masks and drop path equal after a resume.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011); the tests hold the
known answers of the authors' Random123.

Shapes: B rows, one per slot of the global batch; Q blocks of four 32-bit words.
"""

from __future__ import annotations

import math
from enum import IntEnum

import torch
from torch import Tensor

_ROUNDS = 10
_MULTIPLIER_0, _MULTIPLIER_2 = 0xD2511F53, 0xCD9E8D57
_WEYL_0, _WEYL_1 = 0x9E3779B9, 0xBB67AE85
_WORD = 0xFFFFFFFF

Words = tuple[Tensor, Tensor, Tensor, Tensor]


class Purpose(IntEnum):
    """What a number is drawn for: two purposes share none. Never renumber: old runs would change."""

    MASK = 1
    DROP_PATH = 2
    TEXT_MASK = 3
    NEGATIVES = 4
    CAPTION = 5
    MIXUP = 6
    ERASING = 7
    ERASING_NOISE = 8


def philox4x32(counter: Words, key: tuple[int, int]) -> Words:
    """Ten rounds of Philox on four 32-bit counter words (i64 tensors of one shape) and two key words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # 32 x 32 bits wrap around in i64, but the 64 bits are all there: the mask after >> drops the sign.
        product_0, product_2 = c0 * _MULTIPLIER_0, c2 * _MULTIPLIER_2
        c0, c2 = (product_2 >> 32 & _WORD) ^ c1 ^ k0, (product_0 >> 32 & _WORD) ^ c3 ^ k1
        c1, c3 = product_2 & _WORD, product_0 & _WORD
        k0, k1 = (k0 + _WEYL_0) & _WORD, (k1 + _WEYL_1) & _WORD
    return c0, c1, c2, c3


def uniform(seed: int, step: int, slots: Tensor, lanes: int, purpose: int) -> Tensor:
    """Uniform numbers in the open interval (0, 1): f32 [B, lanes], on the device of `slots`, no host sync.

    slots: i64 [B], each in 0 … 2^32 - 1. seed: its low 64 bits count. Every value is an odd multiple of
    2^-24, hence exact in f32 and never 0 or 1, so that log(u) and log(-log(u)) are finite.
    Raises ValueError where step or purpose is not in 0 … 2^32 - 1.
    """
    if not (0 <= step <= _WORD and 0 <= purpose <= _WORD):
        raise ValueError(f"step={step} and purpose={purpose} must lie in 0 … 2^32 - 1")
    blocks = torch.arange((lanes + 3) // 4, device=slots.device)  # i64 [Q]
    block = blocks.expand(len(slots), -1)  # [B,Q]
    slot = slots[:, None].expand_as(block)
    counter = (block, slot, torch.full_like(slot, step), torch.full_like(slot, purpose))
    words = torch.stack(philox4x32(counter, (seed & _WORD, seed >> 32 & _WORD)), dim=-1)  # [B,Q,4]
    top_bits = words.flatten(1)[:, :lanes] >> 9  # 23 bits: with 24, the largest would round to 1
    return (top_bits.float() + 0.5) * 2.0**-23


def normal(seed: int, step: int, slots: Tensor, lanes: int, purpose: int) -> Tensor:
    """Standard normal numbers by Box and Muller, two from two of `uniform`: f32 [B, lanes], keyed as `uniform` is.

    Within ±5.8. Logarithm and cosine are the device's, so that two devices can differ in the last bits.
    """
    pairs = torch.unflatten(uniform(seed, step, slots, lanes + lanes % 2, purpose), 1, (-1, 2))  # [B,lanes/2,2]
    radius, turn = pairs.unbind(2)
    radius, turn = (-2 * radius.log()).sqrt(), 2 * math.pi * turn
    return torch.stack((radius * turn.cos(), radius * turn.sin()), dim=2).flatten(1)[:, :lanes]

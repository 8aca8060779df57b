"""Masked language modelling: some tokens of a caption are masked, and predicted from the others and the video.

Shapes: B texts, L tokens, M masked tokens (padded to a multiple of 64), V entries of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from umt_ds.batch import Movable

_IGNORED = -100  # torch's label for what does not count
_ROUND = 64  # M is padded to a multiple, so that the allocator meets few sizes
_AS_MASK, _AS_RANDOM = 0.8, 0.9  # of the chosen tokens: 80 % become [MASK], 10 % a random token, 10 % stay


@dataclass(frozen=True)
class Vocabulary:
    """The numbers of a tokenizer that masking needs, and a hash of all its words."""

    size: int
    cls_id: int
    pad_id: int
    mask_id: int
    fingerprint: str = ""


@dataclass(frozen=True)
class MaskedTokens(Movable):
    """Captions with masked tokens, and what is to be predicted.

    Of 2 captions with 8 tokens, token 3 of the second has position 11. With one masked token there are M = 64 positions
    and labels: the first is real (count 1), the other 63 are padding, position 0 with label -100.
    """

    ids: Tensor  # i64 [B,L], masked tokens replaced
    positions: Tensor  # i64 [M], of the masked tokens in the flattened ids
    labels: Tensor  # i64 [M], their true ids; -100 where padded
    count: int  # masked tokens without the padding


def mask_tokens(ids: Tensor, noise: Tensor, *, vocabulary: Vocabulary, ratio: float) -> MaskedTokens:
    """Choose tokens, never padding or [CLS], with probability `ratio`; of those 80 % become [MASK], 10 % random.

    ids: i64 [B,L]. noise: uniform f32 [B,3·L]: which are chosen, what becomes of them, which random token. Both are on
    the CPU, since the number of chosen tokens decides a shape. Source: METHOD.md, "MLM".
    """
    assert ids.device.type == "cpu", "the host must know the number of masked tokens"
    choice, fate, random_id = noise.chunk(3, dim=1)
    may_be = (ids != vocabulary.pad_id) & (ids != vocabulary.cls_id)
    chosen = may_be & (choice < ratio)
    random_ids = (random_id.double() * vocabulary.size).long()
    masked = torch.where(chosen & (fate < _AS_MASK), vocabulary.mask_id, ids)
    masked = torch.where(chosen & (fate >= _AS_MASK) & (fate < _AS_RANDOM), random_ids, masked)
    positions = chosen.flatten().nonzero().squeeze(1)
    count = len(positions)
    padding = -count % _ROUND
    labels = F.pad(ids.flatten()[positions], (0, padding), value=_IGNORED)
    return MaskedTokens(masked, F.pad(positions, (0, padding)), labels, count)


def masked_lm_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy summed over masked tokens: fp32 scalar. logits: [M,V], any float; labels: i64 [M], -100 ignored."""
    return F.cross_entropy(logits.float(), labels, ignore_index=_IGNORED, reduction="sum")

"""Masked language modelling: words of a caption are hidden, and guessed from the others and from what is seen.

Shapes: B texts, L tokens, M tokens to guess, V words.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from umt_ds.batch import Movable

_IGNORED = -100  # torch's label for what does not count
_ROUND = 64  # guesses are padded to multiples, so that the allocator meets few sizes
_AS_MASK, _AS_OTHER = 0.8, 0.9  # of the chosen tokens: 80 % hidden, 10 % another word, 10 % left


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
    """ids i64 [B,L], with words hidden. places i64 [M], of what is to be guessed in the flattened ids; labels i64 [M],
    what stood there, -100 for padding; count: those that are none."""

    ids: Tensor
    places: Tensor
    labels: Tensor
    count: int


def hide_words(ids: Tensor, noise: Tensor, *, vocabulary: Vocabulary, ratio: float) -> MaskedTokens:
    """Choose tokens, never padding or [CLS], with probability `ratio`; of those 80 % become [MASK], 10 % a random word.

    ids: i64 [B,L]. noise: uniform f32 [B,3·L]: which are chosen, what becomes of them, which word. On the CPU: how many
    were chosen decides shapes. Source: SPEC 7.4, MLM.
    """
    assert ids.device.type == "cpu", "the host must know the number of guesses"
    choice, fate, word = noise.chunk(3, dim=1)
    may_be = (ids != vocabulary.pad_id) & (ids != vocabulary.cls_id)
    chosen = may_be & (choice < ratio)
    other = (word.double() * vocabulary.size).long()
    hidden = torch.where(chosen & (fate < _AS_MASK), vocabulary.mask_id, ids)
    hidden = torch.where(chosen & (fate >= _AS_MASK) & (fate < _AS_OTHER), other, hidden)
    places = chosen.flatten().nonzero().squeeze(1)
    count = len(places)
    padding = -count % _ROUND
    labels = F.pad(ids.flatten()[places], (0, padding), value=_IGNORED)
    return MaskedTokens(hidden, F.pad(places, (0, padding)), labels, count)


def masked_lm_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy summed over the guesses: fp32 scalar. logits: [M,V], any float; labels: i64 [M], -100 ignored."""
    return F.cross_entropy(logits.float(), labels, ignore_index=_IGNORED, reduction="sum")

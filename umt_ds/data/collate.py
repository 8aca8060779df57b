"""From what each draw shows to one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from umt_ds.batch import Answers, Batch, Media, Targets, Tokens
from umt_ds.data.shards.sample_record import WeightedAnswer
from umt_ds.keyed import add_digests, digest64


class Tokenize(Protocol):
    """What makes tokens of captions in the workers."""

    def clean(self, caption: str) -> str:
        """The caption as it is tokenised; empty where it says nothing."""

    def __call__(self, captions: list[str]) -> Tokens:
        """Clean captions to tokens."""


class TokenizeAnswers(Protocol):
    """What makes tokens of answers in the workers."""

    def __call__(self, answers: Sequence[Sequence[WeightedAnswer]]) -> Answers:
        """Of each row its different answers; at least one of them all."""


@dataclass(frozen=True)
class SampleMeta:
    """What one draw shows, besides its pixels."""

    draw: int
    source: str
    key: str
    digest: int
    is_substitute: bool
    label: int | None = None  # None where the run wants no labels
    caption: str | None = None  # None where the run wants no text
    answers: tuple[WeightedAnswer, ...] = ()  # empty where the run wants none
    group: str | None = None  # what other items that count as the same have too; None: its key


def collate(
    shown: Sequence[SampleMeta],
    pixels: Tensor,
    *,
    media: Media,
    step_start: int,
    tokenize: Tokenize | None,
    tokenize_answers: TokenizeAnswers | None = None,
) -> Batch:
    """B = draws · views rows, the views of a draw side by side. pixels: u8 [draws,views,T,H,W,3].

    `step_start` is the first draw of the optimiser step; slots count rows from there.
    """
    views = pixels.shape[1]
    draws = torch.tensor([item.draw for item in shown])
    slots = (draws - step_start).unsqueeze(1) * views + torch.arange(views)  # [draws,views]
    return Batch(
        media=media,
        pixels=pixels.flatten(0, 1),
        draws=draws.repeat_interleave(views),
        slots=slots.flatten(),
        keys=tuple(item.key for item in shown for _ in range(views)),
        digest=add_digests(*(item.digest for item in shown)),
        substituted=sum(item.is_substitute for item in shown),
        text=None if tokenize is None else _text(shown, tokenize).repeated(views),
        targets=_targets(shown, tokenize_answers).repeated(views),
        # 63 bits: torch has no unsigned words of 64
        ids=torch.tensor([digest64(item.source, item.group or item.key) >> 1 for item in shown]).repeat_interleave(
            views
        ),
    )


def _text(shown: Sequence[SampleMeta], tokenize: Tokenize) -> Tokens:
    return tokenize([item.caption for item in shown if item.caption is not None])


def _targets(shown: Sequence[SampleMeta], tokenize_answers: TokenizeAnswers | None) -> Targets:
    labels = [item.label for item in shown if item.label is not None]
    return Targets(
        labels=torch.tensor(labels) if labels else None,
        answers=None if tokenize_answers is None else tokenize_answers([item.answers for item in shown]),
    )

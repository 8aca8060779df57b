"""Batches of noise in host memory, over and over: what a step is measured on where no shards are named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from umt_ds.batch import Answers, Batch, Media, Targets, Tokens
from umt_ds.config.batching import RunPlan
from umt_ds.config.models import BertConfig
from umt_ds.config.run import RunConfig
from umt_ds.config.tasks.base import ClipShape
from umt_ds.config.tasks.question_answering import QuestionAnsweringConfig
from umt_ds.config.tasks.retrieval import RetrievalConfig
from umt_ds.config.tasks.stage2 import Stage2Config
from umt_ds.distributed.job import Job
from umt_ds.losses.masked_lm import Vocabulary
from umt_ds.tasks.bert import bert_size_of
from umt_ds.tasks.image_text.task import clip_tokenizer
from umt_ds.tasks.kinds import tokenizer_of

Shown = Literal["video", "image", "packed"]
DIFFERENT_BATCHES = 4
_SHORTEST = 0.25  # texts have from a quarter of the most tokens to all of them


def noise_vocabulary(text: BertConfig) -> Vocabulary:
    """That of a BERT of which nothing but the size is known; the numbers are those of bert-base-uncased, if it is as
    large."""
    size = bert_size_of(text).vocab_size
    return Vocabulary(size, cls_id=101, pad_id=0, mask_id=103) if size > 103 else Vocabulary(size, 2, 0, 4)


def shares_of_shown(shown: Shown) -> dict[Media, float]:
    """The part of the rows that each medium has."""
    return {"image": 0.5, "video": 0.5} if shown == "packed" else {shown: 1.0}


class SyntheticBatches:
    """Satisfies `engine.protocol.BatchSource`: a few micro-batches, shown in turns."""

    def __init__(self, config: RunConfig, plan: RunPlan, job: Job, *, shown: Shown) -> None:
        self._plan, self._rank = plan, job.world.rank
        self._rows = plan.micro * config.data.num_sample
        clip, texts, targets = config.task.clip_shape, _texts_of(config), _targets_of(config)
        draw = torch.Generator().manual_seed(job.world.rank)
        batches = [
            [
                _batch(medium, round(share * self._rows), clip, texts, targets, draw)
                for medium, share in shares_of_shown(shown).items()
            ]
            for _ in range(DIFFERENT_BATCHES)
        ]
        pinned = job.device.type == "cuda"
        self._batches = [[part.pin_memory() for part in parts] for parts in batches] if pinned else batches

    def deliveries(self, step: int) -> Iterator[Callable[[], Batch]]:
        """Nothing is left to do for them."""
        for batch in self.micro_batches(step):
            yield partial(lambda batch: batch, batch)

    def micro_batches(self, step: int) -> Iterator[Batch]:
        """As many as a step has."""
        for micro_step in range(self._plan.accumulation):
            first = (micro_step * self._plan.world + self._rank) * self._rows
            parts = []
            for part in self._batches[step % DIFFERENT_BATCHES]:
                slots = torch.arange(first, first + len(part.draws))
                parts.append(replace(part, draws=slots, slots=slots))
                first += len(slots)
            yield parts[0] if len(parts) == 1 else replace(parts[0], packed_with=parts[1])


MakeTexts = Callable[[int, torch.Generator], Tokens | None]  # of so many rows
MakeTargets = Callable[[int, torch.Generator], Targets]


def _texts_of(config: RunConfig) -> MakeTexts:
    """Noise for a BERT, one sentence for another tokenizer, or nothing."""
    task = config.task
    if isinstance(task, (Stage2Config, RetrievalConfig, QuestionAnsweringConfig)):
        for_clip = isinstance(task, Stage2Config) and task.align_projections == "visual_text"
        return partial(_noise_texts, text=task.text, for_clip=for_clip)
    tokenizer = tokenizer_of(config)
    return lambda rows, _: None if tokenizer is None else tokenizer(["a caption of noise"] * rows)


def _targets_of(config: RunConfig) -> MakeTargets:
    task = config.task
    if isinstance(task, QuestionAnsweringConfig):
        words, length = noise_vocabulary(task.text), task.answer_tokens

        def answers(rows: int, draw: torch.Generator) -> Targets:
            one = _noise_tokens(words, rows, length, draw)  # an answer to each question
            return Targets(answers=Answers(one.ids[:, None], one.mask[:, None], torch.ones(rows, 1)))

        return answers
    if task.label_field is None:
        return lambda rows, draw: Targets()
    # two classes in turns: every head has two, and what a label costs does not hang on which it is
    return lambda rows, draw: Targets(labels=torch.arange(rows) % 2)


def _batch(
    medium: Media, rows: int, clip: ClipShape, texts: MakeTexts, targets: MakeTargets, draw: torch.Generator
) -> Batch:
    frames, side = 1 if medium == "image" else clip.frames, clip.side
    pixels = torch.randint(0, 256, (rows, frames, side, side, 3), dtype=torch.uint8, generator=draw)
    numbers = torch.arange(rows)
    keys, text = ("noise",) * rows, texts(rows, draw)
    return Batch(medium, pixels, numbers, numbers, keys, text=text, targets=targets(rows, draw), ids=numbers)


def _noise_texts(rows: int, draw: torch.Generator, *, text: BertConfig, for_clip: bool) -> Tokens:
    noise = _noise_tokens(noise_vocabulary(text), rows, text.max_tokens, draw)
    return replace(noise, clip_ids=clip_tokenizer()(["noise"] * rows).ids if for_clip else None)


def _noise_tokens(words: Vocabulary, rows: int, length: int, draw: torch.Generator) -> Tokens:
    ids: Tensor = torch.randint(words.mask_id + 1, words.size, (rows, length), generator=draw)
    ids[:, 0] = words.cls_id
    lengths = torch.randint(max(2, round(_SHORTEST * length)), length + 1, (rows, 1), generator=draw)
    is_token = torch.arange(length) < lengths
    return Tokens(ids * is_token + words.pad_id * ~is_token, is_token)

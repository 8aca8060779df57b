"""The tokenizers of a BERT, as tasks on text and the loader of their captions and answers use them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from umt_ds.config.models import BertConfig
from umt_ds.data.text import AnswerTokenizer, CaptionTokenizer
from umt_ds.errors import of_setting
from umt_ds.losses.masked_lm import Vocabulary
from umt_ds.weights.folder import folder_of

T = TypeVar("T")


def caption_tokenizer(text: BertConfig) -> CaptionTokenizer:
    """BERT's tokenizer of a run. Raises ConfigError where there is no vocabulary."""
    return _read(text, lambda folder: CaptionTokenizer(folder, max_tokens=text.max_tokens))


def answer_tokenizer_of(text: BertConfig, *, max_tokens: int) -> AnswerTokenizer:
    """The same for answers. Raises ConfigError where there is no vocabulary, or one without [SEP]."""
    return _read(text, lambda folder: AnswerTokenizer(folder, max_tokens=max_tokens))


def _read(text: BertConfig, tokenizer_of: Callable[[Path], T]) -> T:
    """What is made of the vocabulary of a run."""
    if text.vocabulary is not None:
        with of_setting("task.text.vocabulary"):
            return tokenizer_of(text.vocabulary)
    assert isinstance(text.weights, Path), "the schema demands a vocabulary beside random weights"
    with of_setting("task.text.weights"):
        return tokenizer_of(folder_of(text.weights))


def vocabulary_of(tokenizer: CaptionTokenizer) -> Vocabulary:
    """What masking and BERT need to know of a tokenizer."""
    return Vocabulary(
        tokenizer.vocab_size,
        cls_id=tokenizer.cls_id,
        pad_id=tokenizer.pad_id,
        mask_id=tokenizer.mask_id,
        fingerprint=tokenizer.fingerprint,
    )

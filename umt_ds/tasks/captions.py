"""The tokenizer of a BERT, as tasks on text and the loader of their captions use it."""

from __future__ import annotations

from pathlib import Path

from umt_ds.config.models import BertConfig
from umt_ds.data.text import CaptionTokenizer
from umt_ds.errors import of_setting
from umt_ds.losses.masked_lm import Vocabulary
from umt_ds.weights.folder import folder_of


def caption_tokenizer(text: BertConfig) -> CaptionTokenizer:
    """BERT's tokenizer of a run. Raises ConfigError where there is no vocabulary."""
    if text.vocabulary is not None:
        with of_setting("task.text.vocabulary"):
            return CaptionTokenizer(text.vocabulary, max_tokens=text.max_tokens)
    assert isinstance(text.weights, Path), "the schema demands a vocabulary beside random weights"
    with of_setting("task.text.weights"):
        return CaptionTokenizer(folder_of(text.weights), max_tokens=text.max_tokens)


def vocabulary_place(text: BertConfig) -> str:
    """Where the tokenizer of a run lies."""
    return str(text.vocabulary or text.weights)


def vocabulary_of(tokenizer: CaptionTokenizer) -> Vocabulary:
    """What masking and BERT need to know of a tokenizer."""
    return Vocabulary(
        tokenizer.vocab_size,
        cls_id=tokenizer.cls_id,
        pad_id=tokenizer.pad_id,
        mask_id=tokenizer.mask_id,
        fingerprint=tokenizer.fingerprint,
    )

"""The BERT of a run: built as its settings mean, with the weights of its folder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import assert_never

from umt_ds.config.models import BertConfig
from umt_ds.errors import ConfigError, WeightsError, of_setting
from umt_ds.losses.masked_lm import Vocabulary
from umt_ds.models.bert import Bert
from umt_ds.models.presets import BertSize, bert_size
from umt_ds.weights.bert_folder import bert_folder_size, read_bert_folder
from umt_ds.weights.load import LoadReport, load_strict

log = logging.getLogger("umt_ds")


def build_bert(
    config: BertConfig, vocabulary: Vocabulary, *, video_width: int, pretrained: bool = True, word_head: bool = True
) -> Bert:
    """BERT with the weights of its folder; its cross-attention, and a word head that the file lacks, are new.

    word_head: False leaves that head out.

    Raises ConfigError where tokenizer or captions do not fit it, WeightsError where the folder does not.
    """
    size = bert_size_of(config)
    is_new = config.weights == "random"
    if not (vocabulary.size <= size.vocab_size if is_new else vocabulary.size == size.vocab_size):
        raise ConfigError(
            f"the tokenizer of {config.vocabulary or config.weights} has {vocabulary.size} tokens and this BERT "
            f"{size.vocab_size}: they do not belong together",
            hint="task.text.vocabulary is the folder that the weights came with; with custom sizes, "
            "task.text.sizes.vocab_size",
        )
    if config.max_tokens > size.max_tokens:
        raise ConfigError(
            f"task.text.max_tokens={config.max_tokens}, but this BERT knows {size.max_tokens} positions",
            hint=f"task.text.max_tokens={size.max_tokens} at most; longer captions lose their end",
        )
    with of_setting("task.text"):
        bert = Bert(
            size,
            fusion_layers=config.fusion_layers,
            video_width=video_width,
            dropout=config.dropout,
            checkpoint_layers=config.checkpoint_layers,
            word_head=word_head,
        )
    if pretrained and config.weights == "random":
        log.info("BERT has random weights (task.text.weights=random)")
    elif pretrained:
        assert isinstance(config.weights, Path)
        log.info("BERT of %s: %s", config.weights, _load_bert(bert, config.weights))
    return bert


def bert_size_of(config: BertConfig) -> BertSize:
    """The sizes that a configuration means. Raises WeightsError where they are a folder's and it has none."""
    match config.preset:
        case "bert_base" | "bert_large" as preset:
            return bert_size(preset)
        case "custom":
            assert config.sizes is not None
            return BertSize(**config.sizes.model_dump())
        case "folder":
            assert isinstance(config.weights, Path)
            return bert_folder_size(config.weights)
        case _:
            assert_never(config.preset)


def _load_bert(bert: Bert, folder: Path) -> LoadReport:
    found = bert_folder_size(folder)
    if found != bert.size:
        raise WeightsError(
            f"{folder} holds a BERT of {found}, the configuration asks for {bert.size}",
            hint="task.text.preset=folder takes the sizes of the folder",
        )
    state = read_bert_folder(folder)
    layers = range(bert.text_layers, bert.size.layers)
    new = [f"bert.encoder.layer.{index}.crossattention." for index in layers]
    if not (bert.has_word_head and any(key.startswith("cls.") for key in state)):
        new.append("cls.")
    return load_strict(bert, state, where=str(folder), ignore=new)

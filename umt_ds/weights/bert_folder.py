"""A BERT as Hugging Face keeps it: a folder with config.json, weights in one file or several, and a vocabulary."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from umt_ds.errors import WeightsError
from umt_ds.models.presets import BertSize
from umt_ds.weights.folder import folder_of
from umt_ds.weights.load import about, read_state
from umt_ds.weights.published import bert_state
from umt_ds.weights.sniff import read_json

# config.json's name → ours
_SIZES = {
    "hidden_size": "width",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "hidden",
    "vocab_size": "vocab_size",
    "max_position_embeddings": "max_tokens",
}
# What the model here does; None is what a config says of something that it does not use.
_EXPECTED = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "layer_norm_eps": 1e-12,
    "tie_word_embeddings": True,
    "is_decoder": False,
    "quantization_config": None,
}
_MOST_PARAMETERS = 5_000_000_000  # a config.json that asks for more is not that of a BERT
_HINT = "bert-base-uncased, bert-large-uncased, or another model of type bert; the folder, not a file of another model"


def bert_folder_size(weights: Path) -> BertSize:
    """The sizes in config.json. Raises WeightsError where that is missing or describes something else than a BERT."""
    path = folder_of(weights) / "config.json"
    if not os.path.isfile(path):
        raise WeightsError(
            f"{folder_of(weights)} is no BERT: there is no {path}",
            hint="a folder as `save_pretrained` of transformers or huggingface.co have it; nothing is downloaded",
        )
    settings = read_json(path)
    if misfit := _misfit(settings):
        raise WeightsError(f"{path} is not that of a BERT that can be run here: it {misfit}", hint=_HINT)
    return BertSize(**{ours: settings[theirs] for theirs, ours in _SIZES.items()})


def read_bert_folder(weights: Path) -> dict[str, Tensor]:
    """Its weights in the keys of `models.bert.Bert`. Raises WeightsError where there are none, or not of a BERT."""
    with about(weights):
        return bert_state(read_state(weights))


def _misfit(settings: Mapping[str, Any]) -> str:
    """What a config.json says or lacks, so that no BERT here could be it; empty where all is well."""
    if other := [key for key, value in _EXPECTED.items() if settings.get(key, value) != value]:
        return _says(settings, other)
    if missing := [key for key in _SIZES if key not in settings]:
        return f"lacks {', '.join(missing)}"
    if other := [key for key in _SIZES if not _is_size(settings[key])]:
        return f"{_says(settings, other)}, which is no size"
    width, layers, heads, hidden, words, positions = (settings[key] for key in _SIZES)
    if width % heads:
        return f"says num_attention_heads={heads}, which does not divide hidden_size={width}"
    count = width * (words + positions) + layers * width * (4 * width + 2 * hidden)
    return f"asks for {count:,} parameters" if count > _MOST_PARAMETERS else ""


def _says(settings: Mapping[str, Any], keys: list[str]) -> str:
    return f"says {', '.join(f'{key}={settings[key]!r}' for key in keys)}"[:300]


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0

"""The text layers of a model, below fusion, as transformers' `BertModel`, with a tokenizer that makes our tokens.

Shapes: R texts, L tokens, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from umt_ds.models.bert import Bert

_UNDER = "bert."


def bert_model_state(state: Mapping[str, Tensor], *, text_layers: int) -> dict[str, Tensor]:
    """Tensors of a `Bert` in the keys of `BertModel`: embeddings and the layers that read text alone, no pooler."""
    layers = tuple(f"{_UNDER}encoder.layer.{index}." for index in range(text_layers))
    kept = (f"{_UNDER}embeddings.", *layers)
    return {name.removeprefix(_UNDER): value.contiguous() for name, value in state.items() if name.startswith(kept)}


def bert_model_config(text: Bert, *, pad_id: int) -> Mapping[str, Any]:
    """Its `config.json`."""
    size = text.size
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": size.vocab_size,
        "hidden_size": size.width,
        "num_hidden_layers": text.text_layers,
        "num_attention_heads": size.heads,
        "intermediate_size": size.hidden,
        "hidden_act": "gelu",
        "hidden_dropout_prob": text.dropout,
        "attention_probs_dropout_prob": text.dropout,
        "max_position_embeddings": size.max_tokens,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "pad_token_id": pad_id,
        "torch_dtype": "float32",
    }


def tokenizer_config(*, max_tokens: int) -> Mapping[str, Any]:
    """Its `tokenizer_config.json`: tokens are made as `tokenizer.json` says, with [CLS] and without [SEP]."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_tokens,
        "do_lower_case": True,
        "unk_token": "[UNK]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
        "clean_up_tokenization_spaces": True,
        "model_input_names": ["input_ids", "attention_mask"],
    }

"""A BERT as Hugging Face keeps it: a folder with config.json, one weight file and a vocabulary."""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor

from umt_ds.errors import WeightsError
from umt_ds.models.presets import BertSize
from umt_ds.weights.load import read_state
from umt_ds.weights.published import bert_state

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
# config.json's name → ours
_SIZES = {
    "hidden_size": "width",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "hidden",
    "vocab_size": "vocab_size",
    "max_position_embeddings": "max_tokens",
}
_EXPECTED = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}


def bert_folder_size(folder: Path) -> BertSize:
    """The sizes in config.json. Raises WeightsError where that is missing or describes something else than a BERT."""
    path = folder / "config.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{folder} is no BERT: {path} cannot be read ({error})",
            hint="a folder as `save_pretrained` of transformers or huggingface.co have it; nothing is downloaded",
        ) from error
    other = {key: settings[key] for key, value in _EXPECTED.items() if settings.get(key, value) != value}
    missing = [key for key in _SIZES if key not in settings]
    if other or missing:
        raise WeightsError(
            f"{path} is not that of a BERT: " + (f"it says {other}" if other else f"it lacks {', '.join(missing)}"),
            hint="bert-base-uncased, bert-large-uncased, or another model of type bert",
        )
    return BertSize(**{ours: settings[theirs] for theirs, ours in _SIZES.items()})


def read_bert_folder(folder: Path) -> dict[str, Tensor]:
    """Its weights in the keys of `models.bert.Bert`. Raises WeightsError where there is no weight file."""
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return bert_state(read_state(folder / name))
    raise WeightsError(f"{folder} holds no weights", hint=f"expected {' or '.join(_WEIGHTS)} in it")

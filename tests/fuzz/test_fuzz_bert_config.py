"""Any config.json of a BERT: sizes that the file says, or one error line."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from umt_ds.errors import WeightsError
from umt_ds.models.presets import BertSize
from umt_ds.weights.bert_folder import bert_folder_size

GOOD = {
    "model_type": "bert", "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48,
    "vocab_size": 8, "max_position_embeddings": 16,
}  # fmt: skip
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=9,
)


def size_of(content: bytes) -> BertSize | None:
    """None where the folder is refused; anything but a WeightsError is a failure."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_bytes(content)
        try:
            return bert_folder_size(Path(folder))
        except WeightsError as error:
            refusal = error.what
    assert "config.json" in refusal
    assert "\n" not in refusal
    return None


@given(st.binary(max_size=200) | ANY_JSON.map(lambda value: json.dumps(value).encode()))
def test_any_file_that_is_no_config_is_refused(content: bytes) -> None:
    assert size_of(content) is None


KEYS = [*GOOD, "hidden_act", "layer_norm_eps", "tie_word_embeddings", "is_decoder", "position_embedding_type"]


@given(
    st.dictionaries(st.sampled_from(KEYS), st.integers(-2, 10**6) | ANY_JSON, max_size=3),
    st.sets(st.sampled_from(list(GOOD)), max_size=1),
)
def test_a_size_is_what_the_file_says_and_could_be_built(changes: dict[str, Any], left_out: set[str]) -> None:
    said = {key: value for key, value in {**GOOD, **changes}.items() if key not in left_out}
    size = size_of(json.dumps(said).encode())
    if size is not None:
        assert (size.width, size.layers, size.heads) == (
            said["hidden_size"], said["num_hidden_layers"], said["num_attention_heads"]
        )  # fmt: skip
        numbers = (size.width, size.layers, size.heads, size.hidden, size.vocab_size, size.max_tokens)
        assert all(type(number) is int and number > 0 for number in numbers)
        assert size.width % size.heads == 0
        assert size.width * (size.vocab_size + size.layers * size.width) < 10**10

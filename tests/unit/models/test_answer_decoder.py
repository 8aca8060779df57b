"""The answer decoder, held against transformers' own, and what an answer may look at."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertLMHeadModel

from umt_ds.errors import ConfigError, WeightsError
from umt_ds.models.answer_decoder import AnswerDecoder, AnsweringModel
from umt_ds.models.bert import Bert
from umt_ds.models.presets import BertSize, VitSize
from umt_ds.models.vit import Clips, VideoViT
from umt_ds.weights.load import load_strict
from umt_ds.weights.published import answering_start, answering_state, bert_state

SIZE = BertSize(width=32, layers=4, heads=4, hidden=64, vocab_size=50, max_tokens=16)
VIT = VitSize(width=32, depth=1, heads=2, patch=8)
CLOSE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def asked() -> tuple[Tensor, Tensor, Tensor]:
    """Answers i64 [3,5] with the states of their questions [3,6,32], of which some are padding."""
    is_question = torch.ones(3, 6, dtype=torch.bool)
    is_question[0, 2:] = is_question[2, 5:] = False
    return torch.randint(5, SIZE.vocab_size, (3, 5)), torch.randn(3, 6, 32), is_question


def decoder_of(layers: int = 2, **settings: Any) -> AnswerDecoder:
    return AnswerDecoder(SIZE, layers=layers, dropout=0.0, **settings).eval()


def answering_model(*, vit: VitSize = VIT, size: BertSize = SIZE) -> AnsweringModel:
    text = Bert(SIZE, fusion_layers=2, video_width=vit.width, dropout=0.0, word_head=False)
    return AnsweringModel(VideoViT(vit), text, AnswerDecoder(size, layers=2, dropout=0.0)).eval()


def stage2_state(*, video_width: int = 32) -> dict[str, Tensor]:
    """The parts of stage 2 that answer questions, and some that do not."""
    vision = VideoViT(replace(VIT, width=video_width)).state_dict()
    text = Bert(SIZE, fusion_layers=2, video_width=video_width).state_dict()
    state = {f"vision_encoder.encoder.{key}": value for key, value in vision.items()}
    state |= {f"text_encoder.{key}": value for key, value in text.items()}
    return state | {"temp": torch.ones(1), "itm_head.bias": torch.zeros(2)}


def test_it_is_transformers_decoder() -> None:
    config: Any = BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=16, is_decoder=True, add_cross_attention=True,
    )  # fmt: skip
    theirs: Any = BertLMHeadModel(config).eval()
    decoder = decoder_of()
    load_strict(decoder, bert_state(theirs.state_dict()), where="transformers")
    ids, questions, is_question = asked()
    logits = theirs(ids, encoder_hidden_states=questions, encoder_attention_mask=is_question.long()).logits
    torch.testing.assert_close(decoder(ids, questions, is_question), logits, **CLOSE)


def test_no_token_sees_what_comes_after_it() -> None:
    decoder, (ids, questions, is_question) = decoder_of(), asked()
    before = decoder(ids, questions, is_question)
    ids[:, 3:] = 7
    after = decoder(ids, questions, is_question)
    torch.testing.assert_close(after[:, :3], before[:, :3], **CLOSE)
    assert not torch.allclose(after[:, 3:], before[:, 3:])


def test_padding_of_a_question_is_not_seen() -> None:
    decoder, (ids, questions, is_question) = decoder_of(), asked()
    before = decoder(ids, questions, is_question)
    torch.testing.assert_close(decoder(ids, questions + 9.0 * ~is_question[..., None], is_question), before, **CLOSE)


def test_answers_to_one_question_share_its_states() -> None:
    decoder, (ids, questions, is_question) = decoder_of(), asked()
    rows = torch.tensor([2, 0, 2])
    shared = decoder(ids, questions, is_question, rows)
    torch.testing.assert_close(shared, decoder(ids, questions[rows], is_question[rows]), **CLOSE)


def test_the_words_that_are_read_and_written_are_one_matrix() -> None:
    decoder = decoder_of()
    assert [key for key, value in decoder.named_parameters() if value.shape == (50, 32)] == [
        "bert.embeddings.word_embeddings.weight"
    ]


def test_every_weight_of_the_model_learns_from_an_answer() -> None:
    model, (ids, _, _) = answering_model(), asked()
    clips, mask = Clips(torch.randn(3, 3, 2, 16, 16)), torch.ones(3, 4, dtype=torch.bool)
    questions = model.read(clips, torch.randint(5, 50, (3, 4)), mask)
    model.text_decoder(ids, questions, mask).logsumexp(dim=-1).sum().backward()
    assert [key for key, value in model.named_parameters() if value.grad is None] == []


def test_from_stage_2_each_layer_of_the_decoder_is_a_fusion_layer() -> None:
    state = stage2_state()
    model = answering_model()
    load_strict(model, answering_start(state, text_layers=2), where="stage 2")
    ours = model.state_dict()
    text = {key: value for key, value in state.items() if key.startswith("text_encoder.")}
    for key, value in text.items():  # text layers 2 and 3 are layers 0 and 1 of the decoder
        name = key.replace("text_encoder.", "text_decoder.")
        name = name.replace("layer.2.", "layer.x0.").replace("layer.3.", "layer.x1.")
        if "layer.0." not in name and "layer.1." not in name:
            assert torch.equal(ours.pop(name.replace("layer.x", "layer.")), value)
        if ".cls." not in key:
            assert torch.equal(ours.pop(key), value)
    assert all(
        key.startswith("vision_encoder.encoder.") and torch.equal(value, state[key]) for key, value in ours.items()
    )


def test_videos_of_another_width_than_the_text_cannot_start_a_decoder() -> None:
    with pytest.raises(WeightsError, match=r"videos of width 24 cannot become an answer decoder.*text of width 32"):
        answering_start(stage2_state(video_width=24), text_layers=2)


def test_weights_with_a_decoder_are_not_overwritten_by_a_new_one() -> None:
    with pytest.raises(WeightsError, match="have an answer decoder already"):
        answering_start(answering_model().state_dict(), text_layers=2)


def test_weights_of_stage_2_are_no_weights_of_question_answering() -> None:
    with pytest.raises(WeightsError, match="no answer decoder among"):
        answering_state(stage2_state())


def test_our_own_weights_are_read_as_published_ones_are() -> None:
    state = answering_model().state_dict()
    published = {key.replace("text_encoder.bert.", "text_encoder."): value for key, value in state.items()}
    published["text_decoder.cls.predictions.decoder.weight"] = state[
        "text_decoder.bert.embeddings.word_embeddings.weight"
    ]
    for kind in (state, published):
        read = answering_state(kind)
        assert read.keys() == state.keys()
        assert all(torch.equal(read[key], value) for key, value in state.items())


def test_a_word_head_of_its_own_is_refused() -> None:
    state = answering_model().state_dict()
    state["text_decoder.cls.predictions.decoder.weight"] = torch.ones(50, 32)
    with pytest.raises(WeightsError, match="not tied"):
        answering_state(state)


def test_a_decoder_of_another_width_than_the_text_is_refused() -> None:
    with pytest.raises(ConfigError, match="reads states of 16 numbers, the text encoder gives 32"):
        answering_model(size=replace(SIZE, width=16))

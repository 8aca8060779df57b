"""The model of question answering as a configuration means it: built, and given its first weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from umt_ds.config.tasks.question_answering import QuestionAnsweringConfig
from umt_ds.engine.protocol import InitialWeights
from umt_ds.errors import WeightsError, of_setting
from umt_ds.losses.masked_lm import Vocabulary
from umt_ds.models.answer_decoder import AnswerDecoder
from umt_ds.models.bert import Bert
from umt_ds.tasks.bert import bert_size_of, build_bert
from umt_ds.tasks.encoders import build_encoder, check_size, size_of
from umt_ds.tasks.question_answering.module import AnsweringModule
from umt_ds.tasks.video_text.weights import check_text
from umt_ds.weights.load import about, load_strict
from umt_ds.weights.published import answering_start, answering_state, has_answer_decoder, is_video_text

_HINT = "init.weights: those of stage 2 or of question answering, published or of a run of yours"
_ENCODER, _DECODER = "vision_encoder.encoder.", "text_decoder."


def build_module(
    config: QuestionAnsweringConfig, vocabulary: Vocabulary, *, seed: int, pretrained: bool = True
) -> AnsweringModule:
    """The model with its first weights, the same on every rank: BERT's from its folder, in text encoder and decoder;
    all else from `seed`.

    pretrained: False leaves BERT at random weights, for those who load all of it. Raises ConfigError or WeightsError
    where video encoder, BERT and tokenizer do not belong together.
    """
    encoder, text = config.encoder, config.text
    size = size_of(encoder)
    torch.manual_seed(seed)
    vision = build_encoder(encoder, config.positions)
    bert = build_bert(text, vocabulary, video_width=size.width, pretrained=pretrained)
    decoder = AnswerDecoder(
        bert_size_of(text),
        layers=text.fusion_layers,
        dropout=text.dropout,
        # its layers begin as copies of those that fuse, and are recomputed where those are
        checkpoint_layers=max(0, text.checkpoint_layers - bert.text_layers),
    )
    if pretrained and text.weights != "random":
        _start_decoder(decoder, bert, where=str(text.weights))
    bert.drop_word_head()
    with of_setting("task.text"):
        return AnsweringModule(vision, bert, decoder)


def _start_decoder(decoder: AnswerDecoder, bert: Bert, *, where: str) -> None:
    """The decoder as stage 2 would start it, had it only begun: its cross-attention is new."""
    known = {f"text_encoder.{key}": value for key, value in bert.state_dict().items() if "crossattention" not in key}
    start = answering_start(known, text_layers=bert.text_layers)
    of_decoder = {key.removeprefix(_DECODER): value for key, value in start.items() if key.startswith(_DECODER)}
    new = [f"bert.encoder.layer.{layer}.crossattention." for layer in range(decoder.size.layers)]
    load_strict(decoder, of_decoder, where=where, ignore=new)


def load_initial(module: AnsweringModule, weights: InitialWeights) -> str:
    """Weights of question answering into all of it, or those of stage 2, of which the decoder begins as the fusion half
    of the text encoder. Returns what was loaded. Raises WeightsError on a misfit.

    Source: METHOD.md, "Question answering".
    """
    with about(weights.where):
        if has_answer_decoder(weights.state):
            named, what = answering_state(weights.state), "weights of question answering"
        else:
            named, what = _of_stage2(weights.state, module.text_encoder), "weights of stage 2"
        encoder = {key.removeprefix(_ENCODER): value for key, value in named.items() if key.startswith(_ENCODER)}
        check_size(encoder, module.encoder.size, setting="task.encoder")
        check_text(named, module.text_encoder)
        return f"{what}: {load_strict(module, named, where=weights.where)}"


def _of_stage2(state: Mapping[str, Tensor], text: Bert) -> dict[str, Tensor]:
    """Raises WeightsError that says what these weights are, where they are none of stage 2."""
    if not is_video_text(state):
        raise WeightsError(
            "these weights have no text encoder, and questions are text: a video encoder alone, as of stage 1",
            hint=_HINT,
        )
    named = answering_start(state, text_layers=text.text_layers)
    if not any(key.startswith(f"{_DECODER}cls.") for key in named):
        raise WeightsError(
            "these weights have no word head (text_encoder.cls), with which the decoder would write: retrieval leaves "
            "it out",
            hint=_HINT,
        )
    return named

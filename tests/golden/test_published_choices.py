"""Multiple choice gives what the published function gives, for a tiny model and for given logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from umt_ds.evaluation.metrics.multiple_choice import choice_accuracy, choice_scores
from umt_ds.models.bert import Bert
from umt_ds.models.presets import BertSize, VitSize
from umt_ds.models.video_text import VideoEncoder, VideoTextModel, mean_over_frames
from umt_ds.models.vit import VideoViT
from umt_ds.weights.load import load_strict
from umt_ds.weights.published import bert_state, video_text_state

Golden = Callable[[str], Any]
EXACT = {"rtol": 0, "atol": 1e-5}


def published_model(cfg: dict[str, Any], state: dict[str, torch.Tensor]) -> VideoTextModel:
    """Of a fine-tuned file, whose text encoder has no word head, and no `bert.` in its names."""
    ve, bert = cfg["ve"], cfg["bert"]
    vit = VitSize(ve["encoder_embed_dim"], ve["encoder_depth"], ve["encoder_num_heads"], ve["patch_size"])
    size = BertSize(
        width=bert["hidden_size"],
        layers=bert["num_hidden_layers"],
        heads=bert["num_attention_heads"],
        hidden=bert["intermediate_size"],
        vocab_size=bert["vocab_size"],
        max_tokens=bert["max_position_embeddings"],
    )
    fusion = bert["num_hidden_layers"] - bert["fusion_layer"]
    text = Bert(size, fusion_layers=fusion, video_width=vit.width, dropout=0.0, word_head=False)
    vision = VideoEncoder(VideoViT(vit), out_width=1, layers=0, interval=1.0, norm="none")
    model = VideoTextModel(vision, text, embed_width=cfg["embed_dim"]).eval()
    named = video_text_state(state)
    texts = {key.removeprefix("text_encoder."): named.pop(key) for key in list(named) if key.startswith("text_encoder")}
    load_strict(model, named | {f"text_encoder.{k}": v for k, v in bert_state(texts).items()}, where="golden file")
    return model


@torch.no_grad()
def test_a_model_chooses_as_published(golden: Golden) -> None:
    file = golden("multiple_choice.pt")
    part = file["model"]
    model = published_model(file["cfg"], part["state"])
    pixels, (questions, options) = part["videos"].transpose(1, 2), part["input_ids"].shape[:2]
    ids, is_token = part["input_ids"].flatten(0, 1), part["attention_mask"].flatten(0, 1).bool()

    tokens = model.vision_encoder.encode(pixels).tokens
    videos = mean_over_frames(model.embed_video(model.vision_encoder.pool(tokens, frames=pixels.shape[2])))
    text = model.text_encoder.encode(ids, is_token)
    similarity = torch.einsum("qc,qoc->qo", videos, model.embed_text(text).unflatten(0, (questions, options)))
    rows = torch.arange(questions).repeat_interleave(options)
    match = model.match(model.text_encoder.fuse(text, is_token, tokens, rows)).unflatten(0, (questions, options))
    scores = choice_scores(similarity, match, temperature=model.temperature())

    torch.testing.assert_close(similarity, part["similarity"], **EXACT)
    torch.testing.assert_close(match, part["match"], **EXACT)
    torch.testing.assert_close(scores, part["score"], **EXACT)
    assert torch.equal(scores.argmax(dim=1), part["chosen"])
    assert 100 * choice_accuracy(scores, part["answers"]) == pytest.approx(part["accuracy"], abs=0.005)


def test_given_logits_choose_as_published(golden: Golden) -> None:
    file = golden("multiple_choice.pt")
    given = file["given"]
    scores = choice_scores(given["similarity"], given["match"], temperature=file["cfg"]["temp"])
    torch.testing.assert_close(scores, given["score"], **EXACT)
    assert torch.equal(scores.argmax(dim=1), given["chosen"])
    assert 100 * choice_accuracy(scores, given["answers"]) == pytest.approx(given["accuracy"], abs=0.005)

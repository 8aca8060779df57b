"""Multiple choice gives what the published function gives, for a tiny model and for given logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from umt_ds.batch import Tokens
from umt_ds.evaluation.encode import EncodedSet
from umt_ds.evaluation.metrics.multiple_choice import choice_accuracy, choice_scores
from umt_ds.evaluation.multiple_choice import Answered, AnsweredSet
from umt_ds.models.bert import Bert
from umt_ds.models.presets import BertSize, VitSize, bert_size, vit_size
from umt_ds.models.video_text import VideoEncoder, VideoTextModel, mean_over_frames
from umt_ds.models.vit import VideoViT
from umt_ds.tasks.video_text.choice import Comparing, SeenVideos
from umt_ds.weights.load import load_strict
from umt_ds.weights.published import video_text_state

Golden = Callable[[str], Any]
Keys = Callable[..., dict[str, tuple[int, ...]]]
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
    load_strict(model, video_text_state(state), where="golden file")
    return model


@torch.no_grad()
def test_a_model_chooses_as_published(golden: Golden) -> None:
    file = golden("multiple_choice.pt")
    part = file["model"]
    model = published_model(file["cfg"], part["state"])
    pixels, (questions, options) = part["videos"].transpose(1, 2), part["input_ids"].shape[:2]
    texts = Tokens(part["input_ids"].flatten(0, 1), part["attention_mask"].flatten(0, 1).bool())

    tokens = model.vision_encoder.encode(pixels).tokens
    videos = mean_over_frames(model.embed_video(model.vision_encoder.pool(tokens, frames=pixels.shape[2])))
    rows = torch.arange(questions).repeat_interleave(options)
    comparing = Comparing(model)
    pairs = comparing.compare(SeenVideos(tokens, videos), texts, rows)
    similarity, match = (each.unflatten(0, (questions, options)) for each in pairs)
    answered = tuple(Answered(*said) for said in zip(similarity, match, strict=True))
    scores = AnsweredSet(EncodedSet((), (), {}), answered, comparing.temperature).scores()

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


@pytest.mark.parametrize("size", ["base", "large"])
def test_names_and_shapes_of_retrieval_are_those_of_published_fine_tuned_files(published_keys: Keys, size: str) -> None:
    """Those of stage 2 without teacher, decoders and word head, and without `bert.` (METHOD.md, "Files of weights")."""
    left = ("clip_teacher.", "vision_encoder.clip_decoder.", "text_encoder.cls.")
    listed = published_keys(f"keys_stage2_{size}.txt")
    published = {
        key.replace("text_encoder.bert.", "text_encoder."): torch.empty(shape, device="meta")
        for key, shape in listed.items()
        if not key.startswith(left)
    }
    vit, bert, fusion, width = {
        "base": (vit_size("vit_b16"), bert_size("bert_base"), 3, 512),
        "large": (vit_size("vit_l16"), bert_size("bert_large"), 5, 768),
    }[size]
    with torch.device("meta"):
        text = Bert(bert, fusion_layers=fusion, video_width=vit.width, word_head=False)
        vision = VideoEncoder(VideoViT(vit), out_width=1, layers=0, interval=1.0, norm="none")
        own = VideoTextModel(vision, text, embed_width=width).state_dict()
    found = {key: tuple(value.shape) for key, value in video_text_state(published).items()}
    assert found == {key: tuple(value.shape) for key, value in own.items()}

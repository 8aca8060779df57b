"""Re-ranked scores are the published ones: which pairs are scored, their logits, -100 elsewhere, and what is found.

Every size comes from the file itself, so that another file of the same form is judged unedited.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from tests.golden.test_retrieval_ranks import check_numbers, right_of
from umt_ds.batch import Tokens
from umt_ds.data.evaluation import EvalBatch, EvaluationSet, ItemInfo
from umt_ds.evaluation.encode import ALONE, no_beat
from umt_ds.evaluation.metrics.reranking import (
    NOT_SCORED,
    Candidates,
    candidates_of,
    reranked,
    scores_of_texts,
    scores_of_videos,
)
from umt_ds.evaluation.metrics.retrieval import similarity
from umt_ds.evaluation.reranking import Chunks, Reranker, encode_all_texts
from umt_ds.models.bert import Bert
from umt_ds.models.presets import BertSize, VitSize
from umt_ds.models.video_text import VideoEncoder, VideoTextModel
from umt_ds.models.vit import VideoViT
from umt_ds.tasks.video_text.retriever import Retriever
from umt_ds.weights.load import load_strict
from umt_ds.weights.published import video_text_state

Golden = Callable[[str], Any]
CASES = [("retrieval_multi.pt", "model_captions"), ("retrieval_multi.pt", "model_videos"), ("retrieval_eval.pt", "")]
CLOSE = {"rtol": 0, "atol": 1e-5}


class InMemory(EvaluationSet):
    """Normalised videos [V,T,3,H,W] of a golden file, which are not pixels of bytes."""

    def __init__(self, videos: Tensor, batch_size: int) -> None:
        self.videos, self.batch_size, self._places = videos.transpose(1, 2), batch_size, range(len(videos))
        self._source: Any = SimpleNamespace(close=lambda: None)

    def batch(self, number: int) -> EvalBatch:
        places = self._places[number * self.batch_size :][: self.batch_size]
        items = tuple(ItemInfo(place, f"{place}", 0, None, (), (), (place,), None) for place in places)
        return EvalBatch(items, self.videos[list(places)]) if places else self.empty_batch()

    def empty_batch(self) -> EvalBatch:
        return EvalBatch((), torch.zeros_like(self.videos[:1]))


def fine_tuned(file: Any) -> VideoTextModel:
    """Fine-tuned files hold the text encoder without `bert.`, and no word head."""
    ve, bert = file["cfg"]["ve"], file["cfg"]["bert"]
    vit = VitSize(ve["encoder_embed_dim"], ve["encoder_depth"], ve["encoder_num_heads"], ve["patch_size"])
    size = BertSize(
        width=bert["hidden_size"],
        layers=bert["num_hidden_layers"],
        heads=bert["num_attention_heads"],
        hidden=bert["intermediate_size"],
        vocab_size=bert["vocab_size"],
        max_tokens=bert["max_position_embeddings"],
    )
    vision = VideoEncoder(VideoViT(vit), out_width=ve["clip_output_dim"], layers=0, interval=1.0, norm="l2")
    fusion_layers = bert["num_hidden_layers"] - bert["fusion_layer"]
    text = Bert(size, fusion_layers=fusion_layers, video_width=vit.width, word_head=False)
    model = VideoTextModel(vision, text, embed_width=file["cfg"]["embed_dim"])
    named = video_text_state(file["state"]).items()
    state = {re.sub(r"^text_encoder\.(?!bert\.)", "text_encoder.bert.", key): value for key, value in named}
    load_strict(model, state, where="a fine-tuned file")
    return model.eval()


class OfNormalised(Retriever):
    """Reads [B,3,T,H,W], normalised, where ours reads bytes [B,T,H,W,3]."""

    def embed_videos(self, pixels: Tensor) -> Tensor:
        pooled = self._model.vision_encoder.pool(self.encode_videos(pixels), frames=pixels.shape[2])
        return self._model.embed_video(pooled)


class Found(NamedTuple):
    part: Any
    similar: Tensor
    candidates: Candidates
    scores: Tensor


@pytest.fixture(params=CASES, ids=lambda case: " ".join(case))
def found(request: pytest.FixtureRequest, golden: Golden) -> Found:
    name, key = request.param
    part = golden(name)[key] if key else golden(name)
    model = OfNormalised(fine_tuned(part), frames=1, side=1, antialias=False, tokenizer=None)  # type: ignore[arg-type]
    ids = part["input_ids"]
    mask = part["attention_mask"].bool() if "attention_mask" in part else ids != 0
    batches = [Tokens(*some) for some in zip(ids.split(4), mask.split(4), strict=True)]
    items = InMemory(part["videos"], batch_size=2)
    videos = torch.cat([model.embed_videos(items.batch(n).pixels) for n in range(items.turns(1))])
    similar = similarity(videos, torch.cat([model.embed_texts(batch) for batch in batches]))
    candidates = candidates_of(similar, k=part["cfg"]["k_test"])
    texts = encode_all_texts(model, batches, ALONE, device=torch.device("cpu"), beat=no_beat)
    chunks = Chunks(candidates, videos=2, together=3)
    scores = Reranker(model, texts, items, range(len(videos)), chunks).scores(ALONE, beat=no_beat)
    return Found(part, similar, candidates, scores)


def test_similarities_are_the_published_ones(found: Found) -> None:
    torch.testing.assert_close(found.similar, found.part["i2t"], **CLOSE)
    torch.testing.assert_close(found.similar.T, found.part["t2i"], **CLOSE)


def test_the_same_pairs_have_the_published_scores(found: Found) -> None:
    ways = ((scores_of_videos, found.part["i2t_x"]), (scores_of_texts, found.part["t2i_x"].T))
    for scores_of, theirs in ways:
        ours = scores_of(found.candidates, found.scores)
        assert torch.equal(ours == NOT_SCORED, theirs == NOT_SCORED)
        torch.testing.assert_close(ours, theirs, **CLOSE)


def test_re_ranked_numbers_are_the_published_ones(found: Found) -> None:
    num_videos = len(found.part["videos"])
    captions = found.part.get("videos_of_caption") or [[video] for video in range(num_videos)]
    right = right_of(captions, num_videos)
    of_videos = scores_of_videos(found.candidates, found.scores)
    of_texts = scores_of_texts(found.candidates, found.scores)
    check_numbers(of_videos, of_texts, right, found.part["metrics"])
    ranks = reranked(found.candidates, found.scores, right)
    for row, own, ours in ((of_videos, right, ranks.of_videos), (of_texts.T, right.T, ranks.of_texts)):
        theirs = [written_out(one, mine) for one, mine in zip(row.tolist(), own.tolist(), strict=True)]
        assert ours.tolist() == theirs


def written_out(scores: list[float], right: list[bool]) -> int:
    best = max(score for score, own in zip(scores, right, strict=True) if own)
    return sum(score >= best for score, own in zip(scores, right, strict=True) if not own)

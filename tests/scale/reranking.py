"""What re-ranking of 10,000 videos and 10,000 captions takes, 128 candidates each, on one core.

tiny        a whole model with a width of 16: what 2 million pairs cost beside the model
B/16        tensors of the sizes of B/16 at 12 frames, filled and not computed: what memory they take
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tests.support.shards import picture, write_shards
from tests.support.stage2 import WORDS
from umt_ds.batch import Tokens
from umt_ds.data.clip_request import ClipRequest, middle_frames
from umt_ds.data.evaluation import EvaluationSet
from umt_ds.evaluation.encode import ALONE
from umt_ds.evaluation.retrieval import Rerank, RetrievalEvaluator
from umt_ds.models.bert import Bert, Looked
from umt_ds.models.presets import BertSize, VitSize
from umt_ds.models.video_text import VideoEncoder, VideoTextModel
from umt_ds.models.vit import VideoViT
from umt_ds.tasks.video_text.retriever import Retriever

NUM, FRAMES, SIDE, MAX_TOKENS, EMBEDDED = 10_000, 12, 16, 32, 512


def reranking(folder: Path) -> Iterator[str]:
    """A process for each model, so that the peak is its own."""
    shards = write_shards(folder / "set", [1000] * (NUM // 1000), members=_clip)
    yield f"{'model':<8}{'peak, GB':>10}{'core s':>10}{'pairs':>12}{'pairs/s':>10}"
    for name, model_of in {"tiny": _tiny, "B/16": _OfSizes}.items():
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            peak, seconds, pairs = pool.apply(_measure, (shards, model_of))
        yield f"{name:<8}{peak:>10.2f}{seconds:>10,.0f}{pairs:>12,}{pairs / seconds:>10,.0f}"


def _clip(number: int) -> dict[str, bytes]:
    noise = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    caption = " ".join(str(1 + (number * place) % 34) for place in range(1, 8 + number % (MAX_TOKENS - 8)))
    return {"000.png": picture(noise), "json": json.dumps({"caption": [f"{number} {caption}"]}).encode()}


def _measure(shards: Path, model_of: Callable[[], Retriever | _OfSizes]) -> tuple[float, float, int]:
    """Peak memory in GB, seconds of a core, pairs."""
    torch.set_num_threads(1)
    model = model_of()
    request = ClipRequest(middle_frames(FRAMES), SIDE, view="stretched", antialias=False, caption_field="caption")
    items = EvaluationSet(shards, request, batch_size=16)
    rerank = Rerank(lambda _: model, candidates=128, pairs=64)
    evaluator = RetrievalEvaluator("val", items, lambda _: model, _words, rerank=rerank)
    started = time.process_time()
    found = evaluator.run(nn.Linear(1, 1), ALONE, beat=lambda: None)
    seconds = time.process_time() - started
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, seconds, found.protocol["num_pairs"]


def _words(captions: list[str]) -> Tokens:
    """A token a word, which is a number."""
    rows = [[WORDS.cls_id, *(5 + int(word) % 35 for word in caption.split())][:MAX_TOKENS] for caption in captions]
    ids = torch.tensor([row + [WORDS.pad_id] * (MAX_TOKENS - len(row)) for row in rows])
    return Tokens(ids, ids != WORDS.pad_id)


def _tiny() -> Retriever:
    torch.manual_seed(0)
    vision = VideoEncoder(VideoViT(VitSize(width=16, depth=1, heads=2, patch=8)), out_width=1, layers=0, interval=1.0,
                          norm="l2")  # fmt: skip
    size = BertSize(width=16, layers=2, heads=2, hidden=32, vocab_size=40, max_tokens=MAX_TOKENS)
    text = Bert(size, fusion_layers=1, video_width=16, word_head=False)
    model = VideoTextModel(vision, text, embed_width=EMBEDDED).eval()
    return Retriever(model, frames=FRAMES, side=SIDE, antialias=False, tokenizer=None)  # type: ignore[arg-type]


class _OfSizes:
    """`Matches` and `Embeds` with the tensors of B/16, and next to no arithmetic."""

    def __init__(self) -> None:
        self._random = torch.Generator().manual_seed(0)

    def embed_videos(self, pixels: Tensor) -> Tensor:
        return nn.functional.normalize(torch.randn(len(pixels), FRAMES, EMBEDDED, generator=self._random), dim=-1)

    def embed_texts(self, tokens: Tokens) -> Tensor:
        return nn.functional.normalize(torch.randn(len(tokens.ids), EMBEDDED, generator=self._random), dim=-1)

    def encode_texts(self, tokens: Tokens) -> Tensor:
        return torch.ones(*tokens.ids.shape, 768)

    def encode_videos(self, pixels: Tensor) -> Tensor:
        return torch.ones(len(pixels), FRAMES * 196, 768)

    def look(self, video: Tensor) -> Sequence[Looked]:
        return [Looked(video, video)]

    def match(self, states: Tensor, is_token: Tensor, looked: Sequence[Looked]) -> Tensor:
        return states[:, 0].sum(dim=1) + is_token.sum(dim=1) + looked[0].key[0, 0, 0]

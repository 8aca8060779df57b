"""The published forward of retrieval, re-ranking, question answering and multiple choice, one pair at a time.

Written from the paper and its released code, with nothing of `umt_ds`: one video, one text, one answer in each call, no
padding, no batches. So it is slow, and an oracle for what works in batches, chunks and ranks. A state dict has the
published names (of stage 2 or of fine-tuned files); sizes are those of its tensors, heads are given.

Shapes: T frames of H x W pixels, N tokens of a video, L tokens of a text, D and W widths of video and text, C width of
the common space.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
UNSCORED = -100.0


@dataclass(frozen=True)
class PlainModel:
    """Weights by name, heads of both transformers, and the first layer of BERT that fuses."""

    state: Mapping[str, Tensor]
    vit_heads: int
    text_heads: int
    fusion_layer: int

    # ------------------------------------------------------------ video

    def video(self, frames: Tensor) -> Tensor:
        """Normalised frames f32 [T,3,H,W] to tokens [N,D]."""
        weight = self.state["vision_encoder.encoder.patch_embed.proj.weight"][:, :, 0]
        bias = self.state["vision_encoder.encoder.patch_embed.proj.bias"]
        patches = [F.conv2d(frame[None], weight, bias, stride=weight.shape[-1])[0].flatten(1).T for frame in frames]
        x = torch.cat(patches)
        x = x + sinusoid(len(x), x.shape[1])
        block = 0
        while f"vision_encoder.encoder.blocks.{block}.norm1.weight" in self.state:
            x = self._block(f"vision_encoder.encoder.blocks.{block}", x)
            block += 1
        return self._norm("vision_encoder.encoder.norm", x, 1e-6)

    def _block(self, name: str, x: Tensor) -> Tensor:
        y = self._norm(f"{name}.norm1", x, 1e-6)
        query, key, value = (y @ self.state[f"{name}.attn.qkv.weight"].T).chunk(3, dim=1)
        query, value = query + self.state[f"{name}.attn.q_bias"], value + self.state[f"{name}.attn.v_bias"]
        x = x + self._linear(f"{name}.attn.proj", attend(query, key, value, self.vit_heads))
        y = self._norm(f"{name}.norm2", x, 1e-6)
        return x + self._linear(f"{name}.mlp.fc2", F.gelu(self._linear(f"{name}.mlp.fc1", y)))

    # ------------------------------------------------------------ text

    def text(self, ids: Sequence[int]) -> Tensor:
        """A text without padding to states [L,W], by the layers below fusion."""
        x = self._embedded("text_encoder", ids)
        for layer in range(self.fusion_layer):
            x = self._bert_layer(f"{self._bert('text_encoder')}encoder.layer.{layer}", x)
        return x

    def fused(self, text: Tensor, video: Tensor) -> Tensor:
        """States of a text that looked at a video: [L,W]."""
        layer = self.fusion_layer
        while f"{self._bert('text_encoder')}encoder.layer.{layer}.output.dense.weight" in self.state:
            text = self._bert_layer(f"{self._bert('text_encoder')}encoder.layer.{layer}", text, seen=video)
            layer += 1
        return text

    def _bert(self, part: str) -> str:
        return f"{part}.bert." if any(key.startswith(f"{part}.bert.") for key in self.state) else f"{part}."

    def _embedded(self, part: str, ids: Sequence[int]) -> Tensor:
        name = f"{self._bert(part)}embeddings"
        x = self.state[f"{name}.word_embeddings.weight"][list(ids)]
        x = x + self.state[f"{name}.token_type_embeddings.weight"][0]
        x = x + self.state[f"{name}.position_embeddings.weight"][: len(ids)]
        return self._norm(f"{name}.LayerNorm", x, 1e-12)

    def _bert_layer(self, name: str, x: Tensor, *, seen: Tensor | None = None, causal: bool = False) -> Tensor:
        x = self._bert_attention(f"{name}.attention", x, x, causal=causal)
        if seen is not None:
            x = self._bert_attention(f"{name}.crossattention", x, seen)
        y = self._linear(f"{name}.output.dense", F.gelu(self._linear(f"{name}.intermediate.dense", x)))
        return self._norm(f"{name}.output.LayerNorm", y + x, 1e-12)

    def _bert_attention(self, name: str, x: Tensor, seen: Tensor, *, causal: bool = False) -> Tensor:
        query = self._linear(f"{name}.self.query", x)
        key, value = self._linear(f"{name}.self.key", seen), self._linear(f"{name}.self.value", seen)
        y = self._linear(f"{name}.output.dense", attend(query, key, value, self.text_heads, causal=causal))
        return self._norm(f"{name}.output.LayerNorm", y + x, 1e-12)

    # ------------------------------------------------------------ comparing

    def similarity(self, video: Tensor, text: Tensor, *, frames: int) -> float:
        """The mean over frames of the products of unit vectors, temperature 1."""
        caption = F.normalize(self._linear("text_proj", text[:1]), dim=1)[0]
        found = []
        for frame in video.chunk(frames):
            pooled = self._norm("vision_encoder.pool_norm", frame.mean(dim=0, keepdim=True), 1e-6)
            found.append(float(F.normalize(self._linear("vision_proj", pooled), dim=1)[0] @ caption))
        return sum(found) / frames

    def match(self, video: Tensor, text: Tensor) -> Tensor:
        """Logits f32 [2] of a text (of `text`) and a video; class 1: they match."""
        return self._linear("itm_head", self.fused(text, video)[:1])[0]

    # ------------------------------------------------------------ answering

    def question(self, ids: Sequence[int], video: Tensor) -> Tensor:
        """States [L,W] of a question that looked at its video."""
        return self.fused(self.text(ids), video)

    def words_after(self, ids: Sequence[int], question: Tensor) -> Tensor:
        """Log probabilities [L,V] of the word behind each token of an answer."""
        x = self._embedded("text_decoder", ids)
        name, layer = self._bert("text_decoder"), 0
        while f"{name}encoder.layer.{layer}.output.dense.weight" in self.state:
            x = self._bert_layer(f"{name}encoder.layer.{layer}", x, seen=question, causal=True)
            layer += 1
        head = "text_decoder.cls.predictions"
        x = self._norm(f"{head}.transform.LayerNorm", F.gelu(self._linear(f"{head}.transform.dense", x)), 1e-12)
        words = self.state[f"{name}embeddings.word_embeddings.weight"]
        return (x @ words.T + self.state[f"{head}.bias"]).log_softmax(dim=1)

    def answer_loss(self, ids: Sequence[int], question: Tensor) -> float:
        """Sum over the tokens of an answer, `[CLS] … [SEP]` cut to its length, of minus the log of its probability."""
        after = self.words_after(ids[:-1], question)
        return -sum(float(after[place, word]) for place, word in enumerate(ids[1:]))

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def _norm(self, name: str, x: Tensor, eps: float) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.state[f"{name}.weight"], self.state[f"{name}.bias"], eps)


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, *, causal: bool = False) -> Tensor:
    """[L,W] over [M,W], head by head."""
    found = []
    for q, k, v in zip(query.chunk(heads, 1), key.chunk(heads, 1), value.chunk(heads, 1), strict=True):
        scores = q @ k.T / math.sqrt(q.shape[1])
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
        found.append(scores.softmax(dim=1) @ v)
    return torch.cat(found, dim=1)


def sinusoid(tokens: int, width: int) -> Tensor:
    """The table of positions, number by number."""
    angles = [[p / 10000 ** (2 * (j // 2) / width) for j in range(width)] for p in range(tokens)]
    return torch.tensor([[math.sin(a) if j % 2 == 0 else math.cos(a) for j, a in enumerate(row)] for row in angles])


def normalised(pixels: Tensor) -> Tensor:
    """u8 [T,H,W,3] to f32 [T,3,H,W]."""
    return ((pixels.float() / 255 - MEAN) / STD).permute(0, 3, 1, 2)


# ---------------------------------------------------------------- what is asked of the pairs


def reranked(similarity: Sequence[Sequence[float]], match: Sequence[Sequence[float]], *, k: int) -> list[list[float]]:
    """Of each row the k most similar by their matching logits, all else at -100. Rows: queries; k beyond a row: all."""
    found = []
    for row, logits in zip(similarity, match, strict=True):
        nearest = set(sorted(range(len(row)), key=lambda place: -row[place])[:k])
        found.append([logits[place] if place in nearest else UNSCORED for place in range(len(row))])
    return found


def ranks(scores: Sequence[Sequence[float]], right: Sequence[set[int]]) -> list[int]:
    """How many wrong ones do not come behind the best right one, for each query."""
    found = []
    for row, own in zip(scores, right, strict=True):
        best = max(row[place] for place in own)
        found.append(sum(1 for place, score in enumerate(row) if place not in own and score >= best))
    return found


def recall(found: Sequence[int], k: int) -> float:
    """Percent of the queries whose right one is among the first k."""
    return 100 * sum(1 for rank in found if rank < k) / len(found)


def ranked_answers(
    model: PlainModel, answers: Sequence[Sequence[int]], question: Tensor, *, k: int
) -> list[tuple[int, float]]:
    """(place in the list, probability among the k) of the k answers whose first piece is likeliest, best first."""
    after = model.words_after(answers[0][:1], question)[0]
    first = [float(after[ids[1]]) for ids in answers]
    kept = sorted(range(len(answers)), key=lambda place: -first[place])[:k]
    scores = [first[place] - model.answer_loss(answers[place], question) for place in kept]
    largest = max(scores)
    total = sum(math.exp(score - largest) for score in scores)
    shares = [(place, math.exp(score - largest) / total) for place, score in zip(kept, scores, strict=True)]
    return sorted(shares, key=lambda one: -one[1])


def choices(similarity: Sequence[float], match: Sequence[Tensor], *, temperature: float) -> list[float]:
    """.7 of the probability to match and .3 of the softmax over the similarities."""
    largest = max(similarity)
    near = [math.exp((one - largest) / temperature) for one in similarity]
    matches = [float(1 / (1 + torch.exp(logits[0] - logits[1]))) for logits in match]
    return [0.7 * m + 0.3 * n / sum(near) for m, n in zip(matches, near, strict=True)]

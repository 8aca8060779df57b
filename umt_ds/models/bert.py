"""BERT in two halves: lower layers read text, upper layers cross-attend to a video. The door to transformers' BERT.

The parts (embeddings, projections, feed-forward, head) are transformers' own, under the published names; how they are
run is here, because keys and values of a video are made once for all texts that look at it, and because attention goes
through our door. (transformers' own layers, seen in 5.23, turn causal without padding when they are given
cross-attention.) A test holds whole passes against transformers' models.

Shapes: R texts, L tokens, W width, A heads, B videos (or images), N tokens of each, D width of the video, V words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.models.bert import modeling_bert as hugging_face
from transformers.models.bert.configuration_bert import BertConfig

from umt_ds.errors import ConfigError
from umt_ds.kernels.attention import attention
from umt_ds.models.presets import BertSize

# they are typed by half
Embeddings: Any = hugging_face.BertEmbeddings
Layer: Any = hugging_face.BertLayer
Transform: Any = hugging_face.BertPredictionHeadTransform


class WordHead(nn.Module):
    """Which word stands here: transformers' transform, then the word embeddings themselves, and a bias."""

    def __init__(self, size: BertSize) -> None:
        super().__init__()
        self.transform: Any = Transform(_settings(size, dropout=0.0))
        self.bias = nn.Parameter(torch.zeros(size.vocab_size))

    def forward(self, x: Tensor, words: Tensor) -> Tensor:
        """[M,W] with word embeddings [V,W] to logits [M,V]."""
        return F.linear(self.transform(x), words, self.bias)


def bert_parts(size: BertSize, *, fusion_layers: int, video_width: int, dropout: float) -> nn.ModuleDict:
    """transformers' embeddings and layers under their published names: `embeddings`, `encoder.layer`.

    The last `fusion_layers` have cross-attention, with keys and values made of `video_width`.
    """
    config = _settings(size, dropout=dropout)
    layers = [Layer(config) for _ in range(size.layers - fusion_layers)]
    # `is_decoder` gives a layer its cross-attention; what else it changes lies in a forward that is not ours
    crossing = _settings(size, dropout=dropout, is_decoder=True, add_cross_attention=True)
    for _ in range(fusion_layers):
        layer = Layer(crossing)
        layer.crossattention.self.key = nn.Linear(video_width, size.width)
        layer.crossattention.self.value = nn.Linear(video_width, size.width)
        layers.append(layer)
    encoder = nn.ModuleDict({"layer": nn.ModuleList(layers)})
    return nn.ModuleDict({"embeddings": Embeddings(config), "encoder": encoder})


def _settings(size: BertSize, *, dropout: float, **more: Any) -> Any:
    config: Any = BertConfig(
        vocab_size=size.vocab_size,
        hidden_size=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=size.hidden,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        max_position_embeddings=size.max_tokens,
        **more,
    )
    config._attn_implementation = "eager"  # their own attention, where somebody calls it
    return config


class Seen(NamedTuple):
    """What texts cross-attend to. states: [B,N,D], tokens of videos or states of other texts. rows: i64 [R], text r
    looks at states[rows[r]]; None: R = B. is_key: bool [B,N], False where a state is padding; None: all count."""

    states: Tensor
    rows: Tensor | None = None
    is_key: Tensor | None = None


class Looked(NamedTuple):
    """Keys and values of one video in one layer, made once for all texts that look at it: [1,N,W] each."""

    key: Tensor
    value: Tensor


def run_layer(
    layer: Any,
    x: Tensor,
    *,
    heads: int,
    dropout: float,
    is_token: Tensor | None = None,
    causal: bool = False,
    seen: Seen | Looked | None = None,
) -> Tensor:
    """Self-attention, cross-attention where there is something to see, feed-forward; each with its residual and norm.

    x: [R,L,W]. dropout: of attention weights, 0 outside training. is_token: bool [R,L], False where a token is padding.
    causal: a token sees itself and those before it.
    """
    own = layer.attention.self
    mixed = _attend(own, x, own.key(x), own.value(x), heads=heads, dropout=dropout, is_key=is_token, causal=causal)
    x = layer.attention.output(mixed, x)
    if seen is not None:
        x = layer.crossattention.output(_look(layer.crossattention.self, x, seen, heads=heads, dropout=dropout), x)
    out: Tensor = layer.output(layer.intermediate(x), x)
    return out


def _look(cross: Any, x: Tensor, seen: Seen | Looked, *, heads: int, dropout: float) -> Tensor:
    """Cross-attention of x [R,L,W] to what is seen: [R,L,W]."""
    if isinstance(seen, Looked):  # all tokens of all texts are queries of one sequence: nothing is copied for a text
        tokens = x.flatten(0, 1)[None]
        return _attend(cross, tokens, *seen, heads=heads, dropout=dropout, is_key=None).view_as(x)
    key, value, is_key = cross.key(seen.states), cross.value(seen.states), seen.is_key  # [B,N,W]
    if seen.rows is not None:
        key, value = key[seen.rows], value[seen.rows]  # [R,N,W]
        is_key = None if is_key is None else is_key[seen.rows]
    return _attend(cross, x, key, value, heads=heads, dropout=dropout, is_key=is_key)


def _attend(
    part: Any,
    x: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    heads: int,
    dropout: float,
    is_key: Tensor | None,
    causal: bool = False,
) -> Tensor:
    """Queries of x [R,L,W] over keys and values [R,M,W]: [R,L,W]."""
    query, key, value = (y.unflatten(-1, (heads, -1)) for y in (part.query(x), key, value))
    return attention(query, key, value, is_key=is_key, causal=causal, dropout=dropout).flatten(2)


class Bert(nn.Module):
    """Text encoder, fusion encoder and word head; `bert.…` and `cls.…` as in published checkpoints.

    Source: METHOD.md, "Stage 2: model", "Names of weights".

    The last `fusion_layers` layers have cross-attention to videos of `video_width`. dropout: of states and of attention
    weights, in training. checkpoint_layers: recompute the activations of the first n layers in the backward pass.
    word_head: False leaves out `cls`, as fine-tuned models do, and `words` with it.
    Raises ConfigError where no layer is left to read text.
    """

    def __init__(
        self,
        size: BertSize,
        *,
        fusion_layers: int,
        video_width: int,
        dropout: float = 0.1,
        checkpoint_layers: int = 0,
        word_head: bool = True,
    ) -> None:
        super().__init__()
        if not 0 < fusion_layers < size.layers:
            raise ConfigError(
                f"fusion_layers={fusion_layers} leaves none of {size.layers} layers to read text",
                hint=f"1 to {size.layers - 1}; published: 3 of 12, 5 of 24",
            )
        self.size = size
        self.text_layers = size.layers - fusion_layers
        self.dropout = dropout
        self.checkpoint_layers = checkpoint_layers
        # a door of Any: module dicts are typed by half
        self.bert: Any = bert_parts(size, fusion_layers=fusion_layers, video_width=video_width, dropout=dropout)
        self.has_word_head = word_head
        if word_head:
            self.cls: Any = nn.ModuleDict({"predictions": WordHead(size)})
        self.apply(initialise)

    def drop_word_head(self) -> None:
        """Leave out `cls` from now on, as `word_head=False` does from the start."""
        if self.has_word_head:
            del self.cls
        self.has_word_head = False

    @property
    def layers(self) -> Any:
        """All layers, text first."""
        return self.bert["encoder"]["layer"]

    def encode(self, ids: Tensor, is_token: Tensor) -> Tensor:
        """Text alone, through the lower layers. ids i64 [R,L], is_token bool [R,L] (False: padding) to [R,L,W]."""
        x: Tensor = self.bert["embeddings"](ids)
        for index in range(self.text_layers):
            x = self._run(index, x, is_token)
        return x

    def fuse(self, text: Tensor, is_token: Tensor, video: Tensor, rows: Tensor | None = None) -> Tensor:
        """Encoded text [R,L,W] looks at videos [B,N,D], text r at video rows[r] (i64 [R]; None: R = B): [R,L,W]."""
        for index in range(self.text_layers, self.size.layers):
            text = self._run(index, text, is_token, video, rows)
        return text

    def look(self, video: Tensor) -> tuple[Looked, ...]:
        """Keys and values of one video [1,N,D] in each fusion layer, for `fuse_with`."""
        crossing = [layer.crossattention.self for layer in self.layers[self.text_layers :]]
        return tuple(Looked(cross.key(video), cross.value(video)) for cross in crossing)

    def fuse_with(self, text: Tensor, is_token: Tensor, looked: Sequence[Looked]) -> Tensor:
        """`fuse` of texts [R,L,W] that all look at one video; without gradients and dropout."""
        for layer, one in zip(self.layers[self.text_layers :], looked, strict=True):
            text = run_layer(layer, text, heads=self.size.heads, dropout=0.0, is_token=is_token, seen=one)
        return text

    def words(self, x: Tensor) -> Tensor:
        """States [M,W] to logits over the vocabulary [M,V]."""
        logits: Tensor = self.cls["predictions"](x, self.bert["embeddings"].word_embeddings.weight)
        return logits

    def _run(
        self, index: int, x: Tensor, is_token: Tensor, video: Tensor | None = None, rows: Tensor | None = None
    ) -> Tensor:
        run: Callable[..., Tensor] = self._layer
        if index < self.checkpoint_layers and torch.is_grad_enabled():
            out: Tensor = checkpoint(run, index, x, is_token, video, rows, use_reentrant=False)
            return out
        return run(index, x, is_token, video, rows)

    def _layer(self, index: int, x: Tensor, is_token: Tensor, video: Tensor | None, rows: Tensor | None) -> Tensor:
        seen = None if video is None else Seen(video, rows)
        dropout = self.dropout if self.training else 0.0
        return run_layer(self.layers[index], x, heads=self.size.heads, dropout=dropout, is_token=is_token, seen=seen)


def initialise(module: nn.Module) -> None:
    """BERT's own start: normal 0.02, biases 0, norms 1 and 0 (as they are made)."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            with torch.no_grad():
                module.weight[module.padding_idx].zero_()

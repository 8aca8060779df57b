"""How much arithmetic a clip costs, from the sizes alone. One multiply-add counts as two operations.

Norms, softmax, GELU and additions are left out, as is usual. Source of the formulas: METHOD.md, "Operations".

Letters: n tokens that attend to one another, d width.
"""

from __future__ import annotations

from dataclasses import dataclass

from umt_ds.models.presets import BertSize, VitSize


@dataclass(frozen=True)
class ClipFlops:
    """Operations of one clip in the forward pass, by part."""

    blocks: float
    patch_embed: float
    heads: float

    @property
    def forward(self) -> float:
        """The forward pass."""
        return self.blocks + self.patch_embed + self.heads

    @property
    def forward_backward(self) -> float:
        """Forward and backward: three times the forward, less the gradient of the pixels (never computed)."""
        return 3 * self.forward - self.patch_embed


def block_flops(size: VitSize, tokens: int) -> float:
    """One block over n tokens: (8 + 4·mlp_ratio)·n·d² for the Linears, 4·n²·d for attention."""
    return (8 + 4 * size.mlp_ratio) * tokens * size.width**2 + 4 * tokens**2 * size.width


def patch_embed_flops(size: VitSize, patches: int) -> float:
    """The embedding of RGB patches."""
    return 2.0 * patches * 3 * size.patch**2 * size.width


def student_flops_per_clip(
    size: VitSize, *, visible: int, layers: int, out_width: int, embedded: int | None = None
) -> ClipFlops:
    """The student with `layers` decoders over `visible` tokens. embedded: patches embedded, if more."""
    return ClipFlops(
        blocks=size.depth * block_flops(size, visible),
        patch_embed=patch_embed_flops(size, visible if embedded is None else embedded),
        heads=2.0 * layers * visible * size.width * out_width,
    )


def teacher_flops_per_clip(
    size: VitSize,
    *,
    frames: int,
    patches: int,
    layers: int,
    out_width: int,
    kept: int | None = None,
    prefix_tokens: int = 1,
    is_pooled: bool = False,
) -> ClipFlops:
    """The teacher, frame by frame over `patches` patches and its prefix tokens.

    kept: kept patches per frame where the last block runs on those alone (`TeacherPass.features`), but for its keys
    and values; None counts the whole last block. Projections run on kept patches only; out_width is 0 where there is
    none. is_pooled: the keys of a pooling head are made, for its attention to the tokens.
    """
    tokens = patches + prefix_tokens
    last = block_flops(size, tokens)
    if kept is not None:
        keys_and_values = 4 * tokens * size.width**2
        last = keys_and_values + (4 + 4 * size.mlp_ratio) * kept * size.width**2 + 4 * kept * tokens * size.width
    if is_pooled:
        last += 2 * tokens * size.width**2 + 2 * tokens * size.width
    projected = patches if kept is None else kept
    return ClipFlops(
        blocks=frames * ((size.depth - 1) * block_flops(size, tokens) + last),
        patch_embed=frames * patch_embed_flops(size, patches),
        heads=2.0 * frames * layers * projected * size.width * out_width,
    )


@dataclass(frozen=True)
class TextFlops:
    """Operations of one caption in the forward pass, by part, with the videos that it attends to."""

    encode: float
    fuse: float
    words: float

    @property
    def forward(self) -> float:
        """The forward pass."""
        return self.encode + self.fuse + self.words

    @property
    def forward_backward(self) -> float:
        """Three times the forward: embeddings are looked up."""
        return 3 * self.forward


def text_flops(
    size: BertSize,
    *,
    fusion_layers: int,
    tokens: int,
    video_tokens: int,
    video_width: int,
    texts: int,
    fused_texts: int,
    videos: int,
    masked_tokens: float,
) -> TextFlops:
    """BERT on one caption of `tokens`, padding included.

    Its lower layers run on `texts` versions of the caption (as it is, masked), its upper layers on `fused_texts`, each
    of which attends to a video of `video_tokens`. Keys and values are made of `videos` videos; `masked_tokens` are
    predicted. All four losses: 2 texts, 4 fused texts (a true pair, two negatives, the masked caption), 2 videos.

    A layer: 8·n·W² for self-attention's Linears, 4·n·W·hidden for the feed-forward part, 4·n²·W for attention; cross-
    attention adds 4·n·W² and 4·n·N·W, and 4·N·D·W for each video.
    """
    width, n = size.width, tokens
    layer = 8.0 * n * width**2 + 4 * n * width * size.hidden + 4 * n**2 * width
    cross = 4.0 * n * width**2 + 4 * n * video_tokens * width
    keys_and_values = 4.0 * video_tokens * video_width * width
    return TextFlops(
        encode=texts * (size.layers - fusion_layers) * layer,
        fuse=fusion_layers * (fused_texts * (layer + cross) + videos * keys_and_values),
        words=masked_tokens * (2 * width**2 + 2 * width * size.vocab_size),
    )

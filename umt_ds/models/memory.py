"""How many bytes a pass over one clip keeps or needs, from the sizes alone, as `flops.py` counts operations.

Attention is counted without its n·n matrix: `scaled_dot_product_attention` never stores it on the devices we train on.

Letters: n tokens that attend to one another, d width, C width of the teacher's output, c bytes of an element.
"""

from __future__ import annotations

from umt_ds.models.presets import BertSize, VitSize

_FP32 = 4


def block_bytes(size: VitSize, tokens: int, *, element: int) -> float:
    """What a block keeps for its backward: (8 + 2·mlp_ratio)·n·d·c.

    The input and output of both norms (4), q, k and v (3), the mixed values (1), the MLP before and after GELU.
    """
    return (8 + 2 * size.mlp_ratio) * tokens * size.width * element


def student_bytes_per_clip(
    size: VitSize, *, visible: int, layers: int, out_width: int, element: int, checkpoint_blocks: int = 0
) -> float:
    """What the student's forward keeps for its backward, targets included; `layers` decoders over `visible` tokens.

    A checkpointed block keeps its input alone; one at a time is whole again in the backward.
    """
    checkpointed = min(checkpoint_blocks, size.depth)
    whole = size.depth - checkpointed + (1 if checkpointed else 0)
    blocks = whole * block_bytes(size, visible, element=element) + checkpointed * visible * size.width * element
    patches = visible * 3 * size.patch**2 * element
    taps = 2 * layers * visible * size.width * element  # before and after the norm
    features = layers * visible * out_width * (element + 2 * _FP32)  # heads; unit vectors and targets
    return blocks + patches + taps + features


def teacher_bytes_per_clip(
    size: VitSize, *, frames: int, patches: int, layers: int, element: int, prefix_tokens: int = 1
) -> float:
    """The most the teacher holds at one time (it keeps nothing for a backward).

    Per token and width 14 values inside a block (input, norm, and QuickGELU's three of the MLP's width) and the
    outputs of the tapped blocks; and the frames as the tower sees them.
    """
    tokens = patches + prefix_tokens
    inside = (2 + 3 * size.mlp_ratio + layers - 1) * tokens * size.width
    return frames * element * (inside + patches * 3 * size.patch**2)


def text_bytes(
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
    element: int,
    checkpoint_layers: int = 0,
) -> float:
    """What BERT keeps of one caption for its backward; arguments as `flops.text_flops`.

    A layer, per token: q, k, v, the mixed values, inputs and outputs of both norms (8 widths), the feed-forward part
    before and after GELU. Cross-attention: 4 widths more, and keys and values of its video (2·N·W). Words:
    their logits, and these in fp32. A checkpointed layer keeps its input alone.
    """
    layer = (8 * size.width + 2 * size.hidden) * tokens * element
    cross = (4 * tokens + 2 * video_tokens) * size.width * element
    whole_text = max(0, size.layers - fusion_layers - checkpoint_layers)
    whole_fusion = min(fusion_layers, max(0, size.layers - checkpoint_layers))
    kept = texts * whole_text * layer + fused_texts * whole_fusion * (layer + cross)
    inputs = (
        texts * (size.layers - fusion_layers - whole_text) + fused_texts * (fusion_layers - whole_fusion)
    ) * tokens
    looked_at = videos * video_tokens * video_width
    words = masked_tokens * (size.vocab_size * (element + 2 * _FP32) + 3 * size.width * element)
    return kept + (inputs * size.width + looked_at) * element + words

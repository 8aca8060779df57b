"""How many bytes a pass over one clip keeps or needs, from the sizes alone: the twin of `flops.py`.

Attention is counted without its n·n matrix: `scaled_dot_product_attention` never stores it on the devices we train on.

Letters: n tokens that attend to one another, d width, C width of the teacher's output, c bytes of an element.
"""

from __future__ import annotations

from umt_ds.models.presets import VitSize

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

"""How much arithmetic a clip costs, from the sizes alone. One multiply-add counts as two operations.

Norms, softmax, GELU and additions are left out, as is usual. Source of the formulas: PEERS.md, 3.2.

Letters: n tokens that attend to one another, d width.
"""

from __future__ import annotations

from dataclasses import dataclass

from umt_ds.models.presets import VitSize


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
) -> ClipFlops:
    """The teacher, frame by frame over `patches` patches and the class token.

    kept: kept patches per frame where the last block runs on those alone (`TeacherPass.features`), but for its keys
    and values; None counts the whole last block. Projections run on kept patches only.
    """
    tokens = patches + prefix_tokens
    last = block_flops(size, tokens)
    if kept is not None:
        keys_and_values = 4 * tokens * size.width**2
        last = keys_and_values + (4 + 4 * size.mlp_ratio) * kept * size.width**2 + 4 * kept * tokens * size.width
    projected = patches if kept is None else kept
    return ClipFlops(
        blocks=frames * ((size.depth - 1) * block_flops(size, tokens) + last),
        patch_embed=frames * patch_embed_flops(size, patches),
        heads=2.0 * frames * layers * projected * size.width * out_width,
    )

"""The video transformer of every task: it sees the visible patches only and knows nothing of the objective.

Shapes: B clips, M masks of each (1 but for `mask.views`), T frames, N tokens of the whole clip, V visible tokens,
D width, K tapped blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from umt_ds.errors import ConfigError
from umt_ds.kernels.attention import Lengths
from umt_ds.kernels.philox import Purpose, uniform
from umt_ds.models.layers import IMAGENET, NORM_EPS, Block, PatchEmbed, PixelStatistics, initialise_linear
from umt_ds.models.positions import BaseClip, PositionRule, position_table
from umt_ds.models.presets import VitSize


class VitOutput(NamedTuple):
    """tokens [M·B,V,D]: the last block's output, normed. taps: K tapped outputs [M·B,V,D], by the same norm."""

    tokens: Tensor
    taps: tuple[Tensor, ...]


class Clips(NamedTuple):
    """What the transformer looks at: arguments of `VideoViT.forward`, of clips that are alike."""

    pixels: Tensor
    keep: Tensor | None = None
    drop_noise: Tensor | None = None


def tap_layers(depth: int, layers: int, interval: float = 1.0) -> tuple[int, ...]:
    """The blocks whose outputs are aligned, ascending: depth-1-floor(i·interval) for i in 0 … layers-1.

    Student and teacher share the rule, so the k-th of one is paired with the k-th of the other.
    Source: METHOD.md, "Aligned layers and decoders".
    Raises ConfigError where that is fewer than `layers` different blocks.
    """
    taps = sorted({depth - 1 - math.floor(i * interval) for i in range(layers)})
    if len(taps) != layers or layers < 1 or taps[0] < 0:
        raise ConfigError(
            f"{layers} layers at interval {interval} do not fit {depth} blocks",
            hint=f"an interval of at least 1, and at most {depth} layers",
        )
    return tuple(taps)


def drop_path_noise(seed: int, step: int, slots: Tensor, depth: int) -> Tensor:
    """The drop path draws of one forward pass: f32 [depth,2,B], keyed by (seed, step, slots i64 [B])."""
    noise = uniform(seed, step, slots, 2 * depth, Purpose.DROP_PATH)  # [B,2·depth]
    return noise.t().reshape(depth, 2, -1)


def branch_scales(drop_noise: Tensor, drop_path: float) -> Tensor:
    """What drop path multiplies the branches of each clip with: f32 [depth,2,B].

    0 where the draw is at or above the block's keep rate, else 1 / keep rate (as timm does).
    """
    keep_rate = _keep_rates(drop_path, len(drop_noise), drop_noise.device)
    return (drop_noise < keep_rate) / keep_rate


@lru_cache(maxsize=16)
def _keep_rates(drop_path: float, depth: int, device: torch.device) -> Tensor:
    """From 1 at the first block down to 1 - drop_path at the last: f32 [depth,1,1], kept on the device."""
    with torch.inference_mode(False):
        return (1 - torch.linspace(0, drop_path, depth, device="cpu"))[:, None, None].to(device)


class VideoViT(nn.Module):
    """A plain ViT with joint space-time attention over the visible tokens; no class token.

    drop_path: rate of the last block, rising linearly from 0 at the first.
    checkpoint_blocks: recompute the activations of the first n blocks in the backward pass.
    final_norm: False leaves out `norm` (fine-tuned classifiers norm the pooled token instead).
    base: of interpolated positions, the clip whose table is stretched.
    """

    def __init__(
        self,
        size: VitSize,
        *,
        drop_path: float = 0.0,
        checkpoint_blocks: int = 0,
        final_norm: bool = True,
        positions: PositionRule = "sincos",
        base: BaseClip = BaseClip(),  # noqa: B008  (immutable)
        statistics: PixelStatistics = IMAGENET,
    ) -> None:
        super().__init__()
        self.size = size
        self.drop_path = drop_path
        self.checkpoint_blocks = checkpoint_blocks
        self.positions: PositionRule = positions
        self.base = base
        self.patch_embed = PatchEmbed(width=size.width, patch=size.patch, statistics=statistics)
        self.blocks = nn.ModuleList(
            Block(width=size.width, heads=size.heads, mlp_ratio=size.mlp_ratio) for _ in range(size.depth)
        )
        self.norm = nn.LayerNorm(size.width, eps=NORM_EPS) if final_norm else nn.Identity()
        self.apply(initialise_linear)

    def forward(
        self,
        pixels: Tensor,
        *,
        keep: Tensor | None = None,
        taps: Sequence[int] = (),
        drop_noise: Tensor | None = None,
    ) -> VitOutput:
        """Embed the kept patches, run all blocks, norm the last output and each tapped one.

        pixels: uint8 [B,T,H,W,3] or normalised float [B,3,T,H,W]. keep: i64 [M·B,V], sorted, the M masks of a clip
        side by side; None keeps all. taps: ascending block numbers. drop_noise: f32 [depth,2,M·B] from
        `drop_path_noise`, for training. Raises ValueError in training with drop path but without noise.
        """
        x = self._embed(pixels, keep)  # [M·B,V,D]
        scales = self._branch_scales(drop_noise)
        return self._run(x, None if scales is None else scales[..., None, None], taps)

    def forward_packed(self, parts: Sequence[Clips], *, taps: Sequence[int] = ()) -> list[VitOutput]:
        """`forward` of several sets of clips, images among them, in one row of tokens without padding: the same
        outputs, from fewer and larger products."""
        embedded = [self._embed(part.pixels, part.keep) for part in parts]  # [B,V,D] each, of any V
        lengths = Lengths(tuple(x.shape[1] for x in embedded for _ in range(len(x))))
        scales = [self._branch_scales(part.drop_noise) for part in parts]  # [depth,2,B] each
        of_tokens = [
            clip_scales[..., None].expand(*clip_scales.shape, x.shape[1]).flatten(2)  # [depth,2,B·V]
            for clip_scales, x in zip(scales, embedded, strict=True)
            if clip_scales is not None
        ]
        row = torch.cat([x.flatten(0, 1) for x in embedded])  # [L,D]
        output = self._run(row, torch.cat(of_tokens, dim=2)[..., None] if of_tokens else None, taps, lengths)
        sizes = [x.shape[0] * x.shape[1] for x in embedded]
        split = [torch.split(out, sizes) for out in (output.tokens, *output.taps)]
        outputs = []
        for x, (tokens, *tapped) in zip(embedded, zip(*split, strict=True), strict=True):
            outputs.append(VitOutput(tokens.view_as(x), tuple(tap.view_as(x) for tap in tapped)))
        return outputs

    def looked_at(self, pixels: Tensor, *, block: int = -1, rows: Tensor | None = None) -> Tensor:
        """How much each patch of whole clips is looked at in a block, f32 [B,N]: see `Attention.looked_at`. pixels: as
        `forward` takes them. block: counted from 0, or from the end with -1."""
        number = range(len(self.blocks))[block]
        x = self._embed(pixels, None)
        for earlier in self.blocks[:number]:
            x = earlier(x)
        last: Any = self.blocks[number]
        looked: Tensor = last.attn.looked_at(last.norm1(x), rows)
        return looked

    def _embed(self, pixels: Tensor, keep: Tensor | None) -> Tensor:
        """The kept tokens at their places: [M·B,V,D]."""
        of_clip = None if keep is None else keep.reshape(len(pixels), -1)  # [B,M·V]
        x: Tensor = self.patch_embed(pixels, of_clip, self.position_table(pixels))  # [B,M·V,D]
        return x if keep is None else x.reshape(*keep.shape, -1)

    def _run(self, x: Tensor, scales: Tensor | None, taps: Sequence[int], lengths: Lengths | None = None) -> VitOutput:
        """All blocks, and the norm. x: [B,V,D] or [L,D]; scales: of each block, as `Block` takes them."""
        tapped = []
        for index, block in enumerate(self.blocks):
            of_block = None if scales is None else scales[index]
            if index < self.checkpoint_blocks and torch.is_grad_enabled():
                x = checkpoint(block, x, of_block, lengths, use_reentrant=False)
            else:
                x = block(x, of_block, lengths)
            if index in taps:
                tapped.append(x)
        tokens = self.norm(x)
        return VitOutput(tokens, tuple(tokens if tap is x else self.norm(tap) for tap in tapped))

    def position_table(self, pixels: Tensor) -> Tensor:
        """The position of each token of such a clip: f32 [N,D]."""
        frames, rows, cols = self.patch_embed.grid(pixels)
        return position_table(
            self.positions,
            frames=frames,
            rows=rows,
            cols=cols,
            width=self.size.width,
            patch=self.size.patch,
            device=pixels.device,
            base=self.base,
        )

    def _branch_scales(self, drop_noise: Tensor | None) -> Tensor | None:
        """f32 [depth,2,B]; None where nothing is dropped."""
        if not self.training or self.drop_path == 0.0:
            return None
        if drop_noise is None:
            raise ValueError("drop path in training needs drop_noise: see drop_path_noise(seed, step, slots, depth)")
        return branch_scales(drop_noise, self.drop_path)
